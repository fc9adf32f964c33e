"""The pair that answers: a version of an index, and the encoder of its queries."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from aisle.errors import FingerprintMismatchError, ModelError, SearchError
from aisle.extras import require_extra
from aisle.index.layout import index_directory
from aisle.index.manifest import MANIFEST_FILE
from aisle.index.reader import open_index
from aisle.index.search_index import SearchIndex
from aisle.io.durable import file_sha256
from aisle.search.candidates import WINDOW
from aisle.search.encoders import encoder_of_index
from aisle.search.load_encoder import LoadedEncoder, extra_for
from aisle.search.searcher import Searcher
from aisle.service.facet_fields import facet_fields
from aisle.service.hidden_paths import local_places, public_model_name
from aisle.service.pairs.model_files import ModelFiles
from aisle.types.choices import SearchMode
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN
from aisle.types.encoder_protocol import Encoder

__all__ = ["PairSource", "ServedPair", "load_pair"]

WARM_QUERY = "warm"
_LOADING = threading.Lock()
"""Models are loaded one at a time: transformers sets torch's default type for the whole process meanwhile."""


@dataclass(frozen=True)
class PairSource:
    """Where a pair is loaded from.

    Args:
        index_dir: Directory of the index.
        model: Folder or Hub id of the encoder, or of a bundle; None is the encoder that the index records.
        base_model: Base model of the encoder's adapter, if it has moved.
        trust_remote_code: Run the Python code in the encoder's repository.
        mode: Mode of searches that name none. With "lexical" no encoder is loaded.
        window: Window of searches that name none: the most best products that they page through.
        version: Number of the version; None is the current one.
    """

    index_dir: Path
    model: str | None = None
    base_model: str | None = None
    trust_remote_code: bool = False
    mode: SearchMode = "dense"
    window: int = WINDOW
    version: int | None = None

    @property
    def places(self) -> list[str | Path | None]:
        """Files and folders that it names."""
        return [self.index_dir, self.model, self.base_model]


@dataclass(frozen=True, eq=False)
class ServedPair:
    """A version of an index and the encoder of its queries; it never changes, and any thread may use it.

    Args:
        searcher: Searcher of the version.
        source: Where it was loaded from.
        index_fingerprint: SHA-256 of the version's manifest.
        model_files: Files of the encoder when it was loaded; none if the server searches by words only.
    """

    searcher: Searcher
    source: PairSource
    index_fingerprint: str
    model_files: ModelFiles = field(default_factory=ModelFiles)

    @property
    def index(self) -> SearchIndex:
        """The version of the index."""
        return self.searcher.index

    @property
    def encoder(self) -> Encoder | None:
        """Encoder of the queries; None if the server searches by words only."""
        return self.searcher.encoder

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.index.manifest.version

    @property
    def model(self) -> str:
        """Folder or Hub id of the model, as it was given or as the index records it."""
        return self.source.model or str(self.index.manifest.encoder.get("model", "not recorded"))

    @cached_property
    def model_name(self) -> str:
        """Name of the model for clients."""
        return public_model_name(self.model)

    @cached_property
    def places(self) -> list[str]:
        """Files and folders of the pair, which clients must not read."""
        recorded = self.index.manifest.encoder
        return local_places([*self.source.places, recorded.get("model"), recorded.get("base_model")])

    @property
    def fields(self) -> list[str]:
        """Columns of the products."""
        return [name for name in self.index.products.column_names if name not in (ID_COLUMN, TEXT_COLUMN)]

    @cached_property
    def facet_fields(self) -> list[str]:
        """Columns with values that products share."""
        return facet_fields(self.index.products)

    @property
    def max_length(self) -> int | None:
        """Most tokens of a text; None if the encoder has no limit of its own."""
        settings = getattr(self.encoder, "settings", None)
        return None if settings is None else int(settings.max_length)


def load_pair(
    source: PairSource, *, keep: ServedPair | None = None, log: Callable[[str], None] | None = None
) -> ServedPair:
    """Open a version of an index with its encoder, check both, and answer a query with them.

    The checksums of all files of the index are compared, and the fingerprints of the encoder with those that
    the index records.

    Args:
        source: Where the pair is loaded from.
        keep: A pair whose encoder is used again if the source names the same model, its files are the same
            and the version records its fingerprints.
        log: Function that prints a line about the encoder.

    Raises:
        AisleError: The index is damaged, the encoder cannot be loaded or is being replaced, its extra is not
            installed, or they do not fit together.
        OSError: A file cannot be read.
    """
    index = open_index(source.index_dir, version=source.version)
    files = _model_files(index, source)
    searcher = _with_kept_encoder(index, source, keep, files)
    if searcher is None:
        encoder = None if source.mode == "lexical" else _load_encoder(index, source, log)
        searcher = _searcher(index, encoder, source)
    _answer_warm_query(searcher)
    if files.changed:
        raise ModelError(
            f"{files.folders[0]}: its files changed while the model was loaded; wait until all are written"
        )
    return ServedPair(searcher, source, file_sha256(index.directory / MANIFEST_FILE), files)


def _model_files(index: SearchIndex, source: PairSource) -> ModelFiles:
    """Return the files of the encoder that a source names, or that the index records."""
    if source.mode == "lexical":
        return ModelFiles()
    recorded = index.manifest.encoder
    return ModelFiles.of(
        [source.model or recorded.get("model"), source.base_model or recorded.get("base_model")]
    )


def _with_kept_encoder(
    index: SearchIndex, source: PairSource, keep: ServedPair | None, files: ModelFiles
) -> Searcher | None:
    """Return a searcher with the encoder of another pair, or None if that encoder does not fit."""
    if keep is None or keep.encoder is None or source.mode == "lexical":
        return None
    if keep.source.model != source.model or keep.model_files != files:
        return None
    try:
        return _searcher(index, keep.encoder, source)
    except (FingerprintMismatchError, SearchError):
        return None


def _searcher(index: SearchIndex, encoder: Encoder | None, source: PairSource) -> Searcher:
    # One thread a search: the workers are as many as the processors.
    return Searcher(index, encoder, mode=source.mode, threads=1)


def _load_encoder(index: SearchIndex, source: PairSource, log: Callable[[str], None] | None) -> LoadedEncoder:
    require_extra(extra_for(source.model or str(index.manifest.encoder["model"])))
    with _LOADING:
        return encoder_of_index(
            index.manifest,
            index_directory(index.directory),
            model=source.model,
            base_model=source.base_model,
            trust_remote_code=source.trust_remote_code,
            log=log,
        )


def _answer_warm_query(searcher: Searcher) -> None:
    """Search once, so that the first request waits for nothing that is made on first use.

    Raises:
        SearchError: The index finds nothing, or the scores are not finite.
    """
    found = searcher.search([WARM_QUERY], 1)
    if searcher.mode != "lexical" and not np.isfinite(found.scores).all():
        raise SearchError("a search for the word 'warm' finds no product with a finite score")
