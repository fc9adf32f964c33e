"""Graph backends: exact search, and a third backend that this file registers without a change of `src`."""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import ConfigError, IndexIntegrityError, SearchError
from aisle.index import backends as registry
from aisle.index import (
    compact_index,
    delete_products,
    open_index,
    read_manifest,
    retune_index,
    rollback,
    wants_compacting,
)
from aisle.index.manifest import _checksum
from aisle.index.scoring import pair_scores

SHORTLISTS = "shortlists.npy"


@dataclass(frozen=True)
class Int8Parameters:
    """Levels of the quantised vectors."""

    levels: int = 3

    def problems(self):
        return [] if 1 <= self.levels <= 127 else [f"levels must be from 1 to 127, found {self.levels}"]


class Int8Backend:
    """Brute force over coarse int8 vectors proposes `effort` nodes per query; true cosines rank them."""

    name = "int8"
    files = (SHORTLISTS,)
    Parameters = Int8Parameters
    efforts = (10, 20, 40, 80)

    def __init__(self, codes, vectors, levels):
        self.codes, self.vectors, self.levels = codes, vectors, levels
        self.removed = np.zeros(len(codes), bool)

    @classmethod
    def build(cls, vectors, parameters, *, threads=None, on_progress=None):
        codes = np.empty((0, vectors.dim), np.int8)
        backend = cls(codes, vectors, parameters.levels)
        backend.add(vectors)
        return backend

    @classmethod
    def load(cls, folder, vectors, parameters):
        codes = np.load(folder / SHORTLISTS)
        backend = cls(codes, vectors, parameters.levels)
        backend.removed = vectors.groups.sizes(np.arange(len(codes))) == 0
        return backend

    def save(self, folder):
        np.save(folder / SHORTLISTS, self.codes)

    def search(self, queries, *, nodes, effort, threads):
        rough = np.rint(queries * self.levels) @ self.codes.T.astype(np.float32)
        rough[:, self.removed] = -np.inf
        kept = min(max(effort, nodes), len(self) - int(self.removed.sum()))
        named = np.argsort(-rough, axis=1, kind="stable")[:, :kept]
        query_of = np.repeat(np.arange(len(queries)), kept)
        rows = self.vectors.groups.first(named.ravel())
        cosines = pair_scores(self.vectors.embeddings, rows, queries, query_of).reshape(named.shape)
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :nodes]
        answered = np.ones(len(queries), bool)
        return np.take_along_axis(named, best, axis=1), np.take_along_axis(cosines, best, axis=1), answered

    def add(self, vectors, *, threads=None):
        self.vectors = vectors
        new = vectors.take(np.arange(len(self), len(vectors)))
        self.codes = np.concatenate([self.codes, np.rint(new * self.levels).astype(np.int8)])
        self.removed = np.append(self.removed, np.zeros(len(new), bool))

    def remove(self, nodes):
        self.removed[nodes] = True

    def __len__(self):
        return len(self.codes)


@pytest.fixture
def int8(monkeypatch):
    monkeypatch.setattr(registry, "_BACKENDS", dict(registry._BACKENDS))
    registry.register_backend(Int8Backend)


def model_of(vectors):
    return {f"p{row:05d}": vector for row, vector in enumerate(vectors)}


# --- every backend


@pytest.fixture(params=["hnsw", "exact", "int8"])
def backend(request, int8):
    return request.param


def test_every_backend_equals_brute_force_through_all_changes(
    backend, build, upsert, clustered, assert_holds, tmp_path
):
    vectors, queries, index_dir = clustered(60), clustered(6, seed=3), tmp_path / "index"
    vectors[7] = vectors[3]  # two products with the same embedding: ties break by id with every backend
    model, new = model_of(vectors), clustered(12, seed=9)

    built = build(vectors, backend=backend, payload=pa.table({"price": range(60)}))
    assert (built.backend.name, built.graph_nodes) == (backend, 59)
    assert_holds(open_index(index_dir), model, queries)

    upsert([f"new{row:02d}" for row in range(11)] + ["p00005"], new, columns={"price": range(12)})
    model |= {f"new{row:02d}": vector for row, vector in enumerate(new[:11])} | {"p00005": new[11]}
    assert_holds(open_index(index_dir), model, queries)

    delete_products(index_dir, ["p00003", "p00010", "new04"])
    for gone in ("p00003", "p00010", "new04"):
        del model[gone]
    assert_holds(open_index(index_dir), model, queries)
    assert read_manifest(index_dir).deleted_nodes == 3  # p00003 shared its node; p00005 left one

    compacted = compact_index(index_dir)
    assert (compacted.backend, compacted.deleted_nodes) == (built.backend, 0)
    assert_holds(open_index(index_dir), model, queries)

    rollback(index_dir, to=2)
    assert len(open_index(index_dir)) == 71


def test_filters_are_those_of_exact_search_with_every_backend(
    backend, build, clustered, monkeypatch, tmp_path
):
    from aisle.index import filtered_search

    monkeypatch.setattr(filtered_search, "EXACT_ROWS", 0)
    monkeypatch.setattr(filtered_search, "ROWS_PER_NODE", 0)  # as many queries by the backend as possible
    build(clustered(300), backend=backend, payload=pa.table({"price": range(300)}))
    index, queries = open_index(tmp_path / "index"), clustered(20, seed=1)

    found = index.search(
        queries, top_k=5, where="price < 200", **({} if backend == "exact" else {"ef_search": 300})
    )

    exact = index.search(queries, top_k=5, where="price < 200", exact=True)
    np.testing.assert_array_equal(found.rows, exact.rows)
    assert (found.rows < 200).all()


def test_the_same_build_gives_the_same_files_with_every_backend(
    backend, build, clustered, current_folder, files_under, tmp_path
):
    for name in ("a", "b"):
        build(clustered(50), tmp_path / name, backend=backend)
    a, b = (files_under(current_folder(tmp_path / name)) for name in ("a", "b"))
    del a["manifest.json"], b["manifest.json"]  # has the time of the build
    assert a == b


# --- exact


def test_exact_backend_scores_as_exact_search_does_and_keeps_no_graph(
    build, clustered, current_folder, tmp_path
):
    build(clustered(200, dim=32), tmp_path / "graph", ef_search=64)
    manifest = build(clustered(200, dim=32), backend="exact")
    queries = clustered(9, dim=32, seed=1)

    found = open_index(tmp_path / "index").search(queries, top_k=10)

    exact = open_index(tmp_path / "graph").search(queries, top_k=10, exact=True)
    np.testing.assert_array_equal(found.rows, exact.rows)
    np.testing.assert_array_equal(found.scores, exact.scores)
    assert (manifest.ann_recall_at_10, manifest.ef_search, manifest.target_recall) == (1.0, 1, 0.98)
    assert not (current_folder(tmp_path / "index") / "graph.bin").exists()


def test_an_exact_index_never_wants_compacting(build, clustered, tmp_path):
    build(clustered(40), backend="exact")

    manifest = delete_products(tmp_path / "index", [f"p{row:05d}" for row in range(30)])

    assert (manifest.deleted_nodes, wants_compacting(manifest)) == (30, None)


def test_an_effort_of_exact_search_is_refused_wherever_it_is_given(build, clustered, tmp_path):
    message = "ef_search: backend 'exact' has nothing to tune, found 50; leave it out"
    with pytest.raises(ConfigError, match=message):
        build(clustered(20), backend="exact", ef_search=50)
    build(clustered(20), backend="exact")
    with pytest.raises(ConfigError, match=message):
        retune_index(tmp_path / "index", ef_search=50)
    with pytest.raises(SearchError, match=message):
        open_index(tmp_path / "index").search(clustered(1), top_k=1, ef_search=50)

    assert retune_index(tmp_path / "index", target_recall=0.99).ann_recall_at_10 == 1.0


def test_a_new_build_may_change_the_backend_and_rollback_goes_back_to_the_other(build, clustered, tmp_path):
    build(clustered(30))
    build(clustered(30), backend="exact")
    assert type(open_index(tmp_path / "index").graph.backend).name == "exact"

    rollback(tmp_path / "index")

    assert type(open_index(tmp_path / "index").graph.backend).name == "hnsw"


# --- a registered backend


def test_tuning_sweeps_the_efforts_of_the_backend_and_keeps_its_parameters(int8, build, clustered, tmp_path):
    build(clustered(2000, dim=24), backend="int8", levels=8, ef_search=10)
    before = read_manifest(tmp_path / "index")
    assert before.backend.parameters == {"levels": 8}

    after = retune_index(tmp_path / "index", target_recall=0.95)

    tried = [point.ef_search for point in after.recall_curve]
    assert before.ann_recall_at_10 < 0.95 <= after.ann_recall_at_10
    assert tried[0] == 10
    assert 10 < after.ef_search <= 80
    assert {effort for effort in Int8Backend.efforts if effort < after.ef_search} <= set(tried)
    assert after.backend == before.backend


def test_finer_codes_need_less_effort(int8, build, clustered, tmp_path):
    coarse, fine = (
        build(
            clustered(1000, dim=24), tmp_path / str(levels), backend="int8", levels=levels, target_recall=0.95
        )
        for levels in (1, 100)
    )

    assert fine.ef_search < coarse.ef_search


def test_an_index_of_a_backend_that_is_not_registered_is_refused(
    int8, build, clustered, monkeypatch, tmp_path
):
    build(clustered(30), backend="int8")
    registry._BACKENDS.pop("int8")

    with pytest.raises(IndexIntegrityError, match=r"manifest\.json: backend: must be one of hnsw, exact"):
        open_index(tmp_path / "index")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend": "annoy"}, "backend: must be one of hnsw, exact, int8, found 'annoy'"),
        ({"backend": "int8", "levels": 0}, "levels must be from 1 to 127, found 0"),
        ({"backend": "int8", "levels": "3"}, "levels must be int, found '3'"),
        ({"backend": "int8", "M": 8}, "M: backend 'int8' has no such parameter; it has levels"),
        ({"backend": "exact", "M": 8}, "M: backend 'exact' has no such parameter; it has none"),
        ({"links": 8}, "links: backend 'hnsw' has no such parameter; it has M, ef_construction"),
    ],
)
def test_wrong_backend_settings_are_named_before_anything_is_embedded(int8, build, clustered, given, message):
    def embed():
        pytest.fail("embedded before the settings were checked")
        yield

    with pytest.raises(ConfigError, match=message):
        build(clustered(3), embeddings=embed(), **given)


# --- the manifest


def test_a_program_of_the_earlier_format_refuses_the_index(build, clustered, tmp_path):
    # Format 3 had M and ef_construction in place of the backend; its readers take no other number.
    build(clustered(5), backend="exact")

    document = json.loads((tmp_path / "index" / "manifest.json").read_text())

    assert document["format_version"] == 4
    assert document["backend"] == {"name": "exact", "parameters": {}}
    assert "M" not in document


def test_an_index_of_the_earlier_format_without_its_graph_settings_is_refused(build, clustered, tmp_path):
    build(clustered(5))
    path = tmp_path / "index" / "manifest.json"
    document = json.loads(path.read_text()) | {"format_version": 3}
    del document["backend"], document["manifest_sha256"]
    path.write_text(json.dumps(document | {"manifest_sha256": _checksum(document)}))

    with pytest.raises(IndexIntegrityError, match="M must be int, found None"):
        open_index(tmp_path / "index")
