"""Read rows of clicks and impressions, sum them by pair, and convert them to rows of judged pairs."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.data.click_counts import ClickCounts
from aisle.data.digests import text_digest
from aisle.data.pair_cells import read_score
from aisle.data.pair_columns import PairColumns, find_pair_columns
from aisle.data.pairs import query_key
from aisle.data.rows import Problem, Row, require_columns
from aisle.errors import DataError

__all__ = ["CLICK_RELEVANCE", "ClickColumns", "SummedClicks", "sum_clicks"]

CLICK_RELEVANCE = "relevance from clicks"
"""Column of the relevance in converted rows."""

Rows = Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class ClickColumns:
    """Columns of the counts in a row: of a query with a product, or of an event or a day of it."""

    clicks: str
    impressions: str
    purchases: str | None = None
    position: str | None = None

    @property
    def counted(self) -> list[str]:
        """Columns of counts."""
        return [self.clicks, self.impressions, *([] if self.purchases is None else [self.purchases])]

    def check(self, row: Row) -> None:
        """Refuse a source that lacks a column.

        Raises:
            DataError: A column is missing.
        """
        require_columns(row, self.counted, flag="--label_from")
        require_columns(row, [self.position], flag="--position_column")

    def read(self, values: Mapping[str, object]) -> tuple[float, float, float, int] | Problem:
        """Return clicks, impressions, purchases and position of a row, or the problem with them."""
        counts: dict[str, float] = {}
        for column in self.counted:
            count = read_score(column, values.get(column))
            if isinstance(count, Problem):
                return count
            if count < 0:
                return Problem(f"{column} is negative", values.get(column))
            counts[column] = count
        impressions = counts[self.impressions]
        if not impressions:
            return Problem(
                f"{self.impressions} is 0; a product that was not shown cannot be clicked", impressions
            )
        for column, count in counts.items():
            if count > impressions:
                return Problem(f"{column} is more than {self.impressions} ({impressions:g})", count)
        clicks, purchases = counts[self.clicks], counts.get(self.purchases or "", 0.0)
        if self.position is None:
            return clicks, impressions, purchases, 1
        position = read_score(self.position, values.get(self.position))
        if isinstance(position, Problem):
            return position
        if position < 1 or position != int(position):
            return Problem(
                f"{self.position} is not a whole number from 1 (the top)", values.get(self.position)
            )
        return clicks, impressions, purchases, int(position)


@dataclass(frozen=True)
class SummedClicks:
    """Clicks of a source, summed by item: by query and product, or by query and group of variants.

    Attributes:
        counts: Counts of the rows with the number of their item.
        read: Number of rows that were read.
        rows: Function that yields the rows of the source.
        columns: Columns of the counts.
        pair_columns: Columns of query, product and group.
    """

    counts: ClickCounts
    read: int
    rows: Rows
    columns: ClickColumns
    pair_columns: PairColumns
    _item_of: Mapping[bytes, int]

    def judged_rows(self, relevance: npt.NDArray[np.float32]) -> Iterator[Row]:
        """Yield a row for each query and product: its first, with the relevance of its item.

        Rows with a problem are yielded as they are, to be counted.

        Args:
            relevance: (items,) relevance.
        """
        seen: set[bytes] = set()
        for row in self.rows():
            if row.problem is not None:
                yield row
                continue
            counts = self.columns.read(row.values)
            keys = _keys(row.values, self.pair_columns)
            if isinstance(counts, Problem):
                yield row._replace(values={}, problem=counts)
            elif keys is None:
                yield row  # a text is missing, which the reader of pairs reports
            elif keys[0] not in seen:
                seen.add(keys[0])
                found = float(relevance[self._item_of[keys[1]]])
                yield row._replace(values={**row.values, CLICK_RELEVANCE: found}, declared=None)


def sum_clicks(rows: Rows, columns: ClickColumns, *, wanted: PairColumns, by_id: bool) -> SummedClicks:
    """Return the clicks of a source, summed by item; rows that cannot be used are left out.

    Queries are equal if they differ only in case and white space.

    Args:
        rows: Function that yields the rows; it is called again to convert them.
        columns: Columns of the counts.
        wanted: Columns of the pairs that the user named.
        by_id: Whether products are named by id.

    Raises:
        DataError: A column is missing, the rows are texts with their groups, or no row can be used.
    """
    item_of: dict[bytes, int] = {}
    items, positions = array("q"), array("q")
    clicks, impressions, purchases = array("d"), array("d"), array("d")
    found: PairColumns | None = None
    source, read = None, 0
    for row in rows():
        read += 1
        if row.problem is not None:
            continue
        if row.source != source:
            columns.check(row)
            source = row.source
        found = found or _pair_columns(row, wanted, by_id=by_id)
        counts, keys = columns.read(row.values), _keys(row.values, found)
        if isinstance(counts, Problem) or keys is None:
            continue
        items.append(item_of.setdefault(keys[1], len(item_of)))
        for stored, count in zip((clicks, impressions, purchases), counts[:3], strict=True):
            stored.append(count)
        positions.append(counts[3])
    if not len(items):
        first = next((f": {problem.reason}" for problem in _problems(rows(), columns)), "")
        raise DataError(f"--label_from: none of {read:,} rows has usable clicks and impressions{first}.")
    summed = ClickCounts(
        *(np.asarray(values) for values in (items, positions)),
        *(np.asarray(values) for values in (impressions, clicks, purchases)),
    )
    assert found is not None  # there are items
    return SummedClicks(summed, read, rows, columns, found, item_of)


def _problems(rows: Iterable[Row], columns: ClickColumns) -> Iterator[Problem]:
    for row in rows:
        problem = row.problem or columns.read(row.values)
        if isinstance(problem, Problem):
            yield problem


def _pair_columns(row: Row, wanted: PairColumns, *, by_id: bool) -> PairColumns:
    found = find_pair_columns(row, wanted, by_id=by_id)
    if found.texts_of_groups:
        raise DataError(
            f"{row.source}: --label_from needs rows of a query and a product, and there is a single column "
            "of texts; name the other with --product_column."
        )
    return found


def _keys(values: Mapping[str, object], columns: PairColumns) -> tuple[bytes, bytes] | None:
    """Return the key of the pair, and that of its item; None if query or product is not a text."""
    query = values.get(columns.query or "")
    product = values.get(columns.product_id or columns.product or "")
    group = values.get(columns.group or "")
    if not isinstance(query, str) or not isinstance(product, str | int):
        return None
    key = query_key(query)
    pair = text_digest(f"{key}\0{product}")
    has_group = group is not None and str(group).strip()
    return pair, text_digest(f"{key}\0\0{group}") if has_group else pair
