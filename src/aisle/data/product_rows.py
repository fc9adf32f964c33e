"""Parse a row into a product with id, text and payload, or into the problem with the row."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aisle.data.files import is_untyped
from aisle.data.rows import Problem, Row, id_text, is_unicode, require_columns, text_problem
from aisle.data.templates import TextTemplate
from aisle.errors import DataError
from aisle.io.arrow_writer import BATCH_SIZE, value_size
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "CELLS",
    "GIVEN_COLUMN",
    "ListedProductParser",
    "PartialProductParser",
    "Product",
    "ProductParser",
    "Window",
    "windows",
]

GIVEN_COLUMN = "__given__"
"""Column of a file of changes: the names of the columns that a row gives."""

WINDOW_ROWS = 20_000
CELLS = 2**22
"""Largest product of rows and columns in a batch: JSON rows can have few columns each, but many together."""


class Product(NamedTuple):
    """The product of a row; `payload` is column to value, for some or all columns of the row."""

    product_id: str
    text: str
    payload: Mapping[str, object]


class ProductParser:
    """Parser from the rows of a catalogue to products.

    Args:
        id_column: Column of ids, which are texts or integers.
        template: Template of the text that is embedded.
        known: Columns of the index that the products are added to, the only ones allowed; None allows any.
    """

    def __init__(
        self, id_column: str, template: TextTemplate, *, known: Collection[str] | None = None
    ) -> None:
        self._id_column = id_column
        self._template = template
        self._known = known
        self._source: str | None = None
        self.columns: set[str] = {id_column}
        """Columns of the rows so far, and the id column."""

    def parse(self, row: Row) -> Product | Problem:
        """Return the product of a row, or the problem with it.

        Raises:
            DataError: A column is missing, or a payload column has a reserved name.
        """
        if row.problem is not None:
            return row.problem
        values = row.values
        if row.source != self._source:
            require_columns(row, [self._id_column], flag="--id_column")
            if self._known is not None:
                refuse_other_columns(row, self._id_column, self._known, partial=False)
            require_columns(row, self._template.fields, flag="--text_template")
            self._source = row.source
        if not values.keys() <= self.columns:
            unreadable = self._new_columns(row)
            if unreadable is not None:
                return unreadable
        product_id = id_text(values.get(self._id_column))
        if isinstance(product_id, Problem):
            return Problem(f"{self._id_column} {product_id.reason}", product_id.found)
        text = self._template.render(values)
        if isinstance(text, Problem):
            return text
        for column, value in values.items():
            if isinstance(value, str) and not value.isascii() and not is_unicode(value):
                return Problem(f"{column} is not valid Unicode", value)
        return Product(product_id, text, values)

    def _new_columns(self, row: Row) -> Problem | None:
        """Check the names of columns that earlier rows lacked."""
        for column in row.values.keys() - self.columns:
            if not is_unicode(column):
                return Problem("the name of a column is not valid Unicode", column)
            refuse_reserved(row.source, column)
        if self._known is not None:
            refuse_other_columns(row, self._id_column, self._known, partial=True)
        self.columns.update(row.values)
        return None


class PartialProductParser:
    """Parser from rows that change some columns of known products to products without a text.

    Their payload has an additional column, `GIVEN_COLUMN`: a JSON list of the columns that the row gives.

    Args:
        id_column: Column of ids.
        known: Columns that can be changed.
    """

    def __init__(self, id_column: str, known: Collection[str]) -> None:
        self._id_column = id_column
        self._known = known
        self._columns: set[str] = {id_column}
        self._source: str | None = None

    def parse(self, row: Row) -> Product | Problem:
        """Return the id and the values of a row, or the problem with it.

        Raises:
            DataError: The id column is missing, or the index lacks a column.
        """
        if row.problem is not None:
            return row.problem
        if row.source != self._source:
            require_columns(row, [self._id_column], flag="--id_column")
            self._source = row.source
        if not row.values.keys() <= self._columns:
            refuse_other_columns(row, self._id_column, self._known, partial=True)
            self._columns.update(row.values)
        product_id = id_text(row.values.get(self._id_column))
        if isinstance(product_id, Problem):
            return Problem(f"{self._id_column} {product_id.reason}", product_id.found)
        given = [column for column in row.values if column != self._id_column]
        if not given:
            return Problem("the row gives no column to change", product_id)
        for column in given:
            value = row.values[column]
            if isinstance(value, str) and not is_unicode(value):
                return Problem(f"{column} is not valid Unicode", value)
        return Product(product_id, "", {**row.values, GIVEN_COLUMN: json.dumps(given)})


class ListedProductParser:
    """Parser from the rows of pairs to their products; without ids, the text of a product is its id.

    Args:
        text_column: Column of texts, the only one of the payload.
        id_column: Column of ids; None if there is none.
    """

    def __init__(self, text_column: str, id_column: str | None) -> None:
        self._text_column = text_column
        self._id_column = id_column
        self._source: str | None = None

    def parse(self, row: Row) -> Product | Problem:
        """Return the product of a row, or the problem with it.

        Raises:
            DataError: A column is missing, or the text column has a reserved name.
        """
        if row.problem is not None:
            return row.problem
        if row.source != self._source:
            require_columns(row, [self._text_column, self._id_column])
            refuse_reserved(row.source, self._text_column)
            self._source = row.source
        text = row.values.get(self._text_column)
        reason = text_problem(text)
        if reason is not None:
            return Problem(f"{self._text_column} {reason}", text)
        payload = {self._text_column: text}
        if self._id_column is None:
            return Product(str(text), str(text), payload)
        product_id = id_text(row.values.get(self._id_column))
        if isinstance(product_id, Problem):
            return Problem(f"{self._id_column} {product_id.reason}", product_id.found)
        return Product(product_id, str(text), payload)


def refuse_other_columns(row: Row, id_column: str, known: Collection[str], *, partial: bool) -> None:
    """Check that a row has the columns of an index, and no others.

    Args:
        row: First row of a source, or a row with new columns.
        id_column: Column of ids.
        known: Columns of the index.
        partial: Whether columns can be missing.

    Raises:
        DataError: Columns are unknown or missing; the message names them with the most similar names.
    """
    unknown = [column for column in row.values if column != id_column and column not in known]
    missing = [] if partial else [column for column in known if column not in row.values]
    if not unknown and not missing:
        return
    problems = []
    for column in unknown:
        near = difflib.get_close_matches(column, known, n=1)
        problems.append(
            f"{column!r} is not a column of the index{f' (did you mean {near[0]!r}?)' if near else ''}"
        )
    if missing:
        problems.append(f"there is no column {', '.join(map(repr, missing))}, which the index has")
    mend = "Use the column names of the index; to add a column, build the index again."
    if missing and not unknown:
        mend = (
            "Give all columns, blank if there is no value, or use --partial to change only the columns given."
        )
    raise DataError(f"{row.source}: {'; '.join(problems)}. {mend} The index has: {', '.join(known)}.")


def refuse_reserved(source: str, column: str) -> None:
    """Check that a payload column has no reserved name.

    Raises:
        DataError: The name is reserved.
    """
    if column == ID_COLUMN:
        raise DataError(
            f"{source}: the column {column!r} cannot be payload, because an index stores its ids under this "
            f"name; rename the column, or use it as ids with --id_column {ID_COLUMN}."
        )
    if column == TEXT_COLUMN:
        raise DataError(
            f"{source}: the column {column!r} cannot be payload, because a catalogue stores the embedded "
            "text under this name; rename the column."
        )


@dataclass
class Window:
    """Rows that are processed together, in reading order, each with its product or its problem.

    Attributes:
        rows: At most `WINDOW_ROWS`, fewer if values are long or columns are many.
        untyped: Whether all come from a source with texts only (csv).
        declared: Types that the source declares, by column.
    """

    untyped: bool
    declared: Mapping[str, pa.DataType] | None = None
    rows: list[tuple[Row, Product | Problem]] = field(default_factory=list)
    _columns: set[str] = field(default_factory=set)
    _size: int = 0

    def add(self, row: Row, product: Product | Problem) -> None:
        """Add a row."""
        self.rows.append((row, product))
        if not row.values.keys() <= self._columns:
            self._columns.update(row.values)
        self._size += value_size(row.values.values())

    @property
    def full(self) -> bool:
        """Whether the window has its largest size."""
        rows = len(self.rows)
        return rows >= WINDOW_ROWS or self._size >= BATCH_SIZE or rows * len(self._columns) >= CELLS


def windows(rows: Iterable[Row], parse: Callable[[Row], Product | Problem]) -> Iterator[Window]:
    """Yield rows in windows of bounded size; a window is either untyped or has the same declared types.

    Raises:
        DataError: If `parse` raises it.
    """
    source, window = None, Window(untyped=False)
    for row in rows:
        untyped = window.untyped if row.source == source else is_untyped(row.source)
        source = row.source
        other = untyped != window.untyped or row.declared is not window.declared
        if window.rows and (other or window.full):
            yield window
            window = Window(untyped)
        window.untyped, window.declared = untyped, row.declared
        window.add(row, parse(row))
    if window.rows:
        yield window
