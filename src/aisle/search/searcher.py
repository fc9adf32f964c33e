"""The searcher: an index, its encoder and search settings in an object that threads can share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from aisle.errors import AisleError, IndexStoreError, SearchError
from aisle.index.filters import parse_filter
from aisle.index.hybrid_search import candidate_depth, weight_of
from aisle.index.layout import index_directory
from aisle.index.manifest import Manifest, read_manifest
from aisle.index.reader import check_adapter, check_fingerprint, open_index
from aisle.index.search_index import SearchIndex, check_count
from aisle.index.search_result import SearchResult
from aisle.search.calibrated_threshold import chosen_threshold, lowest_scores
from aisle.search.candidate_search import find_candidates
from aisle.search.candidates import WINDOW, CandidateSet, CandidateSettings
from aisle.search.reranking import RERANK_DEPTH, Rerank, rerank_answers
from aisle.types.choices import Fusion, MinScore, SearchMode
from aisle.types.encoder_protocol import Encoder
from aisle.types.sequences import as_sequence

__all__ = ["Searcher", "check_mode"]


@dataclass(frozen=True)
class _Opened:
    """The open version and its encoder, replaced together so that a search never mixes two versions."""

    index: SearchIndex
    encoder: Encoder | None


class Searcher:
    """An index, its encoder and search settings; any number of threads may share a searcher.

    `aisle.open_searcher` makes one from the directory of an index.
    """

    def __init__(
        self,
        index: SearchIndex,
        encoder: Encoder | None = None,
        *,
        mode: SearchMode = "dense",
        where: str | None = None,
        fusion: Fusion = "convex",
        weight: float | None = None,
        ef_search: int | None = None,
        exact: bool = False,
        threads: int | None = None,
        rerank: Rerank | None = None,
        rerank_depth: int = RERANK_DEPTH,
        load_encoder: Callable[[SearchIndex], Encoder] | None = None,
    ) -> None:
        """Combine an open index with its encoder and search settings.

        Args:
            index: Open index.
            encoder: Encoder that made the index, of any library; None if only mode "lexical" is used.
            mode: Search by embeddings ("dense"), by words ("lexical", BM25) or by both ("hybrid").
            where: Condition on the products of every answer, such as "in_stock"; a search can add its own.
            fusion: How "hybrid" joins the two: "convex" for weighted scores, "rrf" for reciprocal ranks.
            weight: Weight of the embeddings in "hybrid", in [0, 1]; None is the index's tuned weight.
            ef_search: Candidates kept while searching; None is the index's setting.
            exact: Whether to compare with every product instead of searching the graph.
            threads: Threads that search the graph; None is one per core.
            rerank: Second stage, which scores the best candidates of each query again; see `Rerank`.
            rerank_depth: Candidates per query that the rerank stage scores; at least `top_k` of the search.
            load_encoder: Function that loads the encoder of a new version if another encoder made it; None
                refuses the version.

        Raises:
            SearchError: An argument is out of range, or `where` does not fit the products.
            FingerprintMismatchError: Another encoder made the index.
        """
        check_count("rerank_depth", rerank_depth)
        check_mode(mode)
        _check_fits(index, encoder, where)
        self.mode: SearchMode = mode
        self.where = where
        self.fusion: Fusion = fusion
        self.weight = weight
        self.ef_search = ef_search
        self.exact = exact
        self.threads = threads
        self.rerank = rerank
        self.rerank_depth = rerank_depth
        self._load_encoder = load_encoder
        self._opened = _Opened(index, encoder)
        self._reloading = threading.Lock()

    @property
    def index(self) -> SearchIndex:
        """Open version of the index."""
        return self._opened.index

    @property
    def encoder(self) -> Encoder | None:
        """Encoder of the queries; None if only BM25 is searched."""
        return self._opened.encoder

    @property
    def version(self) -> int:
        """Number of the open version."""
        return self.index.manifest.version

    def search(
        self,
        queries: Iterable[str],
        top_k: int = 10,
        where: str | None = None,
        *,
        mode: SearchMode | None = None,
        min_score: MinScore | None = None,
        p: float | None = None,
        weight: float | None = None,
        exact: bool | None = None,
        query_embeddings: npt.NDArray[np.float32] | None = None,
    ) -> SearchResult:
        """Return the best products of each query, with the version of the index that gave them.

        Args:
            queries: Texts to search for.
            top_k: Products per query, at least 1.
            where: Condition on the products, in addition to the searcher's; `parse_filter` has the grammar.
            mode: As in `Searcher`; None is the searcher's mode.
            min_score: Leave out products with a lower cosine, in mode "lexical" with a lower BM25 score. In
                mode "hybrid" a product stays if its id is the query. "calibrated" leaves out products with a
                lower probability of relevance than `p`, in every mode; see `aisle calibrate`.
            p: Lowest probability of relevance for "calibrated", above 0 and at most 1; None is 0.5.
            weight: As in `Searcher`; None is the searcher's weight.
            exact: As in `Searcher`; None is the searcher's setting.
            query_embeddings: (queries, dim) float32 of the same queries, as `encode` returns them; None
                encodes them.

        Raises:
            SearchError: An argument is out of range, `where` does not fit the products, the mode needs an
                encoder and the searcher has none, the index has no texts to search by words, or the rerank
                stage fails.
        """
        opened = self._opened  # read once: a reload switches the next search, not this one
        index = opened.index
        queries = as_sequence(queries, "queries", SearchError)
        mode = self.mode if mode is None else mode
        check_mode(mode)
        check_count("top_k", top_k)
        lowest, lowest_p = chosen_threshold(min_score, p)
        weight = self.weight if weight is None else weight
        if mode != "lexical" and query_embeddings is None:
            query_embeddings = _encode(opened, queries)
        found = index.search(
            query_embeddings,
            queries=queries,
            mode=mode,
            top_k=self._depth(top_k, mode=mode, filtered=lowest is not None, count=len(index)),
            fusion=self.fusion,
            weight=weight,
            ef_search=self.ef_search,
            exact=self.exact if exact is None else exact,
            where=_both(self.where, where, index),
            threads=self.threads,
        )
        if lowest is not None:
            scores = found.scores if found.cosines is None else found.cosines
            found = _keep(scores >= lowest, found, queries, index, named=mode == "hybrid")
        if lowest_p is not None:
            limits = lowest_scores(index, queries, mode=mode, p=lowest_p, weight=weight, fusion=self.fusion)
            found = _keep(found.scores >= limits[:, None], found, queries, index, named=mode != "dense")
        if self.rerank is not None:
            if mode == "dense":  # the rerank stage replaces the scores
                found = replace(found, cosines=found.scores)
            found = rerank_answers(found, queries, self.rerank)
        return found.first(top_k)

    def candidates(
        self,
        queries: Iterable[str],
        *,
        where: str | None = None,
        mode: SearchMode | None = None,
        min_score: MinScore | None = None,
        p: float | None = None,
        window: int = WINDOW,
        weight: float | None = None,
        exact: bool | None = None,
        ef_search: int | None = None,
        query_embeddings: npt.NDArray[np.float32] | None = None,
        between: Callable[[], None] | None = None,
    ) -> list[CandidateSet]:
        """Return the candidate set of each query, from which total, pages, facets and groups come.

        Modes "dense" and "hybrid" rank every product, so their sets are the best `window` products of each
        side, and the total says whether the window cut products off. Mode "lexical" finds the products with
        a word of the query; the total counts all of them, and the best `window` can be paged through.

        Args:
            queries: Texts to search for.
            where: As in `search`.
            mode: As in `search`.
            min_score: As in `search`.
            p: As in `search`.
            window: Most products of each side, and most products to page through, at least 1.
            weight: As in `search`.
            exact: As in `search`.
            ef_search: Candidates kept while searching; None is the searcher's setting. It is at least
                `window + 1`.
            query_embeddings: As in `search`.
            between: Function called between queries and within a long filter; an error that it raises ends
                the search.

        Raises:
            SearchError: As in `search`, or the searcher has a rerank stage, which reorders pages.
        """
        opened = self._opened
        index = opened.index
        if self.rerank is not None:
            raise SearchError(
                "candidates: the searcher has a rerank stage, which scores only the first products again, so "
                "pages would contradict each other; open a searcher without it"
            )
        queries = as_sequence(queries, "queries", SearchError)
        mode = self.mode if mode is None else mode
        check_mode(mode)
        if mode != "lexical" and query_embeddings is None:
            query_embeddings = _encode(opened, queries)
        weight = self.weight if weight is None else weight
        lowest, lowest_p = chosen_threshold(min_score, p)
        settings = CandidateSettings(
            mode=mode,
            where=_both(self.where, where, index),
            min_score=lowest,
            p=lowest_p,
            window=window,
            weight=weight_of(index) if weight is None else weight,
            fusion=self.fusion,
            exact=self.exact if exact is None else exact,
            ef_search=self.ef_search if ef_search is None else ef_search,
        )
        return find_candidates(
            index, queries, query_embeddings, settings, threads=self.threads, between=between
        )

    def encode(self, queries: Iterable[str]) -> npt.NDArray[np.float32]:
        """Return the (queries, dim) float32 embeddings of queries, to search for them several times.

        Raises:
            SearchError: The searcher has no encoder.
        """
        return _encode(self._opened, queries)

    @property
    def query_fingerprint(self) -> str | None:
        """Fingerprint of queries' embeddings: the adapter's, or the encoder's; None without encoder."""
        opened = self._opened
        record = opened.index.manifest.query_adapter
        if opened.encoder is None or record is None:
            return None if opened.encoder is None else opened.encoder.query_fingerprint
        return record.fingerprint

    def reload_if_changed(self) -> bool:
        """Open the current version of the index if it is not the version in use.

        Running searches finish on the old version. The encoder is kept if it also made the new version;
        otherwise the new version's encoder is loaded first. If a reload fails, the old version keeps
        answering, and the next call tries again.

        Returns:
            Whether the open version changed.

        Raises:
            IndexStoreError: The new version, or its encoder, cannot be used.
        """
        with self._reloading:
            old = self._opened
            index_dir = index_directory(old.index.directory)
            try:
                if read_manifest(index_dir) == old.index.manifest:
                    return False
                self._opened = self._reopened(index_dir, old)
            except (AisleError, OSError) as error:
                raise IndexStoreError(
                    f"{index_dir}: its current version cannot be used, and version "
                    f"{old.index.manifest.version} keeps answering: {error}"
                ) from error
            return True

    def _reopened(self, index_dir: Path, old: _Opened) -> _Opened:
        index, encoder = open_index(index_dir), old.encoder
        made = encoder is None or _made(encoder, index.manifest, before=old.index.manifest)
        if not made and self._load_encoder is not None:
            encoder = self._load_encoder(index)
        _check_fits(index, encoder, self.where)
        return _Opened(index, encoder)

    def _depth(self, top_k: int, *, mode: SearchMode, filtered: bool, count: int) -> int:
        """Return how many products per query the first stage finds."""
        depth = top_k if self.rerank is None else max(top_k, self.rerank_depth)
        # Hybrid search does not order by cosine: products above the lowest cosine may come late in its order.
        return candidate_depth(depth, count=count) if filtered and mode == "hybrid" else depth

    def __repr__(self) -> str:
        encoder = "no encoder" if self.encoder is None else f"fingerprint {self.encoder.fingerprint!s:.12}"
        return (
            f"Searcher(version {self.version} of {index_directory(self.index.directory)}, "
            f"{len(self.index):,} products, mode {self.mode}, {encoder})"
        )


def check_mode(mode: str) -> None:
    """Check that `mode` is a search mode."""
    if mode not in get_args(SearchMode):
        raise SearchError(f"mode: must be one of {', '.join(get_args(SearchMode))}, found {mode!r}")


def _check_fits(index: SearchIndex, encoder: Encoder | None, where: str | None) -> None:
    """Check that the encoder made the index, and that the condition fits its products."""
    if where is not None:
        parse_filter(where, index.products.schema)
    if encoder is None:
        return
    check_fingerprint(index.directory, index.manifest, encoder.fingerprint or "no fingerprint yet")
    check_adapter(index.directory, index.manifest, encoder.query_fingerprint)
    if encoder.dim != index.dim:
        raise SearchError(
            f"encoder: must give embeddings of {index.dim} components, as the index has, found "
            f"{encoder.dim}; use encoder.truncated for an index with fewer"
        )


def _made(encoder: Encoder, manifest: Manifest, *, before: Manifest) -> bool:
    """Return whether an encoder made a new version of an index, given the version that it searches now.

    An encoder with another query tower stays if the index has not got another query tower either.
    """
    same_query_tower = manifest.query_tower in (encoder.query_fingerprint, before.query_tower)
    adapter = manifest.query_adapter
    if adapter is not None and adapter.encoder_fingerprint != encoder.query_fingerprint:
        return False
    same_product_tower = (encoder.fingerprint, encoder.dim) == (manifest.fingerprint, manifest.dim)
    return same_query_tower and same_product_tower


def _encode(opened: _Opened, queries: Iterable[str]) -> npt.NDArray[np.float32]:
    """Return the embeddings to search with, (queries, dim)."""
    return opened.index.adapted(_encoder_of(opened).encode_queries(queries))


def _encoder_of(opened: _Opened) -> Encoder:
    if opened.encoder is None:
        raise SearchError(
            "the searcher has no encoder, which mode 'dense' and 'hybrid' need; open it with such a mode, or "
            "search with mode='lexical'"
        )
    return opened.encoder


def _both(standing: str | None, where: str | None, index: SearchIndex) -> str | None:
    """Return the conjunction of both conditions."""
    if standing is None or where is None:
        return standing if where is None else where
    # Parsed by itself first: a text such as "a) or (b" must not open the brackets of the other.
    parse_filter(where, index.products.schema)
    return f"({standing}) and ({where})"


def _keep(
    kept: npt.NDArray[np.bool_],
    found: SearchResult,
    queries: Sequence[str],
    index: SearchIndex,
    *,
    named: bool,
) -> SearchResult:
    """Return the answers with the products to keep.

    Args:
        kept: (queries, top_k) bool, whether to keep each product.
        found: Answers of the search.
        queries: Texts of the same queries.
        index: Index that was searched.
        named: Also keep a product with the query as its id: the query means it, whatever its score.
    """
    if named and index.lexical is not None:
        for query, rows, row in zip(queries, found.rows, kept, strict=True):
            row |= np.isin(rows, index.lexical.named(query))
    kept &= found.rows >= 0
    order = np.argsort(~kept, axis=1, kind="stable")
    return found.take(np.where(np.take_along_axis(kept, order, axis=1), order, -1))
