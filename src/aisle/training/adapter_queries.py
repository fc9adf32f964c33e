"""Judged queries of an index: texts, and the rows and gains of their judged products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aisle.data.pairs import Pairs, query_key
from aisle.index.scoring import Rows
from aisle.index.search_index import SearchIndex
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

__all__ = ["AdapterQueries", "MatchedQueries", "match_queries"]


@dataclass(frozen=True, eq=False)
class AdapterQueries:
    """Distinct queries, and the judged products of each: products of a query lie next to each other.

    Args:
        texts: Texts of the queries, distinct by `query_key`; each has a product with a gain above 0.
        starts: (queries + 1,) start of each query's products in `rows` and `gains`.
        rows: (judgements,) rows of the index, distinct for each query.
        gains: (judgements,) float32 relevance in [0, 1].
    """

    texts: Sequence[str]
    starts: Rows
    rows: Rows
    gains: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def query_of(self) -> Rows:
        """Query of each judgement, (judgements,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @property
    def relevant_rows(self) -> Rows:
        """Distinct rows with a gain above 0."""
        return np.unique(self.rows[self.gains > 0])


@dataclass(frozen=True, eq=False)
class MatchedQueries:
    """Judged queries of an index, and what was left out.

    Args:
        queries: Queries with a relevant product in the index.
        pairs: Number of pairs of these queries with a product of the index.
        unknown: Number of pairs whose product the index lacks.
        example: A product that the index lacks; None if there is none.
        without_relevant: Number of queries that were left out, because the index has no product that is
            relevant to them.
    """

    queries: AdapterQueries
    pairs: int
    unknown: int
    example: str | None
    without_relevant: int


def match_queries(pairs: Pairs, index: SearchIndex, *, by_id: bool) -> MatchedQueries:
    """Return the queries of pairs with the rows of their products in an index.

    Spellings with equal `query_key` are the same query, which has the text of its first pair. A product is
    found by its id, or by a text that equals the embedded text of a product; equal texts of the index are all
    found. A hard negative counts as a product of gain 0. Of several judgements of a product for
    a query, the highest counts.

    Args:
        pairs: Judged pairs.
        index: The index.
        by_id: Whether the products and hard negatives of the pairs are ids; otherwise they are texts.
    """
    texts, query = _numbered(pairs.queries)
    gain = np.ones(len(pairs), np.float32) if pairs.relevance is None else pairs.relevance
    place, row = _rows_of(pairs.products, pairs.product_ids, index, by_id=by_id)
    hard = pairs.hard_negatives or []
    hard_query = np.repeat(query[: len(hard)], [len(entries) for entries in hard])
    hard_place, hard_row = _rows_of([one for entries in hard for one in entries], None, index, by_id=by_id)
    found = np.zeros(len(pairs), np.bool_)
    found[place] = True
    missing = np.flatnonzero(~found)
    queries, kept = _grouped(
        texts,
        np.concatenate([query[place], hard_query[hard_place]]),
        np.concatenate([row, hard_row]),
        np.concatenate([gain[place], np.zeros(len(hard_row), np.float32)]),
    )
    return MatchedQueries(
        queries=queries,
        pairs=int((found & np.isin(query, kept)).sum()),
        unknown=len(missing),
        example=_name(pairs, int(missing[0])) if len(missing) else None,
        without_relevant=len(texts) - len(kept),
    )


def _numbered(queries: Sequence[str]) -> tuple[list[str], Rows]:
    """Return the first text of each distinct query, and the number of each pair's query: (pairs,)."""
    texts: dict[str, str] = {}
    keys = [query_key(text) for text in queries]
    for key, text in zip(keys, queries, strict=True):
        texts.setdefault(key, text)
    numbers = {key: number for number, key in enumerate(texts)}
    return list(texts.values()), np.array([numbers[key] for key in keys], np.int64)


def _name(pairs: Pairs, number: int) -> str:
    one = pairs.select([number])
    return (one.product_ids or one.products)[0]


def _rows_of(
    products: Sequence[str], ids: Sequence[str] | None, index: SearchIndex, *, by_id: bool
) -> tuple[Rows, Rows]:
    """Return matches of products and rows of an index: the places of the products, and the rows."""
    ids = products if by_id else ids
    place, row = np.empty(0, np.int64), np.empty(0, np.int64)
    if ids is not None and len(ids):
        known = index.products.column(ID_COLUMN).combine_chunks()
        at = pc.index_in(pa.array(ids, pa.string()), value_set=known).fill_null(-1)
        at = at.to_numpy(zero_copy_only=False).astype(np.int64)
        place = np.flatnonzero(at >= 0)
        row = at[place]
    if by_id or TEXT_COLUMN not in index.products.column_names or len(place) == len(products):
        return place, row
    rest = np.setdiff1d(np.arange(len(products)), place)
    texts, of_text = np.unique(np.array([products[number] for number in rest], object), return_inverse=True)
    at = pc.index_in(index.products.column(TEXT_COLUMN), value_set=pa.array(texts.tolist(), pa.string()))
    at = at.combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    rows = np.flatnonzero(at >= 0)
    rows = rows[np.argsort(at[rows], kind="stable")]
    sizes = np.bincount(at[rows], minlength=len(texts))
    starts = np.cumsum(sizes) - sizes
    each = sizes[of_text]
    offsets = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
    return (
        np.concatenate([place, np.repeat(rest, each)]),
        np.concatenate([row, rows[np.repeat(starts[of_text], each) + offsets]]),
    )


def _grouped(
    texts: Sequence[str], query: Rows, row: Rows, gain: npt.NDArray[np.float32]
) -> tuple[AdapterQueries, Rows]:
    """Return the queries with a relevant product, and their numbers among all queries."""
    order = np.lexsort((-gain, row, query))
    query, row, gain = query[order], row[order], gain[order]
    first = np.ones(len(query), np.bool_)
    first[1:] = (query[1:] != query[:-1]) | (row[1:] != row[:-1])
    relevant = np.bincount(query, weights=gain > 0, minlength=len(texts)) > 0
    kept = first & relevant[query]
    query, row, gain = query[kept], row[kept], gain[kept]
    numbers = np.flatnonzero(relevant)
    starts = np.searchsorted(query, np.append(numbers, len(texts)))
    chosen = [texts[number] for number in numbers.tolist()]
    return AdapterQueries(chosen, starts, row, gain), numbers
