"""Answers of a search: arrays for programs with many queries, and hits for programs that show a few."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.errors import SearchError
from aisle.index.products import take_rows
from aisle.index.python_values import python_rows
from aisle.index.scoring import Rows, Scores
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

__all__ = ["Hit", "SearchResult", "payload_of"]

LOGGER = logging.getLogger("aisle.index")


@dataclass(frozen=True)
class Hit:
    """A product that a search found."""

    rank: int
    """Place in the answer, from 1."""
    product_id: str
    score: float
    """Cosine, BM25, fused or reranked score; higher is better."""
    row: int
    """Row of the index."""
    cosine: float | None = field(repr=False)
    """Cosine of query and product if the score is fused or reranked; None otherwise."""
    _products: pa.Table = field(repr=False, compare=False)

    @cached_property
    def payload(self) -> dict[str, Any]:
        """The product's columns, read when they are first used; None for a value that Python cannot hold."""
        found: dict[str, Any] = payload_of(self._products, self.row)
        return found

    @cached_property
    def text(self) -> str | None:
        """The text that was embedded; None if the index stores no texts."""
        if TEXT_COLUMN not in self._products.column_names:
            return None
        found: str = (
            take_rows(self._products.select([TEXT_COLUMN]), np.array([self.row])).column(0)[0].as_py()
        )
        return found


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best products of each query, best first; equal scores are in order of product id.

    It is a sequence of the answers: `result[0]` is the list of hits of the first query.
    """

    rows: Rows
    """(queries, top_k) rows of the index, for `SearchIndex.payload`; -1 after the last of a short answer."""
    product_ids: npt.NDArray[np.object_]
    """(queries, top_k) str; None where the row is -1."""
    scores: Scores
    """(queries, top_k) float32: cosine, BM25 or fused score; -inf where the row is -1."""
    products: pa.Table = field(repr=False)
    """Products of the index, for the payload of the hits."""
    version: int
    """Version of the index that gave the answers."""
    cosines: Scores | None = None
    """(queries, top_k) float32 cosines if the scores are fused or reranked; None otherwise."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, query: int) -> list[Hit]:
        rows = self.rows[query].tolist()
        answer = zip(
            range(1, len(rows) + 1),
            self.product_ids[query].tolist(),
            self.scores[query].tolist(),
            rows,
            [None] * len(rows) if self.cosines is None else self.cosines[query].tolist(),
            strict=True,
        )
        return [Hit(*found, self.products) for found in answer if found[3] >= 0]

    def __iter__(self) -> Iterator[list[Hit]]:
        return (self[query] for query in range(len(self)))

    def payloads(self, query: int) -> list[dict[str, Any]]:
        """Return the columns of the products of one query's answer, best first, read at once."""
        found: list[dict[str, Any]] = payload_of(self.products, self.rows[query])
        return found

    def first(self, top_k: int) -> SearchResult:
        """Return the answers with at most `top_k` products each."""
        return replace(
            self,
            rows=self.rows[:, :top_k],
            product_ids=self.product_ids[:, :top_k],
            scores=self.scores[:, :top_k],
            cosines=None if self.cosines is None else self.cosines[:, :top_k],
        )

    def take(self, places: npt.NDArray[np.int64]) -> SearchResult:
        """Return the answers with other products or another order.

        Args:
            places: (queries, n) places in this result; -1 after the last of a short answer.
        """
        missing = places < 0
        at = np.where(missing, 0, places)

        def taken(values: npt.NDArray[Any], none: Any) -> npt.NDArray[Any]:
            return np.where(missing, none, np.take_along_axis(values, at, axis=1)).astype(values.dtype)

        return replace(
            self,
            rows=taken(self.rows, -1),
            product_ids=taken(self.product_ids, None),
            scores=taken(self.scores, -np.inf),
            cosines=None if self.cosines is None else taken(self.cosines, -np.inf),
        )


@overload
def payload_of(products: pa.Table, rows: int | np.integer[Any]) -> dict[str, Any]: ...
@overload
def payload_of(products: pa.Table, rows: Sequence[int] | npt.NDArray[np.integer[Any]]) -> list[Any]: ...
def payload_of(products: pa.Table, rows: Any) -> Any:
    """Return the payload of rows of an index, without the product ids; see `SearchIndex.payload`.

    Raises:
        SearchError: If a row is not in the index, or `rows` are not whole numbers.
    """
    given = np.asarray(rows)
    if given.size == 0:
        given = given.astype(np.int64)
    if given.ndim > 2 or given.dtype.kind not in "iu":
        raise SearchError(
            f"rows: must be a whole number, or an array of up to two dimensions of them, found "
            f"{given.shape} {given.dtype}; pass rows of a search's result"
        )
    if given.ndim == 2:
        return [payload_of(products, row) for row in given]
    if given.ndim == 1:  # -1 after the last of a short answer
        given = given[: len(given) - int(np.argmax(np.append(given[::-1] != -1, True)))]
    outside = given[(given < 0) | (given >= products.num_rows)]
    if outside.size:
        raise SearchError(
            f"rows: the index has rows 0 to {products.num_rows - 1}, found {int(outside.flat[0])}"
        )
    names = [name for name in products.column_names if name not in (ID_COLUMN, TEXT_COLUMN)]
    wanted = np.atleast_1d(given)
    found: list[dict[str, Any]] = [{} for _ in wanted]
    if names:
        found, unreadable = python_rows(take_rows(products.select(names), wanted))
        if missing := sorted({name for of_row in unreadable for name in of_row}):
            LOGGER.warning("%s: a value that Python cannot hold is None", ", ".join(missing))
    return found if given.ndim else found[0]
