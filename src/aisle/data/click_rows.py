"""Sum rows of clicks by pair, and convert them to rows of judged pairs."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aisle.data.click_columns import ClickColumns
from aisle.data.click_counts import ClickCounts
from aisle.data.click_pairs import PairNumbers
from aisle.data.pair_columns import PairColumns, find_pair_columns
from aisle.data.rows import Problem, Row, require_columns
from aisle.errors import DataError

__all__ = ["CLICK_RELEVANCE", "SummedClicks", "sum_clicks"]

CLICK_RELEVANCE = "relevance from clicks"
"""Column of the relevance in converted rows."""

Rows = Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class SummedClicks:
    """Clicks of a source, summed by item: by query and product, or by query and group of variants.

    Attributes:
        counts: Counts of the rows with the number of their item.
        read: Number of rows that were read.
        rows: Function that yields the rows of the source.
        columns: Columns of the counts.
    """

    counts: ClickCounts
    read: int
    rows: Rows
    columns: ClickColumns
    _numbers: PairNumbers

    def judged_rows(self, relevance: npt.NDArray[np.float32]) -> Iterator[Row]:
        """Yield a row for each query and product: its first, with its item's relevance and its group.

        Rows with a problem are yielded without values, to be counted.

        Args:
            relevance: (items,) relevance.
        """
        numbers = self._numbers
        found, groups = relevance[numbers.items()].tolist(), numbers.groups()
        group = numbers.columns.group
        seen = bytearray(len(numbers))
        for row in self.rows():
            if row.problem is not None:
                yield row
                continue
            counts = self.columns.read(row.values)
            pair = counts if isinstance(counts, Problem) else numbers.find(row.values)
            if isinstance(pair, Problem):
                yield row._replace(values={}, problem=pair)
            elif not seen[pair]:
                seen[pair] = True
                grouped = {} if group is None else {group: groups[pair]}
                values = {**row.values, CLICK_RELEVANCE: found[pair], **grouped}
                yield row._replace(values=values, declared=None)


def sum_clicks(rows: Rows, columns: ClickColumns, *, wanted: PairColumns, by_id: bool) -> SummedClicks:
    """Return the clicks of a source, summed by item; rows that cannot be used are left out.

    Args:
        rows: Function that yields the rows; it is called again to convert them.
        columns: Columns of the counts.
        wanted: Columns of the pairs that the user named.
        by_id: Whether products are named by id.

    Raises:
        DataError: A column is missing, the rows are texts with their groups, or no row can be used.
    """
    pairs, positions = array("q"), array("q")
    clicks, impressions, purchases = array("d"), array("d"), array("d")
    numbers: PairNumbers | None = None
    source, read = None, 0
    first: Problem | None = None
    for row in rows():
        read += 1
        if row.problem is not None:
            first = first or row.problem
            continue
        if numbers is None:
            numbers = PairNumbers(_pair_columns(row, wanted, by_id=by_id))
        if row.source != source:
            columns.check(row)
            named = numbers.columns
            require_columns(row, [named.query, named.product, named.product_id, named.group])
            source = row.source
        counts = columns.read(row.values)
        pair = counts if isinstance(counts, Problem) else numbers.add(row.values)
        if isinstance(counts, Problem) or isinstance(pair, Problem):
            first = first or (pair if isinstance(pair, Problem) else None)
            continue
        pairs.append(pair)
        for stored, count in zip((clicks, impressions, purchases), counts[:3], strict=True):
            stored.append(count)
        positions.append(counts[3])
    if numbers is None or not len(pairs):
        reason = "" if first is None else f": {first.reason}"
        raise DataError(f"--label_from: none of {read:,} rows has usable clicks and impressions{reason}.")
    summed = ClickCounts(
        numbers.items()[np.asarray(pairs)],
        np.asarray(positions),
        *(np.asarray(values) for values in (impressions, clicks, purchases)),
    )
    return SummedClicks(summed, read, rows, columns, numbers)


def _pair_columns(row: Row, wanted: PairColumns, *, by_id: bool) -> PairColumns:
    found = find_pair_columns(row, wanted, by_id=by_id)
    if found.texts_of_groups:
        raise DataError(
            f"{row.source}: --label_from needs rows of a query and a product, and there is a single column "
            "of texts; name the other with --product_column."
        )
    return found
