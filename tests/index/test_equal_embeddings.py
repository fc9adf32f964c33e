"""Products with equal embeddings share a node of the graph, through all changes."""

import numpy as np

from aisle.index import (
    delete_products,
    open_index,
)
from tests.index.small_index import axes, held, ids


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


def test_embedding_of_a_removed_product_is_found_only_under_its_new_product(
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
