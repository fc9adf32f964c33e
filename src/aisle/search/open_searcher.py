"""Open an index for searching, with the encoder that made it."""

from __future__ import annotations

from collections.abc import Callable

from aisle.index.filters import parse_filter
from aisle.index.layout import StrPath, index_directory
from aisle.index.reader import open_index
from aisle.index.search_index import SearchIndex
from aisle.search.reranking import RERANK_DEPTH, Rerank
from aisle.search.searcher import Searcher, check_mode
from aisle.search.started_bundle import StartedBundle, start_bundle
from aisle.types.choices import Fusion, SearchMode
from aisle.types.encoder_protocol import Encoder

__all__ = ["open_searcher"]


def open_searcher(
    index: StrPath | SearchIndex,
    *,
    mode: SearchMode = "dense",
    model: str | None = None,
    base_model: str | None = None,
    trust_remote_code: bool = False,
    where: str | None = None,
    fusion: Fusion = "convex",
    weight: float | None = None,
    ef_search: int | None = None,
    exact: bool = False,
    threads: int | None = None,
    rerank: Rerank | None = None,
    rerank_depth: int = RERANK_DEPTH,
    log: Callable[[str], None] | None = None,
    started: StartedBundle | None = None,
) -> Searcher:
    """Open an index with the encoder that made it, or with a bundle that was exported from that encoder.

    Args:
        index: Directory of the index, or an index that is open already.
        mode: Search by embeddings ("dense"), by words ("lexical", BM25) or by both ("hybrid"). With "lexical"
            no encoder is loaded.
        model: Folder or Hub id of the encoder, if it has moved, or of a bundle. With a bundle, torch is not
            imported.
        base_model: Folder or Hub id of the base model of its adapter, if that has moved.
        trust_remote_code: Run the Python code in the encoder's repository.
        where: As in `Searcher`.
        fusion: As in `Searcher`.
        weight: As in `Searcher`.
        ef_search: As in `Searcher`.
        exact: As in `Searcher`.
        threads: As in `Searcher`.
        rerank: As in `Searcher`.
        rerank_depth: As in `Searcher`.
        log: Function that prints a line, as in `encoder_of_index`.
        started: Bundle that `start_bundle` loads already. If not given, a bundle is loaded while the index
            is opened.

    Raises:
        IndexStoreError: The index is damaged, or another encoder made it.
        ModelError: The encoder cannot be loaded.
        SearchError: `where` does not fit the products, or an option is out of range.
    """
    check_mode(mode)
    if isinstance(index, SearchIndex):
        opened = index
    else:
        if mode != "lexical" and started is None:
            started = start_bundle(index, model)
        opened = open_index(index)
    if where is not None:
        parse_filter(where, opened.products.schema)  # before the encoder is loaded

    def load_encoder(version: SearchIndex, started: StartedBundle | None = None) -> Encoder:
        from aisle.search.encoders import encoder_of_index

        return encoder_of_index(
            version.manifest,
            index_directory(version.directory),
            model=model,
            base_model=base_model,
            trust_remote_code=trust_remote_code,
            log=log,
            started=started,
        )

    encoder = None if mode == "lexical" else load_encoder(opened, started)
    return Searcher(
        opened,
        encoder,
        mode=mode,
        where=where,
        fusion=fusion,
        weight=weight,
        ef_search=ef_search,
        exact=exact,
        threads=threads,
        rerank=rerank,
        rerank_depth=rerank_depth,
        load_encoder=load_encoder,
    )
