"""Rows as Python values: a value that Python cannot hold is None, and all others are there."""

import logging
import subprocess
import sys

import pyarrow as pa
import pytest

from aisle.index.python_values import python_rows
from aisle.index.search_result import payload_of
from aisle.types.columns import ID_COLUMN

FAR = 300_000 * 31_556_952
"""Seconds from 1970 to about the year 302,000."""
SECONDS = pa.timestamp("s")


def test_rows_without_such_values_are_those_of_arrow():
    table = pa.table({"a": [1, None], "b": [["x"], []]})

    assert python_rows(table) == (table.to_pylist(), [(), ()])


def test_only_the_value_is_none_and_its_row_names_the_column():
    table = pa.table({"title": ["sofa", "lamp"], "seen": pa.array([FAR, None], SECONDS), "price": [1.5, 2.5]})

    rows, unreadable = python_rows(table)

    assert rows == [
        {"title": "sofa", "seen": None, "price": 1.5},
        {"title": "lamp", "seen": None, "price": 2.5},
    ]
    assert unreadable == [("seen",), ()]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (pa.array([[0, FAR]], pa.list_(SECONDS)), ["1970-01-01 00:00:00", None]),
        (pa.array([[0, FAR]], pa.large_list(SECONDS)), ["1970-01-01 00:00:00", None]),
        (pa.array([[0, FAR]], pa.list_(SECONDS, 2)), ["1970-01-01 00:00:00", None]),
        (pa.array([{"a": FAR, "b": 7}], pa.struct({"a": SECONDS, "b": pa.int64()})), {"a": None, "b": 7}),
        (
            pa.array([[("a", FAR), ("b", 0)]], pa.map_(pa.string(), SECONDS)),
            [("a", None), ("b", "1970-01-01 00:00:00")],
        ),
        (pa.DictionaryArray.from_arrays(pa.array([0]), pa.array([FAR], SECONDS)), None),
        (pa.array([2**30], pa.int32()).cast(pa.date32()), None),
        (pa.array([2**62], pa.duration("s")), None),
        (pa.array([0], pa.timestamp("s", "Mars/Base")), None),
        (pa.array([b"\xff\xfe"]).view(pa.string()), None),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_kind_of_value_that_python_cannot_hold(value, expected):
    rows, unreadable = python_rows(pa.table({"x": value}))

    assert as_text(rows[0]["x"]) == expected
    assert unreadable == [("x",)]


def as_text(value):
    """Return a value with its times as text."""
    if isinstance(value, dict):
        return {name: as_text(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(as_text, value))
    return value if value is None or isinstance(value, str | int) else str(value)


WITHOUT_PANDAS = """
import sys

class NoPandas:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            raise ImportError(name)

sys.meta_path.insert(0, NoPandas())

import pyarrow as pa
from aisle.index.python_values import python_rows

rows, unreadable = python_rows(pa.table({"x": pa.array([1, 2000], pa.timestamp("ns"))}))
print(*[row["x"] for row in rows], unreadable, sep="\\n")
"""


def test_a_time_with_nanoseconds_is_text_without_pandas():
    ran = subprocess.run([sys.executable, "-c", WITHOUT_PANDAS], capture_output=True, text=True, check=True)

    assert ran.stdout.splitlines() == [
        "1970-01-01 00:00:00.000000001",
        "1970-01-01 00:00:00.000002",
        "[(), ()]",
    ]


def test_the_payload_of_a_row_logs_the_column(caplog):
    products = pa.table({ID_COLUMN: ["a"], "seen": pa.array([FAR], SECONDS), "price": [1.5]})

    with caplog.at_level(logging.WARNING, "aisle.index"):
        found = payload_of(products, 0)

    assert found == {"seen": None, "price": 1.5}
    assert [record.getMessage() for record in caplog.records] == [
        "seen: a value that Python cannot hold is None"
    ]
