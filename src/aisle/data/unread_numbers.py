"""Find columns of numbers that may be the relevance although no label column was found."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

from aisle.data.rows import Row
from aisle.errors import DataError

__all__ = ["NO_LABELS", "is_id_column", "unread_numbers"]

NO_LABELS = "none"
"""Value of --label_column: every pair is a positive, whatever other columns there are."""
_JUDGEMENT = re.compile(
    r"(?<![a-z])(scores?|ratings?|grades?|gains?|rel|relevan\w*|judg\w*|labels?|targets?|similarity|sim|stars?)"
    r"(?![a-z])"
)
_ID = re.compile(r"(^|[_\W])(ids?|idx|index|number|no|guid|uuid|qid|pid|docid)$")
_CAPITAL_ID = re.compile(r"[a-z](ID|Id)$")
"""End of names such as pairID, as SNLI has it."""
_UNNAMED = re.compile(r"|Unnamed: \d+")
"""Names of the row numbers that pandas writes and reads."""
_SHOWN = 5


def unread_numbers(rows: Sequence[Row], *, read: Collection[str]) -> tuple[str, ...]:
    """Return the columns of numbers that are not read, when no label column was found.

    Args:
        rows: First good rows of the data.
        read: Columns that are read.

    Raises:
        DataError: A column has the name or the values of a relevance. Without it, pairs judged wrong would be
            trained as positives.
    """
    found, suspicious = [], []
    for column in dict.fromkeys(name for row in rows for name in row.values):
        if column in read or is_id_column(column):
            continue
        numbers = _numbers([row.values.get(column) for row in rows])
        if not numbers:
            continue
        found.append(column)
        if _JUDGEMENT.search(column.lower()) or (len(numbers) > 1 and all(0 <= one <= 1 for one in numbers)):
            suspicious.append((column, numbers))
    if suspicious:
        column, numbers = suspicious[0]
        shown = ", ".join(f"{number:g}" for number in sorted(numbers)[:_SHOWN])
        more = ", ..." if len(numbers) > _SHOWN else ""
        raise DataError(
            f"{rows[0].source}: no column is read as relevance, so every pair would count as a positive; "
            f"but {column!r} holds numbers that may be the relevance ({shown}{more}). Give "
            f"--label_column {column}, or --label_column {NO_LABELS} if every pair is a positive."
        )
    return tuple(found)


def is_id_column(name: str) -> bool:
    """Return whether a column has the name of ids or row numbers, such as id, pairID or product_id."""
    return bool(_ID.search(name.lower()) or _CAPITAL_ID.search(name) or _UNNAMED.fullmatch(name))


def _numbers(values: Sequence[object]) -> set[float]:
    """Return the distinct numbers of a column; empty if it holds anything else but blanks."""
    found = set()
    for value in values:
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, int | float | str):
            return set()
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return set()
        if math.isfinite(number):
            found.add(number)
    return found
