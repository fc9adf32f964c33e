"""Filters over the products' columns, such as `price <= 50 and brand in ['Acme', 'Zenith']`.

Python's own parser reads an expression, and each node of an allowed kind is translated to Arrow functions;
the expression is never run as Python. Missing values follow Kleene's three-valued logic, as in SQL: a
comparison with a missing value is neither true nor false, and a row satisfies a filter only if it is true.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aisle.errors import SearchError
from aisle.index.filter_syntax import GRAMMAR, Expression, column_name, function_of, is_unicode, window
from aisle.index.filter_values import (
    Column,
    Value,
    column_of,
    compare,
    has_item,
    is_one_of,
    scalar_of,
    unknown_column,
)
from aisle.types.columns import TEXT_COLUMN

__all__ = ["Filter", "filter_clauses", "parse_filter"]

Condition = Callable[[pa.RecordBatch], pa.Array]

MAX_DEPTH = 50
BATCH_ROWS = 131_072
CHECKED_ROWS = 16_384
"""Rows of a batch if the work may end between batches; a filter of 400 text searches takes 1.1 s for them."""
BITWISE = {ast.BitAnd: "and", ast.BitOr: "or", ast.Invert: "not"}
SYMBOLS = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


@dataclass(frozen=True)
class Filter:
    """A condition on the columns of a product."""

    text: str
    columns: tuple[str, ...]
    """Columns that the condition reads."""
    condition: Condition
    """Returns true, false or null for each row of a batch of `columns`."""

    def mask(self, products: pa.Table, *, between: Callable[[], None] | None = None) -> npt.NDArray[np.bool_]:
        """Return whether each product satisfies the filter: (rows,) bool.

        Only the filter's columns are read, a batch at a time: a memory-mapped table is not copied.

        Args:
            products: The products.
            between: Function called before every few thousand products; an error that it raises ends this.

        Raises:
            SearchError: A value cannot be compared, such as a whole number beyond 2^63.
        """
        satisfied = np.zeros(products.num_rows, np.bool_)
        done = 0
        most = BATCH_ROWS if between is None else CHECKED_ROWS
        for batch in products.select(self.columns).to_batches(max_chunksize=most):
            if between is not None:
                between()
            rows = slice(done, done + len(batch))
            satisfied[rows] = self._evaluate(batch).fill_null(False).to_numpy(zero_copy_only=False)
            done += len(batch)
        return satisfied

    def result(self, product: pa.RecordBatch) -> bool | None:
        """Return the result for a product; None if it is unknown because of a missing value.

        Args:
            product: A batch of one row with the filter's columns.
        """
        found: bool | None = self._evaluate(product)[0].as_py()
        return found

    def _evaluate(self, batch: pa.RecordBatch) -> pa.Array:
        try:
            return self.condition(batch)
        except pa.ArrowException as error:
            raise SearchError(
                f"where: cannot be answered: {error}; compare with other values in {window(self.text, 0)}"
            ) from None


def parse_filter(text: str, schema: pa.Schema) -> Filter:
    """Return the filter that an expression describes.

    Grammar: `==`, `!=`, `<`, `<=`, `>`, `>=` (also chained: `10 <= price <= 50`), `in` and `not in` a list,
    `'red' in colours` for a column of lists or texts, `contains(title, 'sofa')`, `startswith(title, 'red')`
    (also as `title.startswith('red')`), `is None`, `is not None`, `and`, `or`, `not` and parentheses, over
    columns, numbers, quoted texts, `True` and `False`; a column of true or false is a condition itself. A
    column is its name, or `col("list price")`. The words may be in upper case, as in SQL. Dates and times
    are ISO 8601 texts. Texts compare by code point; NaN compares as a number that is unequal to all. A
    column that never had a value satisfies no comparison.

    Args:
        text: The expression.
        schema: Schema of the products.

    Raises:
        SearchError: The expression does not follow the grammar, a column is unknown, or types do not match;
            the message quotes the wrong part.
    """
    if not isinstance(text, str):
        raise SearchError(f"where: must be text, found {text!r}")
    names = [name for name in schema.names if name != TEXT_COLUMN]
    expression = Expression.of(text, names)
    tree = expression.tree()
    translator = _Translator(expression, {name: schema.field(name) for name in names})
    condition = translator.condition(tree, depth=0)
    used = {column_name(node) for node in ast.walk(tree)}
    found = Filter(expression.text, tuple(name for name in names if name in used), condition)
    found._evaluate(pa.RecordBatch.from_pylist([], pa.schema([schema.field(name) for name in found.columns])))
    return found


def filter_clauses(text: str, schema: pa.Schema) -> list[Filter]:
    """Return the comparisons that a filter joins by `and`, `or` and `not`, each as a filter, in their order.

    Args:
        text: The filter.
        schema: Schema of the products.

    Raises:
        SearchError: As in `parse_filter`.
    """
    parse_filter(text, schema)
    expression = Expression.of(text, [name for name in schema.names if name != TEXT_COLUMN])
    return [parse_filter(expression.part(node), schema) for node in _clauses(expression.tree())]


def _clauses(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            yield from _clauses(part)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield from _clauses(node.operand)
    else:
        yield node


@dataclass(frozen=True)
class _Translator:
    expression: Expression
    fields: Mapping[str, pa.Field]

    def condition(self, node: ast.expr, *, depth: int) -> Condition:
        """Return the condition for a part of the tree."""
        if depth > MAX_DEPTH:
            raise self.expression.refusal(node, f"conditions may be nested {MAX_DEPTH} deep; flatten it")
        if isinstance(node, ast.BoolOp):
            combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            return _combined(combine, [self.condition(part, depth=depth + 1) for part in node.values])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return _inverted(self.condition(node.operand, depth=depth + 1))
        if isinstance(node, ast.Compare):
            pairs = zip(node.ops, pairwise([node.left, *node.comparators]), strict=True)
            return _combined(pc.and_kleene, [self.comparison(op, *sides) for op, sides in pairs])
        if (called := function_of(node)) is not None:
            return self.function(*called, node)
        operand = self.operand(node)
        if not isinstance(operand, Column):
            raise self.expression.refusal(node, "a value alone is not a condition; compare a column with it")
        if operand.kind == "nothing":
            return lambda batch: pa.nulls(len(batch), pa.bool_())
        if operand.kind != "true or false":
            raise self.expression.refusal(
                node, f"{operand} and is not a condition by itself; compare it with a value"
            )
        return operand.values

    def comparison(self, op: ast.cmpop, left: ast.expr, right: ast.expr) -> Condition:
        """Return the condition of a single comparison operator."""
        if isinstance(op, ast.In | ast.NotIn):
            holds = self.membership(left, right)
            return holds if isinstance(op, ast.In) else _inverted(holds)
        if isinstance(op, ast.Is | ast.IsNot):
            missing = self.missing(left, right)
            return missing if isinstance(op, ast.Is) else _inverted(missing)
        symbol = SYMBOLS[type(op)]
        sides = [self.operand(left), self.operand(right)]
        columns = [side for side in sides if isinstance(side, Column)]
        if not columns:
            raise self.expression.refusal(
                left, f"two values are compared by {symbol}; one side must be a column"
            )
        kinds = {column.kind for column in columns} - {"nothing"}
        if len(kinds) > 1:
            raise self.expression.refusal(left, f"{columns[0]} and {columns[1]}; both must hold the same")
        self.comparable(columns[0], left)
        if columns[0].kind == "true or false" and symbol not in {"==", "!="}:
            raise self.expression.refusal(left, f"{columns[0]}, which have no order; use == or !=")
        get_left, get_right = (
            self.getter(side, columns[0], node) for side, node in zip(sides, (left, right), strict=True)
        )
        return lambda batch: compare(symbol, get_left(batch), get_right(batch))

    def getter(self, side: Column | Value, column: Column, node: ast.expr) -> Condition:
        """Return a function from a batch to one side of a comparison."""
        if isinstance(side, Column):
            return side.values
        scalar = self.scalar(side, column, node)
        return lambda _: scalar

    def membership(self, left: ast.expr, right: ast.expr) -> Condition:
        """Return the condition `left in right`: a column in values, or a value in a column."""
        column = self.operand(left)
        if not isinstance(column, Column):
            if isinstance(right, ast.List | ast.Tuple | ast.Set | ast.Constant):
                raise self.expression.refusal(
                    left, "one side of in must be a column: brand in ['Acme'], or 'red' in colours"
                )
            return self.held(column, left, right)
        if column.kind == "lists":
            raise self.expression.refusal(left, f"{column}; ask for one item: 'red' in {column.name}")
        self.comparable(column, left)
        if not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self.expression.refusal(
                right, "the right side of in must be a list, such as ['Acme', 'Zenith']"
            )
        wanted = []
        for part in right.elts:
            value = self.operand(part)
            if isinstance(value, Column):
                raise self.expression.refusal(part, "a list holds values, not columns; quote texts")
            wanted.append(self.scalar(value, column, part))
        return lambda batch: is_one_of(column.values(batch), wanted)

    def held(self, value: Value, node: ast.expr, right: ast.expr) -> Condition:
        """Return the condition that a list contains a value, or that a text contains another text."""
        column = self.operand(right)
        if not isinstance(column, Column) or column.kind not in {"lists", "texts", "nothing"}:
            prefix = f"{column}; only" if isinstance(column, Column) else "only"
            raise self.expression.refusal(right, f"{prefix} lists and texts can contain a value")
        if column.kind == "nothing":
            return lambda batch: pa.nulls(len(batch), pa.bool_())
        if column.kind == "texts":
            if not isinstance(value, str):
                raise self.expression.refusal(node, f"{column} and has only texts in it, found {value!r}")
            return lambda batch: pc.match_substring(column.values(batch), value)
        items = column.items
        self.comparable(items, right)
        wanted = self.scalar(value, items, node)
        return lambda batch: has_item(batch.column(column.name), wanted, items)

    def function(self, name: str, of: ast.expr, arguments: Sequence[ast.expr], node: ast.expr) -> Condition:
        """Return the condition `contains(title, 'sofa')` or `title.startswith('red')`."""
        if len(arguments) != 1:
            raise self.expression.refusal(node, f"{name} takes a column and one text: {name}(title, 'red')")
        column, value = self.operand(of), self.operand(arguments[0])
        if not isinstance(column, Column) or isinstance(value, Column):
            raise self.expression.refusal(node, f"{name} takes a column and a value: {name}(title, 'red')")
        if name == "contains":
            return self.held(value, arguments[0], of)
        if column.kind == "nothing":
            return lambda batch: pa.nulls(len(batch), pa.bool_())
        if column.kind != "texts" or not isinstance(value, str):
            raise self.expression.refusal(node, f"{column}; startswith compares texts with a quoted text")
        return lambda batch: pc.starts_with(column.values(batch), value)

    def missing(self, left: ast.expr, right: ast.expr) -> Condition:
        """Return the condition `left is None`."""
        column = self.operand(left)
        if not isinstance(column, Column) or not isinstance(right, ast.Constant) or right.value is not None:
            raise self.expression.refusal(left, "is compares a column with None only; use == for values")
        return lambda batch: pc.is_null(batch.column(column.name))

    def comparable(self, column: Column, node: ast.expr) -> None:
        """Refuse columns that cannot be compared: lists, objects and bytes."""
        if column.kind == "lists":
            raise self.expression.refusal(
                node, f"{column} that have no comparison; ask for one item: 'red' in {column.name}"
            )
        if column.kind is None:
            raise self.expression.refusal(
                node, f"{column} that have no comparison; only is None may ask about them"
            )

    def scalar(self, value: Value, column: Column, node: ast.expr) -> pa.Scalar:
        """Return a value in the type in which a column is compared; refuse other kinds of values."""
        try:
            return scalar_of(value, column)
        except ValueError as error:
            raise self.expression.refusal(node, str(error)) from None

    def operand(self, node: ast.expr) -> Column | Value:
        """Return the column or the value of a part of the tree."""
        name = column_name(node)
        if name is not None:
            if name not in self.fields:
                unknown = unknown_column(name, list(self.fields))
                raise self.expression.refusal(node, f"{unknown}; a text is written in quotes")
            return column_of(self.fields[name])
        sign, number = 1, node
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            sign, number = (-1 if isinstance(node.op, ast.USub) else 1), node.operand
        value = number.value if isinstance(number, ast.Constant) else ...
        if number is not node and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise self.expression.refusal(node, "a sign belongs to a number")
        if value is None:
            raise self.expression.refusal(node, "None cannot be compared; write is None or is not None")
        if not isinstance(value, str | int | float):
            other = BITWISE.get(type(getattr(node, "op", None)))  # type: ignore[arg-type]
            raise self.expression.refusal(
                node, f"write {other} instead" if other else f"is not understood; {GRAMMAR}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise self.expression.refusal(node, "the number is too large")
        if isinstance(value, str) and not is_unicode(value):
            raise self.expression.refusal(node, "the text is not valid Unicode; repair it")
        return value if isinstance(value, bool | str) else sign * value


def _combined(combine: Callable[..., pa.Array], conditions: Sequence[Condition]) -> Condition:
    return lambda batch: reduce(combine, (condition(batch) for condition in conditions))


def _inverted(condition: Condition) -> Condition:
    return lambda batch: pc.invert(condition(batch))
