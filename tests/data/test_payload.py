"""The payload's types: found chunk by chunk, the same as when all chunks are in memory."""

from __future__ import annotations

import datetime
import decimal

import pyarrow as pa
import pytest

from aisle.data.payload import PayloadChunk, PayloadTypes
from aisle.data.payload_values import InferredColumn, infer_columns

CHUNK = 3
LONG = "123456789012345678"
TEXTS = ["", "1", "-2", "2.5", "1e3", "007", "nan", LONG, "99999999999999999999", "x", "靴"]
TYPED = [
    None,
    True,
    3,
    -1,
    2**53 + 1,
    2**63,
    2**70,
    1.5,
    float("inf"),
    "x",
    "7",
    b"raw",
    [],
    [1],
    [2.5],
    ["a", None],
    [{"b": 1}],
    [[1]],
    {"k": 1},
    ["\ud800"],
    datetime.date(2020, 1, 2),
    datetime.datetime(2020, 1, 2, 3),
    decimal.Decimal("1.50"),
    decimal.Decimal("12345.5"),
]


def streamed(rows, **options):
    """Return rows of (values, untyped) as a table, through chunks of `CHUNK` rows."""
    groups = []
    for values, untyped in rows:
        if not groups or groups[-1][1] != untyped or len(groups[-1][0]) == CHUNK:
            groups.append(([], untyped))
        groups[-1][0].append(values)
    chunks = []
    types = PayloadTypes(**{"texts": (), **options})
    for part, plain in groups:
        inferred = infer_columns(part, left_out=None)
        types.add(inferred, rows=len(part), untyped=plain, place=lambda row: f"row {row}")
        columns = {name: column.values for name, column in inferred.items()}
        chunks.append(PayloadChunk(columns, len(part), plain))
    schema = types.settle(iter(chunks))
    return pa.Table.from_batches(
        [pa.RecordBatch.from_arrays(types.cast(chunk)[0], schema=schema) for chunk in chunks], schema
    )


@pytest.mark.parametrize(
    ("rows", "kind", "values"),
    [
        ([("1", True), ("", True), (None, False)], pa.int64(), [1, None, None]),
        ([("1", True)] * 4 + [("2.5", True)], pa.float64(), [1.0] * 4 + [2.5]),
        ([("1", True)] * 4 + [("x", True)], pa.string(), ["1"] * 4 + ["x"]),
        (
            [(LONG, True)] * 3 + [("2.5", True)],
            pa.string(),
            [LONG] * 3 + ["2.5"],
        ),
        ([("", True)] * 4, pa.null(), [None] * 4),
        ([("", True), ("x", True), (" ", True)], pa.string(), [None, "x", None]),
        ([("", False), (3, False)], pa.int64(), [None, 3]),
        ([(" ", False)] * 4 + [("x", False)], pa.string(), [None] * 4 + ["x"]),
        ([("", True)] * 3 + [("4", True)], pa.int64(), [None] * 3 + [4]),
        ([("1", True), (2.5, False)], pa.float64(), [1.0, 2.5]),
        ([("1.50", True), ("x", False)], pa.string(), ["1.5", "x"]),
        ([(2**53 + 1, False)] * 3 + [(0.5, False)], pa.string(), [str(2**53 + 1)] * 3 + ["0.5"]),
        ([(2**52, False)] * 3 + [(0.5, False)], pa.float64(), [2.0**52] * 3 + [0.5]),
        ([(True, False)] * 3 + [(1, False)], pa.string(), ["true"] * 3 + ["1"]),
        ([(None, False)] * 4, pa.null(), [None] * 4),
        ([(None, False)] * 4 + [(True, False)], pa.bool_(), [None] * 4 + [True]),
        ([({"k": 1}, False)] * 3 + [(None, False)], pa.string(), ['{"k": 1}'] * 3 + [None]),
    ],
)
def test_a_column_has_the_type_that_holds_all_its_chunks(rows, kind, values):
    table = streamed([({"column": value}, untyped) for value, untyped in rows])
    assert table.schema.field("column").type == kind
    assert table["column"].to_pylist() == values


def test_numbers_in_text_columns_and_in_columns_named_like_ids_stay_texts():
    rows = [({"year": "1984", "parent-id": "1", "SKU": "2", "price": "3"}, True)]
    assert streamed(rows, texts=["year"]).to_pydict() == {
        "year": ["1984"],
        "parent-id": ["1"],
        "SKU": ["2"],
        "price": [3],
    }


def test_chunks_are_read_again_only_when_types_are_mixed():
    types = PayloadTypes(texts=())
    chunk = PayloadChunk({"a": pa.array([1]), "b": pa.array(["x"]), "c": pa.nulls(1)}, 1, untyped=False)

    def add(**columns):
        inferred = {name: InferredColumn(column, None) for name, column in columns.items()}
        types.add(inferred, rows=1, untyped=False, place=str)

    add(**chunk.columns)
    add(a=pa.nulls(1), b=pa.array(["y"]))

    def never():
        raise AssertionError("read again")
        yield

    assert types.settle(never()) == pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.null())])
    assert [column.to_pylist() for column in types.cast(chunk)[0]] == [[1], ["x"], [None]]


def test_the_left_out_column_is_not_in_the_payload():
    columns = infer_columns([{"b": 1, "id": 7}, {"a": 2, "b": None}], left_out="id")
    assert {name: column.values.to_pylist() for name, column in columns.items()} == {
        "b": [1, None],
        "a": [None, 2],
    }
