"""Records on disk: types, bounded batches, and a disk that is full."""

from __future__ import annotations

import resource
from contextlib import contextmanager

import pyarrow as pa
import pytest

from aisle.data.pairs import PairColumns, read_pairs
from aisle.data.rows import Row
from aisle.errors import DataError
from aisle.io.arrow_writer import Spool, value_size


@contextmanager
def room(size):
    """Let no file grow over `size` bytes: the system refuses the write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lists_of_texts_come_back_as_they_were(tmp_path):
    with Spool(tmp_path, {"text": "string", "texts": "list<string>", "number": "float32"}) as spool:
        spool.add(("a", ["x", "靴"], 0.5))
        spool.add(("b", [], 1))
        table = spool.finish().with_format("arrow")[:]
    assert table.to_pydict() == {"text": ["a", "b"], "texts": [["x", "靴"], []], "number": [0.5, 1.0]}
    assert table.schema.types == [pa.string(), pa.list_(pa.string()), pa.float32()]


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ([], 0),
        (["abc"], 11),
        ([b"abc"], 11),
        ([1, None, 2.5], 24),
        ([["ab", "c"], []], 16 + 16 + 3),
        ([{"ab": ["cde"]}], 8 + (8 + 2) + (8 + 8 + 3)),
    ],
)
def test_the_size_of_values_counts_what_lists_and_objects_hold(values, size):
    assert value_size(values) == size


@pytest.mark.parametrize("text", ["x" * 1000, ["x" * 100] * 10])
def test_long_texts_make_small_batches(tmp_path, monkeypatch, text):
    monkeypatch.setattr("aisle.io.arrow_writer.BATCH_SIZE", 100_000)
    kind = "string" if isinstance(text, str) else "list<string>"
    with Spool(tmp_path, {"column": kind}) as spool:
        for _ in range(1000):
            spool.add((text,))
        spool.finish()
    (file,) = tmp_path.iterdir()
    batches = list(pa.ipc.open_stream(pa.memory_map(str(file))))
    assert max(batch.num_rows for batch in batches) == 100
    assert sum(batch.num_rows for batch in batches) == 1000


@pytest.mark.parametrize("count", [10, 20_000], ids=["at the end", "between"])
def test_a_full_disk_is_one_error_that_names_the_file_and_leaves_none(tmp_path, count):
    rows = ({"query": "q" * 100, "product": "p", "negatives": ["n" * 100]} for _ in range(count))
    rows = (Row("pairs.jsonl", number, values) for number, values in enumerate(rows, start=1))
    with (
        room(1000),
        pytest.raises(
            DataError, match=r"aisle-pairs-.*\.arrow: the pairs cannot be written: File too large\. Free"
        ),
    ):
        read_pairs(rows, columns=PairColumns(), label_map=None, on_bad_row="error", cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_hard_negatives_need_no_second_file(tmp_path):
    rows = [Row("pairs.jsonl", 1, {"query": "q", "product": "p", "negatives": ["n"]})]
    found = read_pairs(rows, columns=PairColumns(), label_map=None, on_bad_row="error", cache_dir=tmp_path)
    assert found.pairs.hard_negatives == [["n"]]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_temporary_file_is_gone_once_its_records_are_mapped(tmp_path, monkeypatch):
    """Workers of the tests, and processes that are killed, do not run what is registered for the exit."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Spool(None, {"text": "string"}) as spool:
        spool.add(("a",))
        spool.add(("b",))
        table = spool.finish()
    assert list(tmp_path.iterdir()) == []
    assert table.select([1])["text"][:] == ["b"]
    assert table.with_format("arrow")[:].to_pydict() == {"text": ["a", "b"]}
