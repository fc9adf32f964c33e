"""A catalogue on disk: windows, duplicates across windows, bounded batches, atomic files, reserved names."""

from __future__ import annotations

import errno
import resource
import subprocess
import sys
from contextlib import contextmanager

import pyarrow as pa
import pytest

from aisle.data import catalog_chunks, product_rows
from aisle.data.catalog_file import write_catalog, write_distinct_products
from aisle.data.pairs import PairColumns
from aisle.data.rows import Problem, Row
from aisle.errors import ConfigError, DataError


def rows_of(*values, source="products.jsonl"):
    return [Row(source, number, row, number + 1) for number, row in enumerate(values, start=1)]


def product(at, **others):
    return {"product_id": f"B{at}", "title": f"title {at}", **others}


def table_of(catalog):
    return pa.Table.from_batches(list(catalog.batches()))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "catalog.arrow"


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(product_rows, "WINDOW_ROWS", 4)


@contextmanager
def room(size):
    """Limit the size of files to `size` bytes: the system refuses the write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_windows")
def test_duplicates_name_the_first_row_whether_it_is_in_memory_or_on_disk(path):
    rows = rows_of(*(product(at) for at in (1, 2, 2, 3)), source="a.jsonl")
    rows += rows_of(*(product(at) for at in (4, 1, 5, 4, 6, 7)), source="b.csv")
    found = write_catalog(rows, path, on_bad_row="skip")
    assert [str(bad) for bad in found.bad_rows.first] == [
        "a.jsonl, row 3 (line 4): product_id is a duplicate: 'B2', first in a.jsonl, row 2 (line 3)",
        "b.csv, row 2 (line 3): product_id is a duplicate: 'B1', first in a.jsonl, row 1 (line 2)",
        "b.csv, row 4 (line 5): product_id is a duplicate: 'B4', first in b.csv, row 1 (line 2)",
    ]
    assert (found.bad_rows.total, found.bad_rows.read, len(found)) == (3, 10, 7)


@pytest.mark.usefixtures("small_windows")
def test_all_duplicates_are_counted_and_the_first_ten_looked_up(path, monkeypatch):
    looked_up = []
    place_of = catalog_chunks.CatalogChunks.place_of
    monkeypatch.setattr(
        catalog_chunks.CatalogChunks,
        "place_of",
        lambda chunks, product_id: looked_up.append(product_id) or place_of(chunks, product_id),
    )
    rows = rows_of(*(product(at % 4) for at in range(100)))
    with pytest.raises(
        DataError, match=r"96 of 100 rows are bad:\n  96 x product_id is a duplicate"
    ) as error:
        write_catalog(rows, path, on_bad_row="error")
    assert len(looked_up) == str(error.value).count(", first in products.jsonl, row ") == 10
    assert list(path.parent.iterdir()) == []


def test_batches_are_bounded_by_rows(path):
    found = write_catalog(rows_of(*map(product, range(40_001))), path, on_bad_row="error")
    assert [batch.num_rows for batch in found.batches()] == [20_000, 20_000, 1]


@pytest.mark.parametrize("long", ["title", "text", "list"])
def test_batches_are_bounded_by_the_size_of_values(path, monkeypatch, long):
    monkeypatch.setattr(product_rows, "BATCH_SIZE", 10_000)
    values = {"title": "t", "text": "short", "list": ["x"]}
    values[long] = ["y" * 100] * 10 if long == "list" else "y" * 1000
    rows = rows_of(*({"product_id": at, **values} for at in range(100)))
    found = write_catalog(rows, path, on_bad_row="error")
    batches = [batch.num_rows for batch in found.batches()]
    assert sum(batches) == 100
    assert 5 <= max(batches) <= 10


def test_batches_are_bounded_by_columns_that_come_and_go(path, monkeypatch):
    monkeypatch.setattr(product_rows, "CELLS", 500)
    monkeypatch.setattr(catalog_chunks, "CELLS", 500)
    rows = rows_of(*(product(at, **{f"only{at}": at}) for at in range(200)))
    found = write_catalog(rows, path, on_bad_row="error")
    table = table_of(found)
    assert table.column_names == ["product_id", "__text__", "title", *(f"only{at}" for at in range(200))]
    assert max(batch.num_rows for batch in found.batches()) == 500 // 203
    assert table["only3"].to_pylist() == [None] * 3 + [3] + [None] * 196
    assert table["only199"].to_pylist() == [None] * 199 + [199]


def test_a_window_is_bounded_by_columns_that_come_and_go(monkeypatch):
    monkeypatch.setattr(product_rows, "CELLS", 20)
    rows = rows_of(*({f"only{at}": at} for at in range(12)))
    sizes = [len(window.rows) for window in product_rows.windows(rows, lambda row: Problem("is bad", None))]
    assert sizes == [5, 5, 2]


@pytest.mark.parametrize(
    ("column", "id_column", "mend"),
    [
        ("product_id", "sku", r"rename the column, or use it as ids with --id_column product_id"),
        ("__text__", "sku", "rename the column"),
    ],
)
def test_payload_with_a_name_of_the_file_s_own_columns_is_refused(path, column, id_column, mend):
    rows = [
        *rows_of({"sku": 1, "title": "a"}),
        *rows_of({"sku": 2, "title": "b", column: "x"}, source="b.csv"),
    ]
    with pytest.raises(DataError, match=rf"b\.csv: the column '{column}' cannot be payload.*{mend}\."):
        write_catalog(rows, path, id_column=id_column, on_bad_row="skip")


@pytest.mark.parametrize("column", ["product_id", "__text__"])
def test_a_product_column_with_a_name_of_the_file_s_own_columns_is_refused(path, column):
    rows = rows_of({column: "a", "key": "1"})
    with pytest.raises(DataError, match=f"the column '{column}' cannot be payload"):
        write_distinct_products(
            rows, path, columns=PairColumns(product=column, product_id="key"), on_bad_row="skip"
        )


def test_a_column_named_like_the_chunk_s_own_is_payload_like_any_other(path):
    rows = rows_of(product(1, source="s", number=2.5, line="l"))
    table = table_of(write_catalog(rows, path, on_bad_row="error"))
    assert table.drop_columns(["product_id", "__text__", "title"]).to_pydict() == {
        "source": ["s"],
        "number": [2.5],
        "line": ["l"],
    }


def test_an_invalid_unicode_column_name_makes_a_bad_row(path):
    rows = rows_of(product(1), product(2, **{"\ud800": "x"}), product(3))
    found = write_catalog(rows, path, on_bad_row="skip")
    assert found.bad_rows.by_reason == {"the name of a column is not valid Unicode": 1}
    assert table_of(found)["product_id"].to_pylist() == ["B1", "B3"]


@pytest.mark.parametrize(
    ("write", "options"), [(write_catalog, {}), (write_distinct_products, {"columns": PairColumns()})]
)
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "The data has no rows"),
        (rows_of(product(1, title=" "), product(2, title=None)), "No good row is left"),
        ([Row("a.csv", 1, {}, 2, Problem("is broken", "x"))], "No good row is left"),
    ],
)
def test_a_catalogue_without_a_good_row_is_refused_and_leaves_no_file(path, write, options, rows, message):
    with pytest.raises(DataError, match=message):
        write(rows, path, on_bad_row="skip", **options)
    assert not path.parent.exists() or list(path.parent.iterdir()) == []


def test_a_malformed_template_is_refused_before_anything_is_read(path):
    with pytest.raises(ConfigError, match="--text_template"):
        write_catalog(iter(()), path, text_template="title", on_bad_row="error")


def test_only_the_file_itself_is_left(path):
    found = write_catalog(rows_of(product(1)), path, on_bad_row="error")
    assert (found.path, list(path.parent.iterdir())) == (path, [path])


@pytest.mark.parametrize("size", [100, 400, 1600], ids=["first chunk", "later chunk", "file"])
@pytest.mark.usefixtures("small_windows")
def test_a_full_disk_is_one_error_with_the_file_and_keeps_the_old_file(path, size):
    before = table_of(write_catalog(rows_of(product(1)), path, on_bad_row="error"))
    with (
        room(size),
        pytest.raises(
            DataError,
            match=r"catalog\.arrow: the products cannot be written: File too large\. Free some space",
        ),
    ):
        write_catalog(rows_of(*map(product, range(100))), path, on_bad_row="error")
    assert list(path.parent.iterdir()) == [path]
    assert pa.ipc.open_file(pa.memory_map(str(path))).read_all().equals(before)


def test_a_disk_that_fills_up_at_the_end_keeps_the_old_file(path, monkeypatch):
    before = table_of(write_catalog(rows_of(product(1)), path, on_bad_row="error"))

    def full(written):
        assert written.name == ".catalog.arrow.writing"
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(catalog_chunks, "sync", full)
    with pytest.raises(DataError, match=r"catalog\.arrow: the products cannot be written: No space left"):
        write_catalog(rows_of(product(2)), path, on_bad_row="error")
    assert list(path.parent.iterdir()) == [path]
    assert pa.ipc.open_file(pa.memory_map(str(path))).read_all().equals(before)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"file/catalog\.arrow: the products cannot be written: File exists"):
        write_catalog(rows_of(product(1)), tmp_path / "file" / "catalog.arrow", on_bad_row="error")


@pytest.mark.parametrize("call", ["sync", "os.replace"])
def test_a_killed_writer_leaves_no_file_and_does_not_disturb_the_next(path, call):
    program = f"""
import os, signal, sys
from pathlib import Path
from aisle.data import catalog_chunks
from aisle.data.catalog_file import write_catalog
from aisle.data.rows import Row
catalog_chunks.{call} = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
write_catalog([Row("a.csv", 1, {{"product_id": "1", "title": "a"}})], Path(sys.argv[1]), on_bad_row="error")
"""
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    assert not path.exists()
    write_catalog(rows_of(product(7)), path, on_bad_row="error")
    assert list(path.parent.iterdir()) == [path]


def test_an_error_of_the_rows_themselves_is_passed_on_and_leaves_no_file(path):
    def rows():
        yield from rows_of(product(1))
        raise OSError("the source went away")

    with pytest.raises(OSError, match="the source went away"):
        write_catalog(rows(), path, on_bad_row="error")
    assert list(path.parent.iterdir()) == []
