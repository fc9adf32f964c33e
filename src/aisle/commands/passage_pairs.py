"""Read --pairs of `evaluate` and `build` from DPR's json and simpletransformers' columns too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aisle.data.pairs import PairColumns
from aisle.data.rows import Row

__all__ = ["passage_pairs"]


def passage_pairs(
    rows: Iterator[Row], wanted: PairColumns, log: Callable[[str], None]
) -> tuple[Iterator[Row], PairColumns]:
    """Return rows of pairs, and the columns to read from them.

    Args:
        rows: Rows of pairs, or of questions with passages.
        wanted: Columns that the user named; with a named query or product, the rows are pairs.
        log: Function called with the name of another layout.

    Raises:
        DataError: The rows are questions of DPR's json without positive passages.
    """
    from aisle.commands.train.read_part import peek_row
    from aisle.data.train_formats import own_format, row_format

    head, rows = peek_row(rows)
    found = None if head is None else own_format(head, wanted)
    layout = None if head is None or found is None else row_format(head, found, wanted=wanted)
    if layout is None:
        return rows, wanted
    log(f"pairs: {layout.description}; each positive passage is a pair")
    return layout.convert(rows), layout.columns
