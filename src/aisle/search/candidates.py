"""The candidate set of a query: its total, pages, facets and groups all come from the same products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.errors import SearchError
from aisle.index.filter_values import unknown_column
from aisle.index.products import take_rows
from aisle.index.python_values import python_rows
from aisle.index.scoring import Rows, Scores
from aisle.index.search_index import SearchIndex, check_count
from aisle.search.facets import Facet, FacetValue, count_values, group_by_value
from aisle.types.choices import Fusion, SearchMode
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN
from aisle.types.sequences import as_sequence

__all__ = ["WINDOW", "Candidate", "CandidateSet", "CandidateSettings", "Group", "Groups", "Total"]

WINDOW = 1000
"""Default number of best products of a query that can be paged through."""


@dataclass(frozen=True)
class CandidateSettings:
    """What defines a candidate set besides its query; nothing about pages."""

    mode: SearchMode
    where: str | None
    """Condition on the products; None if there is none."""
    min_score: float | None
    """Lowest cosine, in mode "lexical" lowest BM25 score; None if there is none."""
    p: float | None
    """Lowest probability of relevance; None if there is none. Not together with `min_score`."""
    window: int
    """Most products that each side ranks, by cosine and by BM25, and most products to page through."""
    weight: float
    """Weight of the embeddings in mode "hybrid" with "convex" fusion."""
    fusion: Fusion
    exact: bool
    ef_search: int | None


@dataclass(frozen=True)
class Total:
    """Number of products in a candidate set."""

    value: int
    relation: Literal["eq", "gte"]
    """"eq" if no other product belongs to the set; "gte" if the window may have cut products off."""


@dataclass(frozen=True)
class Candidate:
    """A product of a candidate set."""

    product_id: str
    rank: int
    """Place in the set, from 1."""
    score: float
    """Cosine, BM25 or fused score, by which the set is ordered; higher is better."""
    scores: dict[str, float]
    """Scores by name: "dense" (cosine), "bm25", "fused" as far as the mode has them; "rerank" if reranked."""
    ranks: dict[str, int]
    """Rank by "dense" and by "bm25" among the best of that side, from 1; only sides that found it."""
    row: int
    """Row of the index."""
    payload: dict[str, Any] = field(repr=False, compare=False)
    """The product's columns, or those that the page was read with."""
    text: str | None = field(repr=False, compare=False)
    """The text that was embedded; None if the index stores no texts."""
    unreadable: tuple[str, ...] = field(default=(), repr=False, compare=False)
    """Columns with a value that Python cannot hold, such as a date after the year 9999: it is None."""


@dataclass(frozen=True)
class Group:
    """Products of a candidate set that have the same value in a column."""

    value: FacetValue | None
    """None for a product without a value, which is a group alone."""
    count: int
    """Number of the set's products in the group."""
    hits: list[Candidate]
    """The best products of the group; `rank` is their place in the whole set."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of a candidate set, in the order of their best products."""

    total: int
    """Number of groups of all products that the set's total counts."""
    size: int
    """Most products of a group in `Group.hits`."""
    window: int
    values: list[FacetValue]
    """Values of the first groups by number; later groups have none."""
    group_of: npt.NDArray[np.int64] = field(repr=False)
    """(n,) group of each ranked product."""
    counts: npt.NDArray[np.int64] = field(repr=False)
    """(total,) number of products in each group."""
    hits_at: Callable[[npt.NDArray[np.int64], Sequence[str] | None], list[Candidate]] = field(repr=False)
    """Returns the candidates at places of the set, with some of their columns."""

    def page(self, offset: int = 0, top_k: int = 10, *, columns: Sequence[str] | None = None) -> list[Group]:
        """Return `top_k` groups after the first `offset`; fewer at the end, none after it.

        Args:
            offset: Groups to leave out.
            top_k: Most groups to return.
            columns: Columns of the products to read; None is all.

        Raises:
            SearchError: The page is out of range or reaches beyond the window, or a column is unknown.
        """
        _check_page(offset, top_k, self.window)
        numbers = self._order[offset : offset + top_k].tolist()
        places = [np.flatnonzero(self.group_of == number)[: self.size] for number in numbers]
        every_place = np.concatenate([np.zeros(0, np.int64), *places])
        hits = iter(self.hits_at(every_place, columns))  # reads all at once
        return [
            Group(
                value=self.values[number] if number < len(self.values) else None,
                count=int(self.counts[number]),
                hits=list(islice(hits, len(of_group))),
            )
            for number, of_group in zip(numbers, places, strict=True)
        ]

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        """Numbers of the groups with a ranked product, best first."""
        groups, first = np.unique(self.group_of, return_index=True)
        return groups[np.argsort(first)]


@dataclass(frozen=True, eq=False)
class CandidateSet:
    """The products that answer a query, best first; equal scores are in order of product id.

    Query, filter, mode, threshold and window define the set. Total, pages, facets and groups all read it, so
    they cannot contradict each other.
    """

    query: str
    settings: CandidateSettings
    index: SearchIndex = field(repr=False)
    """Version of the index that was searched."""
    rows: Rows = field(repr=False)
    """(n,) ranked rows of the index, best first."""
    score: Scores = field(repr=False)
    """(n,) float32 scores that order the set: cosine, BM25 or fused."""
    total: Total
    unranked: Rows = field(repr=False)
    """Rows of mode "lexical" that the total counts and the window does not rank, in order of the rows."""
    dense_rank: Rows = field(repr=False)
    """(n,) ranks by cosine, from 1 to the window; 0 if that side did not find the product."""
    bm25_rank: Rows = field(repr=False)
    """(n,) ranks by BM25, from 1 to the window; 0 if that side did not find the product."""
    dense: Scores | None = field(default=None, repr=False)
    """(n,) float32 cosines; None in mode "lexical"."""
    bm25: Scores | None = field(default=None, repr=False)
    """(n,) float32 BM25 scores; None in mode "dense"."""
    fused: Scores | None = field(default=None, repr=False)
    """(n,) float32 fused scores; None except in mode "hybrid"."""
    rerank: Scores = field(default_factory=lambda: np.empty(0, np.float32), repr=False)
    """(m,) float32 scores that order the first m products, if a reranker did; the others follow."""

    @property
    def window(self) -> int:
        """Most products that can be paged through."""
        return self.settings.window

    @property
    def version(self) -> int:
        """Version of the index that was searched."""
        return self.index.manifest.version

    @property
    def products(self) -> pa.Table:
        """Products of the index."""
        return self.index.products

    @cached_property
    def product_ids(self) -> npt.NDArray[np.object_]:
        """(n,) ids of the ranked products, best first."""
        ids: npt.NDArray[np.object_] = self.products.column(ID_COLUMN).take(pa.array(self.rows)).to_numpy()
        return ids

    def page(
        self, offset: int = 0, top_k: int = 10, *, columns: Sequence[str] | None = None
    ) -> list[Candidate]:
        """Return `top_k` products after the first `offset`; fewer at the end, none after it.

        Args:
            offset: Products to leave out.
            top_k: Most products to return.
            columns: Columns of the products to read; None is all.

        Raises:
            SearchError: The page is out of range or reaches beyond the window, or a column is unknown.
        """
        _check_page(offset, top_k, self.window)
        return self._hits_at(np.arange(len(self.rows))[offset : offset + top_k], columns)

    def facets(self, fields: Iterable[str], size: int = 10) -> dict[str, Facet]:
        """Return the most frequent values of columns among all products that the total counts.

        Args:
            fields: Names of columns that a filter can compare; lists count each distinct item once.
            size: Most values per column.

        Raises:
            SearchError: A column is unknown or cannot be counted, or `size` is below 1.
        """
        check_count("size", size)
        names = dict.fromkeys(as_sequence(fields, "facets", SearchError))  # a column is counted once
        return {name: count_values(self.products, self._counted, name, size=size) for name in names}

    def grouped(self, field: str, group_size: int = 1) -> Groups:
        """Return the products grouped by a column, such as the parent of colour variants.

        A product without a value is a group alone. The set itself, its total and facets do not change.

        Args:
            field: Name of a column with a single value per product.
            group_size: Most products per group in `Group.hits`.

        Raises:
            SearchError: The column is unknown or cannot be grouped, or `group_size` is below 1.
        """
        check_count("group_size", group_size)
        groups, values = group_by_value(self.products, self._counted, field)
        return Groups(
            total=int(groups.max(initial=-1)) + 1,
            size=group_size,
            window=self.window,
            values=values,
            group_of=groups[: len(self.rows)],
            counts=np.bincount(groups),
            hits_at=self._hits_at,
        )

    @property
    def _counted(self) -> Rows:
        return np.concatenate([self.rows, self.unranked])

    def _hits_at(self, places: npt.NDArray[np.int64], columns: Sequence[str] | None) -> list[Candidate]:
        """Return the candidates at places of the set; their columns are read at once."""
        payloads, unreadable = python_rows(take_rows(self._read_columns(columns), self.rows[places]))
        named = {"dense": self.dense, "bm25": self.bm25, "fused": self.fused, "rerank": self.rerank}
        scores = {name: of for name, of in named.items() if of is not None}
        ranks = {"dense": self.dense_rank, "bm25": self.bm25_rank}
        return [
            Candidate(
                product_id=payload.pop(ID_COLUMN),
                rank=place + 1,
                score=float(self.score[place]),
                scores={name: float(of[place]) for name, of in scores.items() if place < len(of)},
                ranks={name: int(of[place]) for name, of in ranks.items() if of[place]},
                row=int(self.rows[place]),
                text=payload.pop(TEXT_COLUMN, None),
                payload=payload,
                unreadable=missing,
            )
            for place, payload, missing in zip(places.tolist(), payloads, unreadable, strict=True)
        ]

    def _read_columns(self, columns: Sequence[str] | None) -> pa.Table:
        """Return the products with ids, texts and the columns to read."""
        if columns is None:
            return self.products
        own = [name for name in (ID_COLUMN, TEXT_COLUMN) if name in self.products.column_names]
        known = [name for name in self.products.column_names if name not in own]
        names = list(dict.fromkeys(as_sequence(columns, "columns", SearchError)))
        for name in names:
            if name not in known:
                raise SearchError(f"columns: {unknown_column(name, known)}")
        return self.products.select([*own, *names])


def _check_page(offset: int, top_k: int, window: int) -> None:
    """Check that a page lies within the window."""
    check_count("offset", offset, lowest=0)
    check_count("top_k", top_k, lowest=0)
    if offset + top_k > window:
        raise SearchError(
            f"offset + top_k: must be at most the window of {window}, found {offset} + {top_k}; narrow the "
            "search with a filter, or search with a larger window"
        )
