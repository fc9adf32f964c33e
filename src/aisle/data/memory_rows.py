"""Rows from Python objects: lists of dicts, pandas frames and `datasets` data sets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aisle.data.arrow_rows import declared_types, table_rows
from aisle.data.files import fill_columns
from aisle.data.rows import Problem, Row
from aisle.errors import DataError

if TYPE_CHECKING:
    import datasets
    import pandas as pd

__all__ = ["memory_rows", "splits_in_memory"]

_BATCH = 4096


def splits_in_memory(data: object) -> Mapping[str, object] | None:
    """Return the splits of a `datasets.DatasetDict`; None for every other object."""
    return data if isinstance(data, _loaded("datasets", "DatasetDict")) else None


def memory_rows(data: object, *, name: str) -> Callable[[], Iterator[Row]]:
    """Return a function that yields the rows of a Python object; it can be called again.

    Rows are equal to those of a jsonl file with the same contents. A NaN of a pandas frame is null.

    Args:
        data: A sequence of mappings from column to value, a pandas frame or a `datasets.Dataset`.
        name: Argument that holds the data, for messages: bad rows are named by it and their number.

    Raises:
        DataError: The object is of another type, or a column of a frame mixes types.
    """
    if isinstance(data, _loaded("pandas", "DataFrame")):
        table = _frame_table(data, name)
        return lambda: table_rows(table, source=name, first=1, declared=declared_types(table.schema))
    if isinstance(data, _loaded("datasets", "Dataset")):
        return lambda: _dataset_rows(data, name)
    if isinstance(data, Sequence) and not isinstance(data, str | bytes):
        return lambda: fill_columns(_row(item, name, number) for number, item in enumerate(data, start=1))
    raise DataError(
        f"{name}: must be a list of dicts, a pandas DataFrame, a datasets.Dataset, or paths of files; "
        f"found {type(data).__module__}.{type(data).__qualname__}"
    )


def _loaded(module: str, name: str) -> Any:
    """Return a class if its library is loaded, else an empty tuple, for `isinstance`."""
    return getattr(sys.modules.get(module), name, ())


def _row(item: object, name: str, number: int) -> Row:
    if isinstance(item, Mapping):
        return Row(name, number, {str(column): _plain(value) for column, value in item.items()})
    return Row(name, number, {}, None, Problem("is not a mapping from column to value", item))


def _plain(value: Any) -> object:
    """Return a NumPy number as a Python number, and everything else as it is."""
    is_numpy = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    return value.item() if is_numpy else value


def _frame_table(frame: pd.DataFrame, name: str) -> Any:
    import pyarrow as pa

    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        reason = "; ".join(str(part) for part in error.args)
        raise DataError(f"{name}: the frame cannot be read: {reason}") from None


def _dataset_rows(data: datasets.Dataset, name: str) -> Iterator[Row]:
    first = 1
    for table in data.with_format("arrow").iter(batch_size=_BATCH):
        yield from table_rows(table, source=name, first=first, declared=declared_types(table.schema))
        first += table.num_rows
