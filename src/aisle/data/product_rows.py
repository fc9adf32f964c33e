"""A product out of a row: its id and its text, or what makes the row a bad one."""

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
"""Rows times columns of a batch at most: rows of JSON may have few columns each and very many together."""


class Product(NamedTuple):
    """A product of a row; `payload` is column to value, of the row's columns or some of them."""

    product_id: str
    text: str
    payload: Mapping[str, object]


class ProductParser:
    """Turns the rows of a catalogue into products.

    Args:
        id_column: the column of ids, texts or integers.
        template: the text out of a row's fields.
        known: the columns of the index that the products go into, and no others; None takes any.
    """

    def __init__(
        self, id_column: str, template: TextTemplate, *, known: Collection[str] | None = None
    ) -> None:
        self._id_column = id_column
        self._template = template
        self._known = known
        self._source: str | None = None
        self.columns: set[str] = {id_column}
        """All that rows had so far, and that of the ids."""

    def parse(self, row: Row) -> Product | Problem:
        """Return a row's product, or why it is none.

        Raises:
            DataError: a column is missing, or one of the payload has a name that the catalogue file uses.
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
        """Check the names of columns that no row had before."""
        for column in row.values.keys() - self.columns:
            if not is_unicode(column):
                return Problem("the name of a column is not valid Unicode", column)
            refuse_reserved(row.source, column)
        if self._known is not None:
            refuse_other_columns(row, self._id_column, self._known, partial=True)
        self.columns.update(row.values)
        return None


class PartialProductParser:
    """Turns rows that change some columns of known products into products without a text.

    Their payload has one column more, `GIVEN_COLUMN`: the columns that the row gives, as a JSON list.

    Args:
        id_column: the column of ids.
        known: the columns that can be changed.
    """

    def __init__(self, id_column: str, known: Collection[str]) -> None:
        self._id_column = id_column
        self._known = known
        self._columns: set[str] = {id_column}
        self._source: str | None = None

    def parse(self, row: Row) -> Product | Problem:
        """Return a row's id and the values that it gives, or why it is none.

        Raises:
            DataError: the column of ids is missing, or a column is not one of the index.
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
    """Turns the rows of pairs into the products that they list; the id of one without ids is its text.

    Args:
        text_column: the column of texts, and the only one of the payload.
        id_column: the column of ids; None when there are none.
    """

    def __init__(self, text_column: str, id_column: str | None) -> None:
        self._text_column = text_column
        self._id_column = id_column
        self._source: str | None = None

    def parse(self, row: Row) -> Product | Problem:
        """Return the product of a row, or why it has none.

        Raises:
            DataError: a column is missing, or that of the texts has a name that the catalogue file uses.
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
        row: the first of its source, or one with new columns.
        id_column: the column of ids.
        known: the columns of the index.
        partial: whether some may be missing.

    Raises:
        DataError: there are others, or one is missing; the message names all, each with the nearest name.
    """
    unknown = [column for column in row.values if column != id_column and column not in known]
    missing = [] if partial else [column for column in known if column not in row.values]
    if not unknown and not missing:
        return
    told = []
    for column in unknown:
        near = difflib.get_close_matches(column, known, n=1)
        told.append(f"{column!r} is no column of the index{f' (did you mean {near[0]!r}?)' if near else ''}")
    if missing:
        told.append(f"there is no column {', '.join(map(repr, missing))}, which the index has")
    mend = "Name the columns as the index does; a new one takes a build."
    if missing and not unknown:
        mend = "Give all columns, blank where there is no value, or change only those given with --partial."
    raise DataError(f"{row.source}: {'; '.join(told)}. {mend} The index has: {', '.join(known)}.")


def refuse_reserved(source: str, column: str) -> None:
    """Check that a payload column has no name that the catalogue file uses itself.

    Raises:
        DataError: it has.
    """
    if column == ID_COLUMN:
        raise DataError(
            f"{source}: the column {column!r} cannot be payload, for an index keeps its ids under this name; "
            f"rename the column, or take the ids from it with --id_column {ID_COLUMN}."
        )
    if column == TEXT_COLUMN:
        raise DataError(
            f"{source}: the column {column!r} cannot be payload, for a catalogue keeps what is embedded "
            "under this name; rename the column."
        )


@dataclass
class Window:
    """Rows that are looked at together, in reading order, each with its product or why it has none.

    Attributes:
        rows: at most `WINDOW_ROWS`, fewer where values are long or columns are many.
        untyped: whether the source of all of them has only texts (csv).
        declared: the types that their source declares, column by column.
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
        """Whether another row would make it too large."""
        rows = len(self.rows)
        return rows >= WINDOW_ROWS or self._size >= BATCH_SIZE or rows * len(self._columns) >= CELLS


def windows(rows: Iterable[Row], parse: Callable[[Row], Product | Problem]) -> Iterator[Window]:
    """Yield the rows in windows of bounded size, each of untyped sources or of the same declared types.

    Raises:
        DataError: as `parse` does.
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
