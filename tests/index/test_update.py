"""Products added, replaced and removed: what is held, what is found, what is refused."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import DataError, FingerprintMismatchError, IndexIntegrityError, ModelError
from aisle.index import (
    ann_recall,
    change,
    compact_index,
    delete_products,
    list_versions,
    open_index,
    store,
    wants_compacting,
)


def ids(count, first=0):
    return [f"p{row:05d}" for row in range(first, first + count)]


def axes(*numbers, dim=16):
    """Return unit vectors along axes."""
    return np.eye(dim, dtype=np.float32)[list(numbers)]


def held(index, *names):
    return index.products.select(["product_id", *names]).to_pylist()


@pytest.fixture
def index_dir(build, clustered, tmp_path):
    """An index of 50 clustered products."""
    build(clustered(50), payload=pa.table({"price": range(50)}))
    return tmp_path / "index"


@pytest.fixture
def model(clustered):
    """What `index_dir` holds."""
    return dict(zip(ids(50), clustered(50), strict=True))


# --- upsert


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


def test_chunks_and_the_size_of_what_is_gathered_change_nothing(
    upsert, clustered, assert_holds, index_dir, model, monkeypatch
):
    vectors, names = clustered(30, seed=1), [*ids(10, first=35), *ids(20, first=100)]
    for module, name in ((change, "GATHERED_ROWS"), (change, "TAKEN_ROWS"), (store, "TAKEN_ROWS")):
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


def test_new_payload_column_is_null_for_the_others_and_a_missing_one_for_the_new(
    upsert, clustered, index_dir
):
    upsert(["p00001", "new"], clustered(2, seed=1), columns={"brand": ["Acme", "Zenith"]})

    rows = held(open_index(index_dir), "price", "brand")
    assert rows[0] == {"product_id": "p00000", "price": 0, "brand": None}
    assert rows[1] == {"product_id": "p00001", "price": None, "brand": "Acme"}
    assert rows[50] == {"product_id": "new", "price": None, "brand": "Zenith"}


def test_wider_number_widens_the_column(upsert, clustered, index_dir):
    upsert(["p00001"], clustered(1, seed=1), columns={"price": [9.5]})

    assert [row["price"] for row in held(open_index(index_dir), "price")[:3]] == [0.0, 9.5, 2.0]


def test_dictionary_columns_with_other_words_are_joined(build, upsert, clustered, tmp_path, monkeypatch):
    monkeypatch.setattr(change, "TAKEN_ROWS", 3)
    build(clustered(8), payload=pa.table({"brand": pa.array(list("abcdabcd")).dictionary_encode()}))

    upsert(
        ["p00001", "new"], clustered(2, seed=1), columns={"brand": pa.array(["z", "y"]).dictionary_encode()}
    )

    assert [row["brand"] for row in held(open_index(tmp_path / "index"), "brand")] == list("azcdabcdy")


# --- nodes: products of one embedding


def test_embedding_of_another_product_joins_its_node(build, upsert, assert_holds, tmp_path):
    build(axes(0, 1, 2))

    manifest = upsert(["twin", "a", "b"], axes(1, 5, 5))

    assert (manifest.graph_nodes, manifest.deleted_nodes) == (4, 0)
    index = open_index(tmp_path / "index")
    assert_holds(
        index,
        dict(zip(["p00000", "p00001", "p00002", "twin", "a", "b"], axes(0, 1, 2, 1, 5, 5), strict=True)),
        axes(1, 5, 3),
    )
    assert index.search(axes(1), top_k=2).product_ids.tolist() == [["p00001", "twin"]]


def test_product_that_keeps_its_embedding_keeps_its_node(upsert, clustered, index_dir):
    manifest = upsert(ids(50), clustered(50), columns={"price": range(100, 150)})

    assert (manifest.graph_nodes, manifest.deleted_nodes) == (50, 0)
    assert [row["price"] for row in held(open_index(index_dir), "price")] == list(range(100, 150))


def test_products_that_change_places_keep_the_nodes(build, upsert, assert_holds, tmp_path):
    build(axes(0, 1, 2))

    manifest = upsert(["p00000", "p00001"], axes(1, 0))

    assert (manifest.graph_nodes, manifest.deleted_nodes) == (3, 0)
    expected = dict(zip(ids(3), axes(1, 0, 2), strict=True))
    assert_holds(open_index(tmp_path / "index"), expected, axes(0, 1))


def test_replaced_embedding_is_not_found_any_more(build, upsert, tmp_path):
    build(axes(0, 1, 2))

    manifest = upsert(["p00000"], axes(7))

    result = open_index(tmp_path / "index").search(axes(0), top_k=3)
    assert result.scores.tolist() == [[0.0, 0.0, 0.0]]
    assert (manifest.graph_nodes, manifest.deleted_nodes) == (3, 1)


def test_embedding_of_a_removed_product_is_found_under_its_new_one_only(
    build, upsert, assert_holds, tmp_path
):
    build(axes(0, 1, 2))
    delete_products(tmp_path / "index", ["p00001"])

    manifest = upsert(["again"], axes(1))

    assert (manifest.graph_nodes, manifest.deleted_nodes) == (3, 1)
    expected = dict(zip(["p00000", "p00002", "again"], axes(0, 2, 1), strict=True))
    assert_holds(open_index(tmp_path / "index"), expected, axes(1, 0))


def test_embedding_that_moves_to_another_product_in_one_upsert(build, upsert, assert_holds, tmp_path):
    build(axes(0, 1, 2))

    manifest = upsert(["p00001", "heir"], axes(9, 1))

    assert (manifest.graph_nodes, manifest.deleted_nodes) == (4, 0)
    expected = dict(zip([*ids(3), "heir"], axes(0, 9, 2, 1), strict=True))
    assert_holds(open_index(tmp_path / "index"), expected, axes(1, 9))


def test_a_thousand_equal_embeddings_stay_one_node_through_upserts_and_deletes(
    build, upsert, clustered, assert_holds, tmp_path
):
    vectors = clustered(1500)
    vectors[200:1200] = vectors[200]
    model = dict(zip(ids(1500), vectors, strict=True))
    assert build(vectors).graph_nodes == 501

    more = {f"q{row}": vectors[200] for row in range(60)}
    manifest = upsert(list(more), np.stack(list(more.values())))
    assert (manifest.graph_nodes, manifest.deleted_nodes) == (501, 0)
    gone = [*ids(300, first=200), *ids(20), *list(more)[:10]]
    manifest = delete_products(tmp_path / "index", gone)

    assert (manifest.graph_nodes, manifest.deleted_nodes) == (481, 20)
    model = {name: vector for name, vector in (model | more).items() if name not in gone}
    index = open_index(tmp_path / "index")
    assert_holds(index, model, clustered(3, seed=1))
    heap = sorted(name for name in model if (model[name] == vectors[200]).all())
    assert len(heap) == 750
    found = index.search(vectors[200:201], top_k=751).product_ids[0].tolist()
    assert found[:750] == heap
    assert found[750] not in heap


def test_float16_store_is_that_of_a_build_through_upserts(build, upsert, clustered, assert_holds, tmp_path):
    vectors, fresh = clustered(100), clustered(30, seed=1)
    build(vectors, store_dtype="float16")

    upsert(ids(30, first=85), fresh)
    manifest = upsert(["twin"], vectors[3:4].astype(np.float16).astype(np.float32))

    index = open_index(tmp_path / "index")
    assert index.embeddings.dtype == np.float16
    assert (manifest.graph_nodes, manifest.deleted_nodes) == (115, 15)  # the twin's bytes are those of p00003
    expected = dict(zip(ids(100), vectors.astype(np.float16), strict=True))
    expected |= dict(zip(ids(30, first=85), fresh.astype(np.float16), strict=True))
    assert_holds(index, expected | {"twin": vectors[3].astype(np.float16)}, clustered(9, seed=2))


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


# --- what upsert refuses


def never():
    pytest.fail("embedded before the products were checked")
    yield


@pytest.mark.parametrize(
    ("products", "message"),
    [
        ({"product_id": pa.array([], pa.string())}, "at least one product, found none"),
        ({"product_id": ["a", "b", "a"]}, "'a': ids must be unique"),
        ({"product_id": ["a", None]}, "without nulls"),
        ({"product_id": ["a", " "]}, "blanks"),
        ({"product_id": [1, 2]}, "text column 'product_id'"),
        ({"id": ["a"]}, "text column 'product_id'"),
        ({"product_id": ["a"], "__text__": ["words"]}, "the index was built without them"),
        ({"product_id": ["a"], "price": ["nine"]}, "of another type than in the index.*price"),
    ],
)
def test_products_that_do_not_fit_are_refused_before_they_are_embedded(
    upsert, index_dir, files_under, products, message
):
    before = files_under(index_dir / "versions")

    with pytest.raises(DataError, match=message):
        upsert([], None, products=pa.table(products), embeddings=never())

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
def test_change_of_an_index_that_is_not_there_is_refused_and_makes_nothing(
    upsert, clustered, tmp_path, operation
):
    change = {
        "upsert": lambda: upsert(["a"], clustered(1)),
        "delete": lambda: delete_products(tmp_path / "index", ["a"]),
        "compact": lambda: compact_index(tmp_path / "index"),
    }

    with pytest.raises(IndexIntegrityError, match=r"manifest\.json, found none"):
        change[operation]()

    assert list(tmp_path.iterdir()) == []


# --- delete


def test_deleted_products_are_never_found_again(build, clustered, assert_holds, tmp_path):
    vectors = clustered(400)
    build(vectors)
    model = dict(zip(ids(400), vectors, strict=True))
    gone = [f"p{row:05d}" for row in range(0, 400, 3)]

    manifest = delete_products(tmp_path / "index", gone)

    for name in gone:
        del model[name]
    assert (manifest.command, manifest.count) == ("delete", 266)
    assert (manifest.graph_nodes, manifest.deleted_nodes) == (266, 134)
    index = open_index(tmp_path / "index")
    assert_holds(index, model, vectors[::29])
    for top_k in (1, 10, 100, 265, 266):
        for more in ({"exact": True}, {"ef_search": 1}, {}):
            found = index.search(vectors[::29], top_k=top_k, **more).product_ids
            assert not set(found.ravel().tolist()) & set(gone)
            assert all(len(set(row)) == top_k for row in found.tolist())


def test_payload_stays_with_its_product(index_dir):
    delete_products(index_dir, ["p00000", "p00007", "p00049"])

    index = open_index(index_dir)
    assert [row["price"] for row in held(index, "price")] == [
        row for row in range(50) if row not in (0, 7, 49)
    ]
    assert index.payload(np.array([0, 6, 46])) == [{"price": 1}, {"price": 8}, {"price": 48}]


def test_one_of_two_equal_products_leaves_the_other(build, assert_holds, tmp_path):
    build(axes(0, 1, 1, 2))

    manifest = delete_products(tmp_path / "index", ["p00001"])

    assert (manifest.graph_nodes, manifest.deleted_nodes) == (3, 0)
    expected = dict(zip(["p00000", "p00002", "p00003"], axes(0, 1, 2), strict=True))
    assert_holds(open_index(tmp_path / "index"), expected, axes(1, 0))


def test_both_of_two_equal_products_take_their_node_along(build, assert_holds, tmp_path):
    build(axes(0, 1, 1, 2))

    delete_products(tmp_path / "index", ["p00001"])
    manifest = delete_products(tmp_path / "index", ["p00002"])

    assert (manifest.graph_nodes, manifest.deleted_nodes) == (2, 1)
    expected = dict(zip(["p00000", "p00003"], axes(0, 2), strict=True))
    assert_holds(open_index(tmp_path / "index"), expected, axes(1, 0))


def test_all_but_one_can_be_deleted_and_others_added_again(upsert, clustered, assert_holds, index_dir, model):
    delete_products(index_dir, ids(49))
    assert_holds(open_index(index_dir), {"p00049": model["p00049"]}, clustered(3, seed=1))

    upsert(ids(50), np.stack(list(model.values())))

    assert_holds(open_index(index_dir), model, clustered(3, seed=1))


def test_repeated_ids_count_once(index_dir):
    assert delete_products(index_dir, ["p00001", "p00001", "p00002"]).count == 48


def test_unknown_ids_are_refused_by_name_and_nothing_is_deleted(index_dir):
    with pytest.raises(DataError, match="has no product 'x', 'y'; leave them out, or give --ignore_unknown"):
        delete_products(index_dir, ["p00001", "x", "y"])

    assert len(open_index(index_dir)) == 50
    assert len(list_versions(index_dir)) == 1


def test_many_unknown_ids_are_counted(index_dir):
    with pytest.raises(DataError, match=r"'x0', .*'x9' and 1,990 more"):
        delete_products(index_dir, [f"x{number}" for number in range(2000)])


def test_unknown_ids_can_be_left_aside(index_dir):
    manifest = delete_products(index_dir, ["x", "p00001", "y"], ignore_unknown=True)

    assert manifest.count == 49
    assert "p00001" not in [row["product_id"] for row in held(open_index(index_dir))]


def test_deleting_everything_is_refused(index_dir):
    with pytest.raises(DataError, match="needs at least one product, and none would be left"):
        delete_products(index_dir, ids(50))

    assert len(open_index(index_dir)) == 50


# --- what stays


def test_settings_of_the_index_stay_through_changes(build, upsert, clustered, tmp_path):
    made = build(
        clustered(60),
        encoder={"model": "tiny", "revision": "r1"},
        text_template="{title}",
        M=7,
        ef_construction=33,
        target_recall=0.9,
    )

    upsert(["new"], clustered(1, seed=1))
    changed = delete_products(tmp_path / "index", ["p00001"])

    names = ("encoder", "text_template", "M", "ef_construction", "ef_search", "target_recall", "built_recall")
    assert [getattr(changed, name) for name in names] == [getattr(made, name) for name in names]
    assert changed.ann_recall_queries == made.ann_recall_queries


def test_recall_is_measured_again_after_a_change(build, upsert, clustered, tmp_path):
    made = build(clustered(300, dim=32), M=2, ef_construction=2, ef_search=10)

    changed = upsert([f"new{row}" for row in range(900)], clustered(900, dim=32, seed=1))

    assert changed.ann_recall_at_10 != made.ann_recall_at_10
    index = open_index(tmp_path / "index")
    queries = np.load(index.directory / "queries.npy")
    graph, exact = (index.search(queries, top_k=10, exact=exact) for exact in (False, True))
    assert changed.ann_recall_at_10 == ann_recall(
        graph.rows, exact.rows, approximate_scores=graph.scores, exact_scores=exact.scores
    )


def recall_of(index, queries, ef_search):
    graph = index.search(queries, top_k=10, ef_search=ef_search)
    exact = index.search(queries, top_k=10, exact=True)
    return ann_recall(graph.rows, exact.rows, approximate_scores=graph.scores, exact_scores=exact.scores)


@pytest.mark.parametrize(
    ("deleted", "reason"), [(550, None), (1800, "60% of the graph's nodes are of deleted")]
)
def test_recall_after_many_were_deleted_is_within_a_hundredth_of_a_fresh_build(
    build, clustered, tmp_path, deleted, reason
):
    vectors = clustered(3000, dim=32)
    ef_search = build(vectors, target_recall=0.98).ef_search
    gone = np.random.default_rng(0).permutation(3000)[:deleted]
    left = np.setdiff1d(np.arange(3000), gone)

    for part in np.array_split(gone, 3):
        manifest = delete_products(tmp_path / "index", [f"p{row:05d}" for row in part])
    build(vectors[left], tmp_path / "fresh", ef_search=ef_search)

    index, fresh = open_index(tmp_path / "index"), open_index(tmp_path / "fresh")
    queries = np.load(index.directory / "queries.npy")
    assert recall_of(index, queries, ef_search) >= recall_of(fresh, queries, ef_search) - 0.01
    advised = wants_compacting(manifest)
    assert advised is None if reason is None else advised.startswith(reason)


def test_index_that_was_copied_changes_by_itself(upsert, clustered, index_dir, model, assert_holds, tmp_path):
    shutil.copytree(index_dir, tmp_path / "copy")

    upsert(["new"], clustered(1, seed=1), tmp_path / "copy")

    assert len(open_index(tmp_path / "copy")) == 51
    assert_holds(open_index(index_dir), model, clustered(3, seed=2))
