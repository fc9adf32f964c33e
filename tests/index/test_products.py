"""Tables of products: rows of memory-mapped tables, order of ids, texts."""

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import IndexStoreError
from aisle.index.products import rank_ids, read_products, take_rows, text_of, write_products


def chunked_table(sizes):
    count, chunks, start = sum(sizes), [], 0
    for size in sizes:
        chunks.append(pa.array([f"id{row}" for row in range(start, start + size)], pa.string()))
        start += size
    numbers = pa.chunked_array(
        [pa.array([None if row % 5 == 0 else row for row in range(count)], pa.int64())]
    )
    return pa.table({"product_id": pa.chunked_array(chunks, pa.string()), "number": numbers})


@pytest.mark.parametrize("sizes", [[9], [3, 1, 5], [0, 4, 0, 0, 5, 0], [1] * 9])
@pytest.mark.parametrize(
    "rows", [[], [0], [8], [8, 0, 4], [3, 3, 2, 4, 3], list(range(9)), list(range(8, -1, -1))]
)
def test_rows_taken_from_many_chunks_are_those_of_arrow(sizes, rows):
    table = chunked_table(sizes)

    taken = take_rows(table, np.array(rows, np.int64))

    assert taken.schema == table.schema
    assert taken.to_pydict() == table.take(pa.array(rows, pa.int64())).to_pydict()


def test_rows_taken_at_random_from_many_chunks_are_those_of_arrow():
    rng = np.random.default_rng(0)
    for _ in range(30):
        sizes = rng.integers(0, 40, size=rng.integers(1, 12)).tolist()
        table = chunked_table([*sizes, 1])
        rows = rng.integers(0, table.num_rows, size=rng.integers(0, 100))
        assert take_rows(table, rows).to_pydict() == table.take(pa.array(rows)).to_pydict()


def test_products_are_yielded_in_chunks_read_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr("aisle.index.products.TAKEN_ROWS", 4)
    table = chunked_table([10])

    write_products(tmp_path / "products.arrow", table)

    found = read_products(tmp_path / "products.arrow", count=10)
    assert found.column("number").num_chunks == 3
    assert found.equals(table)
    assert take_rows(found, np.array([9, 1])).to_pydict() == {"product_id": ["id9", "id1"], "number": [9, 1]}


def test_ids_rank_by_code_point():
    table = pa.table({"product_id": ["b", "é", "B", "a", "👟", "aa"]})

    assert rank_ids(table).tolist() == [3, 4, 0, 1, 5, 2]


def test_texts_come_in_order_or_are_refused_where_there_are_none():
    table = pa.table({"product_id": ["a", "b"], "__text__": pa.chunked_array([["one"], ["two"]])})

    assert list(text_of(table)) == ["one", "two"]
    with pytest.raises(IndexStoreError, match="without its products' texts"):
        list(text_of(table.select(["product_id"])))
