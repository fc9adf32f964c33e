"""Train a query adapter of any kind, and what becomes of it: a version of the index, and a tower of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from aisle.commands.adapt.embedded_parts import Parts
from aisle.commands.adapt.settings import AdaptSettings
from aisle.commands.adapt.towers import tower_of_index
from aisle.errors import ConfigError
from aisle.index import Manifest, SearchIndex
from aisle.index.adapt_index import AdapterToPublish, TrainedFunction
from aisle.index.manifest import TOWER_FOLDER, AdapterRecord
from aisle.index.query_adapter import QueryAdapter
from aisle.models.bi_encoder import BiEncoder
from aisle.models.encoder import TorchEncoder
from aisle.models.whole_model import WholeModel
from aisle.search.load_encoder import LoadedEncoder
from aisle.training.adapter_layers import adapter_layers
from aisle.training.adapter_training import train_adapter
from aisle.training.tower_training import train_query_tower
from aisle.types.choices import AdapterKind

Embeddings = npt.NDArray[np.float32]
MakeRecord = Callable[..., AdapterRecord]
"""Function of the adapter's `fingerprint`."""


class TrainedQueries(Protocol):
    """A trained query adapter."""

    @property
    def kind(self) -> AdapterKind:
        """Kind of the adapter."""

    @property
    def size(self) -> int:
        """Size for the adapter's record."""

    @property
    def held_out(self) -> Embeddings:
        """Embeddings of the held-out queries with the adapter, (queries, dim)."""

    def to_publish(self, make_record: MakeRecord) -> AdapterToPublish:
        """Return the adapter with its record, for a version of the index."""

    def model(self) -> WholeModel:
        """Return the query tower with the adapter built in, for a run."""


def train_kind(
    settings: AdaptSettings,
    index: SearchIndex,
    encoder: LoadedEncoder,
    parts: Parts,
    *,
    log: Callable[[str], None],
) -> TrainedQueries | None:
    """Train the adapter of the settings; None if no epoch is better than the encoder as it is.

    Args:
        settings: Settings of the command.
        index: The index.
        encoder: Encoder of the index, without an adapter.
        parts: Queries to train on, to choose the epoch and to measure the gain.
        log: Logs messages for the user.

    Raises:
        ModelError: The encoder's files cannot be read, or LoRA does not know its layers.
        TrainingError: The weights have grown beyond the range of numbers.
    """
    if settings.kind == "lora":
        return _train_tower(settings, index, encoder, parts, log)
    adapter = train_adapter(
        index,
        parts.train.queries,
        parts.train.embeddings,
        validation=parts.validation.queries,
        validation_embeddings=parts.validation.embeddings,
        options=settings.options(),
        log=log,
    )
    if adapter is None:
        return None
    base = str(encoder.query_fingerprint)
    return _Function(settings, index.manifest, adapter, base, adapter.apply(parts.held_out.embeddings))


def _train_tower(
    settings: AdaptSettings,
    index: SearchIndex,
    encoder: LoadedEncoder,
    parts: Parts,
    log: Callable[[str], None],
) -> _Tower | None:
    if not isinstance(encoder, TorchEncoder):  # `check_tower` has refused bundles
        raise ConfigError("--kind lora: a bundle cannot be trained")
    tower, options = tower_of_index(settings, index.manifest, "query"), settings.options()
    trained = train_query_tower(
        index,
        tower.loaded,
        parts.train.queries,
        parts.train.embeddings,
        validation=parts.validation.queries,
        validation_embeddings=parts.validation.embeddings,
        options=options,
        device=encoder.device,
        log=log,
    )
    if trained is None:
        return None
    whole = tower.whole(trained=trained)
    towers = BiEncoder(whole.tower.to(encoder.device), encoder.model.product_tower).eval()
    adapted = replace(encoder, model=towers, query_tokenizer=encoder.tokenizer_of("query"))
    held_out = adapted.encode_queries(parts.held_out.queries.texts)
    whole.tower.cpu()
    return _Tower(whole, options.size, held_out)


@dataclass(frozen=True, eq=False)
class _Function:
    """A function of query embeddings."""

    settings: AdaptSettings
    manifest: Manifest
    adapter: QueryAdapter
    base_fingerprint: str
    held_out: Embeddings

    @property
    def kind(self) -> AdapterKind:
        return self.adapter.kind

    @property
    def size(self) -> int:
        return self.adapter.size

    def to_publish(self, make_record: MakeRecord) -> AdapterToPublish:
        found = self.adapter.fingerprint(base=self.base_fingerprint, index=self.manifest.fingerprint)
        return TrainedFunction(self.adapter, make_record(fingerprint=found))

    def model(self) -> WholeModel:
        tower = tower_of_index(self.settings, self.manifest, "query")
        return tower.whole(adapter_layers(self.adapter))


@dataclass(frozen=True, eq=False)
class _Tower:
    """A query tower that was trained with LoRA, merged."""

    whole: WholeModel
    size: int
    held_out: Embeddings
    kind: AdapterKind = "lora"

    def to_publish(self, make_record: MakeRecord) -> AdapterToPublish:
        return _TowerToPublish(self.whole, make_record)

    def model(self) -> WholeModel:
        return self.whole


@dataclass(frozen=True, eq=False)
class _TowerToPublish:
    """A query tower for the folder of a version."""

    whole: WholeModel
    make_record: MakeRecord

    def write(self, folder: Path) -> AdapterRecord:
        return self.make_record(fingerprint=self.whole.save(folder / TOWER_FOLDER))
