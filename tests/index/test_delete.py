"""Removed products are never found again; other products and earlier versions stay unchanged."""

import shutil

import numpy as np
import pytest

from aisle.errors import DataError
from aisle.index import (
    ann_recall,
    delete_products,
    list_versions,
    open_index,
    wants_compacting,
)
from tests.index.small_index import axes, held, ids


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


def test_unknown_ids_can_be_skipped(index_dir):
    manifest = delete_products(index_dir, ["x", "p00001", "y"], ignore_unknown=True)

    assert manifest.count == 49
    assert "p00001" not in [row["product_id"] for row in held(open_index(index_dir))]


def test_deleting_everything_is_refused(index_dir):
    with pytest.raises(DataError, match="needs at least one product, and none would be left"):
        delete_products(index_dir, ids(50))

    assert len(open_index(index_dir)) == 50


# --- unchanged parts


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

    names = ("encoder", "text_template", "backend", "ef_search", "target_recall", "built_recall")
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
    ("deleted", "reason"), [(550, None), (1800, "60% of the graph's nodes belong to deleted")]
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
