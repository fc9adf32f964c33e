"""Added and replaced products: contents, search results, refused input."""

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import DataError, FingerprintMismatchError, IndexIntegrityError, ModelError
from aisle.index import (
    compact_index,
    delete_products,
    incremental,
    list_versions,
    open_index,
    products,
)
from tests.index.small_index import axes, held, ids


def test_new_products_are_added_and_others_replaced_in_place(
    upsert, clustered, assert_holds, index_dir, model
):
    vectors = clustered(4, seed=1)

    manifest = upsert(["p00003", "new1", "p00010", "new0"], vectors, columns={"price": [-1, -2, -3, -4]})

    index = open_index(index_dir)
    assert (manifest.version, manifest.command, manifest.count) == (2, "upsert", 52)
    assert (manifest.graph_nodes, manifest.deleted_nodes) == (52, 2)
    prices = {row["product_id"]: row["price"] for row in held(index, "price")}
    assert list(prices) == [*ids(50), "new1", "new0"]
    expected = {f"p{row:05d}": row for row in range(50)}
    assert prices == expected | {"p00003": -1, "new1": -2, "p00010": -3, "new0": -4}
    changed = dict(zip(["p00003", "new1", "p00010", "new0"], vectors, strict=True))
    assert_holds(index, model | changed, clustered(9, seed=2))


def test_upsert_leaves_the_version_before_as_it_was(upsert, clustered, assert_holds, index_dir, model):
    before = open_index(index_dir)

    upsert(ids(10), clustered(10, seed=1))

    assert_holds(before, model, clustered(5, seed=2))
    assert_holds(open_index(index_dir, version=1), model, clustered(5, seed=2))


def test_chunk_sizes_change_nothing(upsert, clustered, assert_holds, index_dir, model, monkeypatch):
    vectors, names = clustered(30, seed=1), [*ids(10, first=35), *ids(20, first=100)]
    for module, name in (
        (incremental, "GATHERED_ROWS"),
        (incremental, "TAKEN_ROWS"),
        (products, "TAKEN_ROWS"),
    ):
        monkeypatch.setattr(module, name, 7)

    upsert(names, None, columns={"price": range(-30, 0)}, embeddings=np.array_split(vectors, 4))
    delete_products(index_dir, ["p00001", "p00040"])

    index = open_index(index_dir)
    expected = model | dict(zip(names, vectors, strict=True))
    del expected["p00001"], expected["p00040"]
    assert_holds(index, expected, clustered(9, seed=2))
    prices = {row["product_id"]: row["price"] for row in held(index, "price")}
    assert [prices[name] for name in ("p00000", "p00034", "p00035", "p00044", "p00119")] == [
        0,
        34,
        -30,
        -21,
        -1,
    ]


def test_one_thread_makes_the_same_bytes_every_time(
    build, upsert, clustered, current_folder, files_under, tmp_path
):
    for name in "ab":
        build(clustered(200), tmp_path / name, texts=[f"word{row} x" for row in range(200)])
        more = {"__text__": [f"other{row}" for row in range(40)]}
        upsert(ids(40, first=180), clustered(40, seed=1), tmp_path / name, columns=more)
        delete_products(tmp_path / name, ids(9, first=4))

    files = [files_under(current_folder(tmp_path / name)) for name in "ab"]
    for written in files:
        del written["manifest.json"]
    assert files[0] == files[1]


def test_payload_columns_of_one_side_are_null_on_the_other(upsert, clustered, index_dir):
    upsert(["p00001", "new"], clustered(2, seed=1), columns={"brand": ["Acme", "Zenith"]})

    rows = held(open_index(index_dir), "price", "brand")
    assert rows[0] == {"product_id": "p00000", "price": 0, "brand": None}
    assert rows[1] == {"product_id": "p00001", "price": None, "brand": "Acme"}
    assert rows[50] == {"product_id": "new", "price": None, "brand": "Zenith"}


def test_wider_number_widens_the_column(upsert, clustered, index_dir):
    upsert(["p00001"], clustered(1, seed=1), columns={"price": [9.5]})

    assert [row["price"] for row in held(open_index(index_dir), "price")[:3]] == [0.0, 9.5, 2.0]


def test_dictionary_columns_with_other_words_are_joined(build, upsert, clustered, tmp_path, monkeypatch):
    monkeypatch.setattr(incremental, "TAKEN_ROWS", 3)
    build(clustered(8), payload=pa.table({"brand": pa.array(list("abcdabcd")).dictionary_encode()}))

    upsert(
        ["p00001", "new"], clustered(2, seed=1), columns={"brand": pa.array(["z", "y"]).dictionary_encode()}
    )

    assert [row["brand"] for row in held(open_index(tmp_path / "index"), "brand")] == list("azcdabcdy")


# --- texts


@pytest.fixture
def worded(build, tmp_path):
    """An index of three products with texts."""
    build(axes(0, 1, 2), texts=["red shoe", "blue shoe", "green hat"])
    return tmp_path / "index"


def first_rows(index, query):
    rows, _ = index.lexical.rank([query], top_k=len(index))
    return [held(index)[row]["product_id"] for row in rows[0].tolist()]


def test_words_follow_upserts_and_deletes(upsert, worded):
    upsert(["p00001", "new"], axes(5, 6), columns={"__text__": ["yellow scarf", "blue coat"]})

    index = open_index(worded)
    assert first_rows(index, "blue") == ["new"]
    assert first_rows(index, "yellow") == ["p00001"]
    assert first_rows(index, "shoe") == ["p00000"]

    delete_products(worded, ["p00000", "new"])
    index = open_index(worded)
    assert [first_rows(index, word) for word in ("shoe", "blue", "yellow", "hat")] == [
        [], [], ["p00001"], ["p00002"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "just when the index has them; the index was built"),
        ({"__text__": pa.array([None], pa.string())}, "without nulls"),
        ({"__text__": [7]}, "must be a text column"),
    ],
)
def test_upsert_without_texts_is_refused_where_the_index_has_them(
    upsert, files_under, worded, columns, message
):
    before = files_under(worded / "versions")
    if not columns:
        message = "just when the index has them; none were given"

    with pytest.raises(DataError, match=message):
        upsert(["new"], axes(5), columns=columns)

    assert files_under(worded / "versions") == before


# --- refused input


def never():
    pytest.fail("embedded before the products were checked")
    yield


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"product_id": pa.array([], pa.string())}, "at least one product, found none"),
        ({"product_id": ["a", "b", "a"]}, "'a': ids must be unique"),
        ({"product_id": ["a", None]}, "without nulls"),
        ({"product_id": ["a", " "]}, "blanks"),
        ({"product_id": [1, 2]}, "text column 'product_id'"),
        ({"id": ["a"]}, "text column 'product_id'"),
        ({"product_id": ["a"], "__text__": ["words"]}, "the index was built without them"),
        ({"product_id": ["a"], "price": ["nine"]}, "has another type than in the index.*price"),
    ],
)
def test_products_that_do_not_fit_are_refused_before_they_are_embedded(
    upsert, index_dir, files_under, columns, message
):
    before = files_under(index_dir / "versions")

    with pytest.raises(DataError, match=message):
        upsert([], None, products=pa.table(columns), embeddings=never())

    assert files_under(index_dir / "versions") == before
    assert not (index_dir / ".building").exists()


def with_value(vectors, row, value):
    changed = vectors.copy()
    changed[row, 2] = value
    return changed


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda v: [v[:, :15]], ModelError, r"'a': chunks must be \(n, 16\) float32, found \(3, 15\)"),
        (lambda v: [v[:1], v[1:].astype(int)], ModelError, "'b': chunks must be .* int64"),
        (lambda v: [with_value(v, 1, np.nan)], ModelError, r"'b' \(row 1\): must be finite"),
        (lambda v: [with_value(v, 2, np.inf)], ModelError, r"'c' \(row 2\): must be finite"),
        (lambda v: [2 * v], ModelError, "'a'.*found norm 2"),
        (lambda v: [v[:2]], DataError, "found 2 for 3 products.*'c'"),
        (lambda v: [v, v[:1]], DataError, "found 4 or more for 3"),
        (lambda v: [], DataError, "found 0 for 3 products"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused_and_nothing_changes(
    upsert, clustered, index_dir, files_under, spoil, error, message
):
    before = files_under(index_dir / "versions")

    with pytest.raises(error, match=message):
        upsert(["a", "b", "c"], None, embeddings=spoil(clustered(3, seed=1)))

    assert files_under(index_dir / "versions") == before
    assert not (index_dir / ".building").exists()


def test_embeddings_of_another_encoder_are_refused(upsert, index_dir):
    with pytest.raises(FingerprintMismatchError, match=r"ffff.*eeee"):
        upsert(["a"], None, fingerprint="e" * 64, embeddings=never())

    assert len(list_versions(index_dir)) == 1


@pytest.mark.parametrize("operation", ["upsert", "delete", "compact"])
def test_change_of_a_missing_index_is_refused_and_writes_nothing(upsert, clustered, tmp_path, operation):
    change = {
        "upsert": lambda: upsert(["a"], clustered(1)),
        "delete": lambda: delete_products(tmp_path / "index", ["a"]),
        "compact": lambda: compact_index(tmp_path / "index"),
    }

    with pytest.raises(IndexIntegrityError, match=r"manifest\.json, found none"):
        change[operation]()

    assert list(tmp_path.iterdir()) == []
