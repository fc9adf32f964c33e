"""Load the models of an evaluation: the encoder of the index, and the base model to compare it with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from aisle.commands.evaluate.base_encoder import (
    BaseModelName,
    base_of,
    cache_folder,
    load_base_encoder,
    precision_on,
)
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.indexing.catalog_embeddings import Embeddings, catalog_embeddings
from aisle.commands.output import Output
from aisle.errors import ModelError
from aisle.index import Manifest, open_stored
from aisle.search.encoders import encoder_of_index
from aisle.search.load_encoder import LoadedEncoder, load_encoder
from aisle.training.cpu_threads import use_cpu_threads
from aisle.training.process_group import Processes
from aisle.types.columns import TEXT_COLUMN


@dataclass(frozen=True)
class Models:
    """The models of an evaluation.

    Args:
        measured: Encoder of the index, or of --model; None if only BM25 is evaluated.
        name: Row of this encoder: "tuned" if it was trained from another model or is compared with a base
            model, else "base".
        base: Model of the row base; None if there is no such row.
        note: Reason why there is no such row, if the user should know.
    """

    measured: LoadedEncoder | None
    name: Literal["tuned", "base"]
    base: LoadedEncoder | None
    note: str | None = None

    def by_row(self) -> dict[str, LoadedEncoder]:
        """Return row -> encoder, the base first."""
        named = {"base": self.base, self.name: self.measured}
        return {name: encoder for name, encoder in named.items() if encoder is not None}


@dataclass(frozen=True)
class BaseRow:
    """The model of the row base.

    Args:
        encoder: Encoder of the row; None if there is no such row.
        child: Whether the measured encoder was trained from another model.
        note: Reason why there is no such row, if the user should know.
    """

    encoder: LoadedEncoder | None
    child: bool
    note: str | None = None


def wanted_rows(settings: EvaluateSettings) -> tuple[str, ...]:
    """Return the rows of --rows, or the rows that --mode asks for."""
    if settings.queries is None:
        return ()
    if settings.rows is not None:
        return settings.rows
    return ("bm25",) if settings.mode == "lexical" else ("bm25", "base", "tuned", "hybrid")


def model_name(settings: EvaluateSettings, manifest: Manifest | None) -> str:
    """Return the name of the measured encoder: --model, or the model that the index records."""
    return settings.model or str(manifest.encoder["model"] if manifest else "")


def load_models(settings: EvaluateSettings, manifest: Manifest | None, *, device: str | None) -> Models:
    """Return the models that the rows and the pairs need.

    Raises:
        ModelError: A model cannot be loaded.
        FingerprintMismatchError: --model is not the encoder that made the index.
    """
    if not settings.pairs and wanted_rows(settings) == ("bm25",):
        return Models(None, "tuned", None)
    measured = _load_measured(settings, manifest)
    if not settings.pairs and "base" not in wanted_rows(settings):
        return Models(measured, "base" if _parent(settings, manifest) is None else "tuned", None)
    base = load_base_row(settings, manifest, device=device)
    return Models(measured, "tuned" if base.child or base.encoder else "base", base.encoder, base.note)


def _load_measured(settings: EvaluateSettings, manifest: Manifest | None) -> LoadedEncoder:
    """Return the encoder that made the index, or --model if there is no index.

    Raises:
        ModelError: The encoder cannot be loaded.
        FingerprintMismatchError: --model is not the encoder that made the index.
    """
    if manifest is None or settings.index_dir is None:
        use_cpu_threads()
        return load_encoder(
            str(settings.model),
            base_model=settings.base_model,
            trust_remote_code=settings.trust_remote_code,
        )
    return encoder_of_index(
        manifest,
        Path(settings.index_dir),
        model=settings.model,
        base_model=settings.base_model,
        trust_remote_code=settings.trust_remote_code,
    )


def load_base_row(
    settings: EvaluateSettings, manifest: Manifest | None, *, device: str | None = None
) -> BaseRow:
    """Return the base model to compare with; the same on every process.

    Raises:
        ModelError: The model of --base_model_row cannot be loaded.
    """
    try:
        parent = _parent(settings, manifest)
    except ModelError as error:
        return BaseRow(None, child=False, note=f"no row base: {error}")
    child = parent is not None
    if settings.base_model_row == "none":
        return BaseRow(None, child)
    if settings.base_model_row != "auto":
        encoder = load_encoder(
            settings.base_model_row, device=device, trust_remote_code=settings.trust_remote_code
        )
    elif parent is None:
        return BaseRow(None, child)
    else:
        try:
            encoder = load_base_encoder(parent, device=device, trust_remote_code=settings.trust_remote_code)
        except ModelError as error:
            note = f"no row base: {error}. Say where it is with --base_model_row, or none to leave it out"
            return BaseRow(None, child, note)
    if manifest is not None and encoder.fingerprint == manifest.fingerprint:
        return BaseRow(None, child, f"no row base: {encoder.name} is the very encoder of the index")
    return BaseRow(encoder, child)


def embed_base(
    settings: EvaluateSettings,
    manifest: Manifest,
    products: pa.Table,
    encoder: LoadedEncoder,
    processes: Processes,
    output: Output,
) -> Embeddings:
    """Return the base model's (count, dim) float32 embeddings of the catalogue; call on every process.

    Raises:
        IndexStoreError: No folder for the embeddings is writable.
    """
    folder = cache_folder(
        Path(str(settings.index_dir)).resolve(), None if settings.report is None else Path(settings.report)
    )
    precision = precision_on(encoder, manifest.encoder.get("precision"))
    return catalog_embeddings(
        products, encoder, folder, precision=precision, processes=processes, output=output
    )


def has_texts(products: pa.Table) -> bool:
    """Return whether an index keeps its texts, which another model needs to rank the products."""
    return TEXT_COLUMN in products.column_names


def help_embedding(settings: EvaluateSettings, processes: Processes) -> None:
    """Embed a share of the catalogue with the base model, on a process that is not the main one."""
    if "base" not in wanted_rows(settings) or settings.base_model_row == "none":
        return
    stored = open_stored(Path(str(settings.index_dir)).resolve())
    if not has_texts(stored.products):
        return
    base = load_base_row(settings, stored.manifest, device=processes.device)
    if base.encoder is not None:
        silent = Output(silent=True)
        embed_base(settings, stored.manifest, stored.products, base.encoder, processes, silent)


def _parent(settings: EvaluateSettings, manifest: Manifest | None) -> BaseModelName | None:
    record = manifest.encoder if manifest is not None else {}
    return base_of(
        model_name(settings, manifest),
        revision=None if settings.model else record.get("revision"),
        base_model=settings.base_model or record.get("base_model"),
        recorded=record,
    )
