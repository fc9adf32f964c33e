"""Compacting and retuning: when to compact, and the effects of both."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import ConfigError
from aisle.index import (
    compact_index,
    delete_products,
    index_writer,
    list_versions,
    open_index,
    retune_index,
    wants_compacting,
)
from aisle.index.array_files import link_files


def ids(count, first=0):
    return [f"p{row:05d}" for row in range(first, first + count)]


@pytest.fixture
def changed(build, upsert, clustered, tmp_path):
    """An index of 350 products over a graph of 500 nodes, and its expected contents."""
    vectors = clustered(500)
    build(vectors[:450], payload=pa.table({"price": range(450)}), texts=["a word"] * 450, target_recall=0.97)
    upsert(ids(50, first=450), vectors[450:], columns={"price": range(450, 500), "__text__": ["a word"] * 50})
    delete_products(tmp_path / "index", ids(150, first=10))
    model = {name: vector for name, vector in zip(ids(500), vectors, strict=True)}
    return tmp_path / "index", {name: model[name] for name in [*ids(10), *ids(340, first=160)]}


# --- when


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"graph_nodes": 80, "deleted_nodes": 20}, None),
        ({"graph_nodes": 79, "deleted_nodes": 21}, "21% of the graph's nodes belong to deleted products"),
        ({"built_recall": 0.985, "ann_recall_at_10": 0.976}, None),
        (
            {"built_recall": 0.985, "ann_recall_at_10": 0.974},
            "recall@10 fell by 0.011 since the graph was built",
        ),
        ({"built_recall": 0.9, "ann_recall_at_10": 0.99}, None),
    ],
)
def test_compacting_is_advised_for_a_reason(build, clustered, changes, reason):
    assert wants_compacting(replace(build(clustered(100)), **changes)) == reason


def test_index_as_it_was_built_needs_no_compacting(build, clustered):
    assert wants_compacting(build(clustered(100))) is None


def test_recall_lost_through_changes_is_measured(build, upsert, clustered, tmp_path):
    made = build(clustered(200, dim=32), M=2, ef_construction=2, ef_search=16)

    manifest = upsert([f"new{row}" for row in range(1500)], clustered(1500, dim=32))

    assert manifest.built_recall == made.ann_recall_at_10
    lost = made.ann_recall_at_10 - manifest.ann_recall_at_10
    assert lost > 0.01
    assert wants_compacting(manifest) == f"recall@10 fell by {lost:.3f} since the graph was built"


# --- compact


def test_compacted_index_is_that_of_a_fresh_build(
    build, clustered, assert_holds, current_folder, files_under, changed, tmp_path
):
    index_dir, model = changed
    before = open_index(index_dir)
    assert (before.manifest.graph_nodes, before.manifest.deleted_nodes) == (350, 150)
    placed = []

    manifest = compact_index(index_dir, threads=1, on_progress=placed.append)

    assert (manifest.version, manifest.command, manifest.count) == (4, "compact", 350)
    assert (manifest.graph_nodes, manifest.deleted_nodes) == (350, 0)
    assert sum(placed) == 350
    index = open_index(index_dir)
    assert_holds(index, model, clustered(9, seed=2))
    assert index.products.equals(before.products)
    build(np.stack(list(model.values())), tmp_path / "fresh", product_ids=list(model))
    compacted, fresh = files_under(current_folder(index_dir)), files_under(current_folder(tmp_path / "fresh"))
    for name in ("graph.bin", "nodes.npy", "embeddings.npy"):
        assert compacted[name] == fresh[name], name
    assert compacted["queries.npy"] == files_under(before.directory)["queries.npy"]
    rows, _ = index.lexical.rank(["word"], top_k=350)
    assert len(rows[0]) == 350


def test_compacting_keeps_the_settings_and_measures_again(build, clustered, tmp_path):
    for name, chosen in (("given", {"ef_search": 37}), ("target", {"target_recall": 0.9})):
        made = build(
            clustered(300, dim=32), tmp_path / name, M=3, ef_construction=9, text_template="{title}",
            encoder={"model": "tiny", "revision": "r"}, store_dtype="float16", **chosen,
        )  # fmt: skip
        delete_products(tmp_path / name, ids(100))

        manifest = compact_index(tmp_path / name, threads=1)

        same = ("backend", "text_template", "encoder", "store_dtype", "fingerprint", "id_column")
        for key in (*same, "target_recall"):
            assert getattr(manifest, key) == getattr(made, key), key
        assert manifest.built_recall == manifest.ann_recall_at_10
        if name == "given":
            assert manifest.ef_search == 37
        else:
            assert manifest.ann_recall_at_10 >= 0.9
        assert wants_compacting(manifest) is None


def test_compacting_copies_nothing_that_stays_as_it_is(changed, current_folder):
    index_dir, _ = changed
    before = current_folder(index_dir)

    compact_index(index_dir)

    after = current_folder(index_dir)
    for name in ("embeddings.npy", "products.arrow"):
        assert (after / name).stat().st_ino == (before / name).stat().st_ino


# --- tune again


def test_retuning_sets_the_smallest_effort_that_reaches_the_target(
    build, clustered, current_folder, files_under, tmp_path
):
    made = build(clustered(1000, dim=32), M=4, ef_construction=20, target_recall=0.8)
    before = files_under(current_folder(tmp_path / "index"))

    manifest = retune_index(tmp_path / "index", target_recall=0.95)

    assert (manifest.version, manifest.command, manifest.target_recall) == (2, "tune", 0.95)
    assert manifest.ef_search > made.ef_search
    reaching = [point for point in manifest.recall_curve if point.recall >= 0.95]
    assert manifest.ef_search == min(point.ef_search for point in reaching)
    assert manifest.ann_recall_at_10 == min(reaching, key=lambda point: point.ef_search).recall
    after = files_under(current_folder(tmp_path / "index"))
    assert before.pop("manifest.json") != after.pop("manifest.json")
    assert before == after
    assert open_index(tmp_path / "index").manifest == manifest


def test_retuning_without_a_target_uses_the_default(build, clustered, tmp_path):
    build(clustered(300), ef_search=10)

    manifest = retune_index(tmp_path / "index")

    assert manifest.target_recall == 0.98
    assert manifest.ann_recall_at_10 >= 0.98


def test_given_ef_search_is_taken_and_measured(build, clustered, tmp_path):
    build(clustered(300))

    manifest = retune_index(tmp_path / "index", ef_search=33)

    assert (manifest.ef_search, manifest.target_recall) == (33, None)
    assert [point.ef_search for point in manifest.recall_curve] == [33]
    assert manifest.recall_curve[0].recall == manifest.ann_recall_at_10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ef_search": 10, "target_recall": 0.9}, "give one of them"),
        ({"target_recall": 1.01}, "from 0 to 1, found 1.01"),
        ({"target_recall": -0.1}, "from 0 to 1, found -0.1"),
        ({"target_recall": float("nan")}, "from 0 to 1, found nan"),
    ],
)
def test_arguments_that_cannot_work_are_refused_and_nothing_changes(
    build, clustered, tmp_path, given, message
):
    build(clustered(30))

    with pytest.raises(ConfigError, match=message):
        retune_index(tmp_path / "index", **given)

    assert len(list_versions(tmp_path / "index")) == 1
    assert not (tmp_path / "index" / ".building").exists()


def test_a_lower_target_recall_is_not_a_reason_to_compact(build, clustered, tmp_path):
    build(clustered(1000, dim=32), M=4, ef_construction=20, target_recall=0.95)

    assert wants_compacting(retune_index(tmp_path / "index", target_recall=0.7)) is None
    assert wants_compacting(retune_index(tmp_path / "index", ef_search=10)) is None


def test_recall_lost_through_changes_stays_recorded_unless_tuning_restores_it(
    build, upsert, clustered, tmp_path
):
    build(clustered(200, dim=32), M=4, ef_construction=10, ef_search=16)
    upsert([f"new{row}" for row in range(1500)], clustered(1500, dim=32))

    manifest = retune_index(tmp_path / "index", ef_search=16)
    assert wants_compacting(manifest).startswith("recall@10 fell by")

    manifest = retune_index(tmp_path / "index", target_recall=0.8)
    assert manifest.ann_recall_at_10 >= 0.8
    assert wants_compacting(manifest) is None


@pytest.mark.parametrize("change", ["upsert", "delete", "compact", "tune"])
def test_tuned_weight_of_words_stays_through_changes(
    build, upsert, clustered, current_folder, tmp_path, change
):
    made, index_dir = build(clustered(30)), tmp_path / "index"
    with index_writer(index_dir, command="build") as writer:
        link_files(current_folder(index_dir), writer.staging, tuple(made.files))
        writer.commit(replace(made, hybrid_weight=0.4))

    changes = {
        "upsert": lambda: upsert(["new"], clustered(1, seed=1)),
        "delete": lambda: delete_products(index_dir, ["p00001"]),
        "compact": lambda: compact_index(index_dir),
        "tune": lambda: retune_index(index_dir),
    }

    assert changes[change]().hybrid_weight == 0.4
