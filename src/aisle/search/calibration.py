"""Measure how likely products are relevant by their score, in every search mode, on judged queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aisle.errors import EvaluationError
from aisle.evaluation.isotonic_fit import fit_probabilities
from aisle.index.fusion import Candidates, convex_scores
from aisle.index.hybrid_search import weight_of
from aisle.index.lexical import best_rows
from aisle.index.scoring import Rows, exact_search, pair_scores
from aisle.index.search_index import SearchIndex
from aisle.types.choices import SearchMode
from aisle.types.columns import ID_COLUMN
from aisle.types.encoder_protocol import Encoder
from aisle.types.score_calibration import Calibration, OperatingPoint, ScoreCalibration, Unjudged

__all__ = ["measure_calibration"]

DEPTH = 10
"""Best products per query: a first page. Deeper products are less often relevant at the same score, because
queries with many good products have few of them, and the probabilities of first pages would be too low."""
CHUNK_QUERIES = 1024
"""Queries that are embedded and searched at a time."""
THRESHOLDS = tuple(step / 100 for step in range(1, 100))
"""Probabilities of the operating points: 0.01, 0.02, ..., 0.99."""

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Products:
    """Products of a query that a search mode can find."""

    scores: Floats
    """(products,) in the scale of the calibration."""
    relevant: Mask
    """(products,) False for unjudged products."""
    shown: Mask
    """(products,) whether they are among the best `depth`."""
    counted: Mask
    """(products,) whether the pair belongs to the sample that the probabilities are fitted to."""


def measure_calibration(
    index: SearchIndex,
    encoder: Encoder,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, float]],
    *,
    relevant_from: float | None = None,
    unjudged: Unjudged = "leave_out",
    depth: int = DEPTH,
    on_progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Return the probability of relevance by score for every search mode of an index.

    The probabilities hold for pairs like those they are fitted to. With `unjudged` "leave_out" these are the
    judged products of each query, wherever a search ranks them. With "not_relevant" they are the `depth` best
    products of each query. Searches are exact. A product with the query as its id is left out, because a
    search always shows it.

    Args:
        index: Index to calibrate.
        encoder: Encoder of the index.
        queries: Query id -> text of the judged queries.
        qrels: Query id -> product id -> relevance.
        relevant_from: Lowest relevance that counts as relevant; None means anything above 0.
        unjudged: What an unjudged product among the best `depth` counts as.
        depth: Best products per query, by embeddings and by words.
        on_progress: Called with the number of queries scored since the last call.

    Raises:
        EvaluationError: There are judged products of fewer than two queries, or all are relevant, or no
            product is.
    """
    modes: tuple[SearchMode, ...] = ("dense",) if index.lexical is None else ("dense", "lexical", "hybrid")
    found: dict[SearchMode, list[_Products]] = {mode: [] for mode in modes}
    rows_of = _rows_of_products(index, qrels.values())
    ids = list(queries)
    for start in range(0, len(ids), CHUNK_QUERIES):
        chunk = ids[start : start + CHUNK_QUERIES]
        judged = [
            {rows_of[product]: value for product, value in qrels[query_id].items() if product in rows_of}
            for query_id in chunk
        ]
        texts = [queries[query_id] for query_id in chunk]
        for relevance, pool in zip(judged, _pools(index, encoder, texts, judged, depth), strict=True):
            known = _Judged.of(pool.candidates.rows, relevance, relevant_from)
            for mode in modes:
                found[mode].append(pool.products(mode, known, weight=weight_of(index), unjudged=unjudged))
            if on_progress is not None:
                on_progress(1)
    _check_both_kinds(found["dense"])
    return Calibration(
        version=index.manifest.version,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        products=len(index),
        queries=len(ids),
        relevant_from=relevant_from,
        unjudged=unjudged,
        depth=depth,
        hybrid_weight=None if index.lexical is None else weight_of(index),
        modes={mode: _fit(found[mode]) for mode in modes if mode == "dense" or _enough(found[mode])},
    )


@dataclass(frozen=True, eq=False)
class _Judged:
    """Judgements of a pool of products."""

    judged: Mask
    """(products,) whether they have a judgement."""
    relevant: Mask
    """(products,) whether they are judged relevant."""

    @classmethod
    def of(cls, rows: Rows, relevance: Mapping[int, float], relevant_from: float | None) -> _Judged:
        """Return the judgements of `rows` from the relevance of judged rows."""
        values = np.array([relevance.get(row, np.nan) for row in rows.tolist()], np.float64)
        return cls(~np.isnan(values), values > 0 if relevant_from is None else values >= relevant_from)


@dataclass(frozen=True, eq=False)
class _Pool:
    """Judged products of a query, and the best products by embeddings and by words."""

    candidates: Candidates
    best_by_embedding: Mask
    best_by_words: Mask

    def products(self, mode: SearchMode, known: _Judged, *, weight: float, unjudged: Unjudged) -> _Products:
        """Return the products that a search mode can find; only BM25 finds less than all."""
        scores = self.candidates.dense.astype(np.float64)
        shown = self.best_by_embedding
        reachable = np.ones(len(scores), np.bool_)
        if mode == "lexical":
            scores = self.candidates.lexical.astype(np.float64) / self.candidates.highest
            shown = self.best_by_words
            reachable = self.candidates.lexical > 0
        elif mode == "hybrid":
            scores = convex_scores(self.candidates, weight=weight)
            shown = self.best_by_embedding | self.best_by_words
        counted = shown if unjudged == "not_relevant" else known.judged & reachable
        return _Products(scores, known.relevant, shown, counted)


def _rows_of_products(index: SearchIndex, judged: Iterable[Mapping[str, float]]) -> dict[str, int]:
    """Return the row of each judged product that the index has."""
    wanted = list(dict.fromkeys(product for products in judged for product in products))
    known = index.products.column(ID_COLUMN).combine_chunks()
    rows = pc.index_in(pa.array(wanted, pa.string()), value_set=known).to_pylist()
    return {product: row for product, row in zip(wanted, rows, strict=True) if row is not None}


def _pools(
    index: SearchIndex,
    encoder: Encoder,
    texts: Sequence[str],
    judged: Sequence[Mapping[int, float]],
    depth: int,
) -> Iterator[_Pool]:
    """Yield the pool of each query, without products that the query names by their id."""
    asked = index.adapted(encoder.encode_queries(texts))
    top = min(depth, len(index))
    nearest, _ = exact_search(index.embeddings, asked, top_k=top, tie_ranks=index.tie_ranks)
    for text, embedding, best, known in zip(texts, asked, nearest, judged, strict=True):
        words, named, highest = np.zeros(len(index), np.float32), np.empty(0, np.int64), 1.0
        if index.lexical is not None:
            words = index.lexical.score(text)
            named, highest = index.lexical.named(text), index.lexical.highest_score(text)
        by_words, _ = best_rows(words, top_k=depth, tie_ranks=index.tie_ranks)
        rows = np.unique(np.concatenate([best, by_words, np.fromiter(known, np.int64, len(known))]))
        rows = rows[~np.isin(rows, named)]
        cosines = pair_scores(index.embeddings, rows, embedding[None], np.zeros(len(rows), np.int64))
        yield _Pool(
            Candidates(rows=rows, dense=cosines, lexical=words[rows], highest=highest, depth=depth),
            best_by_embedding=np.isin(rows, best),
            best_by_words=np.isin(rows, by_words),
        )


def _check_both_kinds(found: Sequence[_Products]) -> None:
    """Refuse judgements of one kind only: every score would have the probability 1, or 0."""
    relevant = np.concatenate([products.relevant[products.counted] for products in found])
    if relevant.any() and not relevant.all():
        return
    kind = f"all {len(relevant):,} pairs are relevant" if relevant.any() else "no pair is relevant"
    raise EvaluationError(
        f"calibration needs relevant products and others, but {kind}. If the judgements list relevant "
        "products only, count the others with --unjudged not_relevant"
    )


def _enough(found: Sequence[_Products]) -> bool:
    """Return whether there are pairs of two or more queries: BM25 finds no product for some queries."""
    return sum(bool(products.counted.any()) for products in found) > 1


def _fit(found: Sequence[_Products]) -> ScoreCalibration:
    """Return the calibration of a search mode, with its operating points."""
    fitted = fit_probabilities(
        np.concatenate([products.scores[products.counted] for products in found]),
        np.concatenate([products.relevant[products.counted] for products in found]),
        np.repeat(np.arange(len(found)), [int(products.counted.sum()) for products in found]),
    )
    answerable = [products for products in found if products.relevant.any()]
    best = np.array([products.scores[products.shown].max(initial=-np.inf) for products in answerable])
    kept = np.concatenate([products.scores[products.counted & products.relevant] for products in found])
    return replace(fitted, points=tuple(_point(fitted, p, best, kept) for p in THRESHOLDS))


def _point(fitted: ScoreCalibration, p: float, best: Floats, relevant: Floats) -> OperatingPoint:
    """Return the effect of a threshold on the best score of each query and on the relevant pairs."""
    score = fitted.score_at(p)
    return OperatingPoint(
        p=p,
        score=None if score == np.inf else max(score, fitted.scores[0]),
        answered=float(np.mean((best >= score) & np.isfinite(best))),
        relevant_kept=float(np.mean(relevant >= score)) if len(relevant) else 0.0,
    )
