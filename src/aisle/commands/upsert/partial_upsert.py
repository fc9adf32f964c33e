"""Merge partial changes, which have only some columns, into the products of an index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aisle.data.partial_changes import GIVEN_COLUMN
from aisle.data.rows import Problem, shorten
from aisle.data.templates import TextTemplate, parse_template
from aisle.errors import ConfigError, DataError
from aisle.index.products import take_rows
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

__all__ = ["Merged", "merge_changes"]

MERGED_ROWS = 8192

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Merged:
    """Changed products with all their columns, in a file.

    Attributes:
        path: Arrow IPC file with the columns of the index and the texts, in the form of a catalogue file.
        row: Row of each product in the index, (products,).
        has_new_text: Mask of the products with another text than the index embedded, (products,).
    """

    path: Path
    row: Rows
    has_new_text: Mask


def merge_changes(
    old: pa.Table, changes: pa.Table, path: Path, *, template: str | None, id_column: str
) -> Merged:
    """Write the changed products, with the changes applied, to a file.

    The text is made again if a change has a column of the template.

    Args:
        old: Products of the index.
        changes: Table that `write_partial_changes` wrote; all its ids are in `old`.
        path: File to write.
        template: Template of the texts.
        id_column: Name that the template uses for the id.

    Raises:
        ConfigError: The template is not known.
        DataError: A text would be blank.
    """
    if template is None:
        raise ConfigError(
            "--text_template: the index does not record a template; give the template of its products"
        )
    parsed = parse_template(template)
    place = pc.index_in(changes.column(ID_COLUMN), value_set=old.column(ID_COLUMN))
    row = place.combine_chunks().to_numpy(zero_copy_only=False).astype(np.int64)
    schema = _merged_schema(old.schema, changes.schema)
    has_new_text = np.zeros(len(row), np.bool_)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, len(row), MERGED_ROWS):
            part = slice(start, start + MERGED_ROWS)
            before, given = take_rows(old, row[part]), changes.slice(start, MERGED_ROWS)
            columns = _merged_columns(before, given, schema)
            texts, new = _texts(columns, before, given, parsed, id_column)
            columns[TEXT_COLUMN] = texts
            has_new_text[part] = new
            writer.write_table(pa.table([columns[name] for name in schema.names], schema=schema))
    return Merged(path, row, has_new_text)


def _merged_schema(old: pa.Schema, changes: pa.Schema) -> pa.Schema:
    """Return the index's columns, each with the type that holds old and new values, and the texts."""
    fields = [pa.field(ID_COLUMN, pa.string()), pa.field(TEXT_COLUMN, pa.string())]
    for field in old:
        if field.name in {ID_COLUMN, TEXT_COLUMN}:
            continue
        plain = field.with_type(_plain(field.type))
        if field.name in changes.names:
            both = [pa.schema([plain]), pa.schema([changes.field(field.name)])]
            plain = plain.with_type(pa.unify_schemas(both, promote_options="permissive").field(0).type)
        fields.append(plain)
    return pa.schema(fields)


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _merged_columns(before: pa.Table, given: pa.Table, schema: pa.Schema) -> dict[str, pa.Array]:
    names = given.column(GIVEN_COLUMN).to_pylist()
    sets = {text: frozenset(json.loads(text)) for text in set(names)}
    count = before.num_rows
    columns: dict[str, pa.Array] = {ID_COLUMN: before.column(ID_COLUMN).combine_chunks()}
    for field in schema:
        if field.name in {ID_COLUMN, TEXT_COLUMN}:
            continue
        column = _one_chunk(before.column(field.name), field.type)
        if field.name in given.column_names:
            is_given = np.array([field.name in sets[text] for text in names])
            both = pa.concat_arrays([column, _one_chunk(given.column(field.name), field.type)])
            column = both.take(pa.array(np.arange(count) + count * is_given))
        columns[field.name] = column
    return columns


def _one_chunk(column: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    whole = column.cast(kind).combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


def _texts(
    columns: dict[str, pa.Array],
    before: pa.Table,
    given: pa.Table,
    template: TextTemplate,
    id_column: str,
) -> tuple[pa.Array, Mask]:
    """Return the texts of merged rows, and a mask of the texts to embed.

    Raises:
        DataError: A text would be blank.
    """
    fields = set(template.fields)
    changed = [not fields.isdisjoint(json.loads(text)) for text in given.column(GIVEN_COLUMN).to_pylist()]
    ids = before.column(ID_COLUMN).to_pylist()
    has_texts = TEXT_COLUMN in before.column_names
    texts: list[str] = before.column(TEXT_COLUMN).to_pylist() if has_texts else [""] * len(ids)
    new = np.zeros(len(ids), np.bool_)
    rows = np.flatnonzero(changed)
    for row, values in zip(rows.tolist(), _rows_of(columns, template, rows, id_column, ids), strict=True):
        text = template.render(values)
        if isinstance(text, Problem):
            raise DataError(
                f"product {ids[row]!r}: with these changes it would have no text to embed: {text.reason}: "
                f"{shorten(text.found)}; give it a text, or leave the row out"
            )
        new[row] = text != texts[row]
        texts[row] = text
    return pa.array(texts, pa.string()), new


def _rows_of(
    columns: dict[str, pa.Array],
    template: TextTemplate,
    rows: npt.NDArray[np.intp],
    id_column: str,
    ids: Sequence[str],
) -> Iterator[dict[str, object]]:
    """Yield the template's values of some rows."""
    taken = {
        name: columns[name].take(pa.array(rows)).to_pylist() for name in template.fields if name in columns
    }
    for number, row in enumerate(rows.tolist()):
        values = {name: taken[name][number] for name in taken}
        yield {**values, id_column: ids[row]}
