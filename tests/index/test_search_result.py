"""Searching an index from Python: modes, hits, payloads, representations, and paths as text."""

import json

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import SearchError
from aisle.index import (
    build_index,
    compact_index,
    delete_products,
    list_versions,
    open_index,
    read_manifest,
    retune_index,
    rollback,
    upsert_products,
)
from aisle.index.fusion import DEFAULT_WEIGHT
from aisle.index.hybrid_search import search_hybrid

TEXTS = ["red sofa", "blue lamp", "oak table", "oak bed"]
VECTORS = np.eye(4, 16, dtype=np.float32)


@pytest.fixture
def shop(build, tmp_path):
    payload = pa.table({"title": TEXTS, "price": [1.5, None, 3.0, 4.0]})
    build(VECTORS, product_ids=list("abcd"), payload=payload, texts=TEXTS)
    return open_index(tmp_path / "index")


# --- modes


def test_every_mode_is_searched_by_the_index_itself(shop):
    words = shop.search(queries=["oak"], mode="lexical", top_k=4)
    both = shop.search(VECTORS[:1], queries=["oak"], mode="hybrid", top_k=4)
    rrf = shop.search(VECTORS[:1], queries=["oak"], mode="hybrid", fusion="rrf", top_k=4)
    by_words = shop.search(VECTORS[:1], queries=["oak"], mode="hybrid", weight=0.0, top_k=4)

    assert shop.search(VECTORS[:1], top_k=1).product_ids.tolist() == [["a"]]
    assert words.product_ids.tolist() == [["d", "c", None, None]] or words.product_ids.tolist() == [
        ["c", "d", None, None]
    ]
    expected = search_hybrid(shop, ["oak"], VECTORS[:1], top_k=4, weight=DEFAULT_WEIGHT)
    np.testing.assert_array_equal(both.scores, expected.scores)
    np.testing.assert_array_equal(both.rows, expected.rows)
    expected = search_hybrid(shop, ["oak"], VECTORS[:1], top_k=4, fusion="rrf")
    np.testing.assert_array_equal(rrf.scores, expected.scores)
    assert set(by_words.product_ids[0][:2]) == {"c", "d"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "lexical"}, r"queries: mode 'lexical' needs the list of the queries' texts, found None"),
        ({"mode": "lexical", "queries": "oak"}, "queries must be a list of queries; found the text 'oak'"),
        ({"mode": "hybrid", "queries": ["oak"]}, "query_embeddings: mode 'hybrid' needs them"),
        ({"query_embeddings": VECTORS[:1], "mode": "hybrid"}, "queries: mode 'hybrid' needs the list"),
        ({}, r"query_embeddings: mode 'dense' needs them; give encoder\.encode_queries"),
        ({"mode": "fuzzy", "queries": ["oak"]}, "mode: must be one of dense, lexical, hybrid, found 'fuzzy'"),
    ],
)
def test_what_a_mode_needs_is_named(shop, arguments, message):
    with pytest.raises(SearchError, match=message):
        shop.search(**arguments, top_k=1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"query_embeddings": VECTORS[:1]},
        {"query_embeddings": VECTORS[:1], "exact": True},
        {"query_embeddings": VECTORS[:1], "where": "price >= 0 or price is None"},
        {"queries": ["oak table red sofa blue lamp bed"], "mode": "lexical"},
        {"query_embeddings": VECTORS[:1], "queries": ["oak"], "mode": "hybrid"},
    ],
)
def test_more_products_than_there_are_is_all_of_them(shop, arguments):
    found = shop.search(**arguments, top_k=1000)

    assert sorted(found.product_ids[0]) == ["a", "b", "c", "d"]
    assert found.rows.shape == (1, 4)


# --- hits


def test_hits_are_plain_values_in_the_order_of_the_arrays(shop):
    found = shop.search(VECTORS[[2, 0]], top_k=2)

    assert len(found) == 2
    assert [[hit.product_id for hit in answer] for answer in found] == found.product_ids.tolist()
    assert [[hit.score for hit in answer] for answer in found] == found.scores.tolist()
    assert [[hit.row for hit in answer] for answer in found] == found.rows.tolist()
    first = found[1][0]
    assert (first.product_id, first.score, first.row) == ("a", 1.0, 0)
    assert (type(first.product_id), type(first.score), type(first.row)) == (str, float, int)
    assert first.payload == {"title": "red sofa", "price": 1.5}
    assert json.dumps([first.product_id, first.score, first.payload])
    with pytest.raises(IndexError):
        found[2]


def test_short_answer_has_only_the_hits_that_were_found(shop):
    few, none = shop.search(queries=["sofa", "zeppelin"], mode="lexical", top_k=3)

    assert [hit.product_id for hit in few] == ["a"]
    assert none == []


def test_payload_of_a_hit_is_read_only_when_it_is_asked_for(shop, monkeypatch):
    from aisle.index import search_result

    read = []
    real = search_result.take_rows
    monkeypatch.setattr(search_result, "take_rows", lambda *given: read.append(given) or real(*given))

    (answer,) = shop.search(VECTORS[:1], top_k=4)
    assert read == []
    assert answer[0].payload is answer[0].payload
    assert len(read) == 1


# --- payload


def test_payload_accepts_a_row_a_list_of_rows_and_the_rows_of_a_result(shop):
    rows = [{"title": title, "price": price} for title, price in zip(TEXTS, [1.5, None, 3, 4], strict=True)]
    found = shop.search(queries=["sofa", "zeppelin"], mode="lexical", top_k=3)

    assert shop.payload(2) == rows[2]
    assert shop.payload(np.int64(2)) == rows[2]
    assert shop.payload([2, 0]) == [rows[2], rows[0]]
    assert shop.payload((1,)) == [rows[1]]
    assert shop.payload([]) == []
    assert shop.payload(found.rows) == [[rows[0]], []]
    assert shop.payload(found.rows[0]) == [rows[0]]
    assert shop.payload(found.rows[0][0]) == rows[0]


# --- representations


def test_index_prints_on_three_short_lines(build, tmp_path):
    columns = {f"a column of a long name {number}": ["x"] * 4 for number in range(30)}
    build(VECTORS, payload=pa.table(columns), encoder={"model": "/a/long/path" * 30})

    lines = repr(open_index(tmp_path / "index")).split("\n")

    assert len(lines) == 3
    assert max(map(len, lines)) <= 110
    assert lines[0] == "SearchIndex(4 products x 16 dim, version 1 by build, modes dense,"
    assert "fingerprint" in lines[1]
    assert "a column of a long name 0, " in lines[2]


def test_result_prints_without_the_products(shop):
    assert "pyarrow" not in repr(shop.search(VECTORS[:1], top_k=1))
    assert repr(shop.search(VECTORS[:1], top_k=1)[0]) == "[Hit(rank=1, product_id='a', score=1.0, row=0)]"


# --- paths


def test_paths_may_be_text(tmp_path, clustered):
    path = str(tmp_path / "index")
    common = {"dim": 16, "fingerprint": "f" * 64, "encoder": {}, "payload": pa.table({}), "threads": 1}
    build_index(path, product_ids=["a", "b", "c"], embeddings=[clustered(3)], **common)
    upsert_products(
        path,
        products=pa.table({"product_id": ["d"]}),
        embeddings=[clustered(1, seed=2)],
        fingerprint="f" * 64,
    )
    delete_products(path, ["a"])
    compact_index(path)
    retune_index(path)

    assert rollback(path).version == read_manifest(path).version == 4
    assert [version.number for version in list_versions(path)] == [3, 4, 5]
    assert len(open_index(path)) == 3
