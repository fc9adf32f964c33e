"""A graph may fill the memory: changing an index loads it once, rebuilding does not load it."""

import hnswlib
import numpy as np
import pytest

from aisle.index import compact_index, delete_products, open_index, retune_index, rollback


@pytest.fixture
def loaded(monkeypatch):
    """Names of the graph files that were loaded."""
    files = []

    class Counted(hnswlib.Index):
        def load_index(self, path, **options):
            files.append(path)
            super().load_index(path, **options)

    monkeypatch.setattr(hnswlib, "Index", Counted)
    return files


def test_upsert_and_delete_load_the_graph_once(upsert, clustered, old, loaded, assert_holds):
    upsert(["new1", "p00001"], clustered(2, seed=9))
    assert len(loaded) == 1

    loaded.clear()
    delete_products(old, ["p00002"])
    assert len(loaded) == 1

    model = {f"p{row:05d}": vector for row, vector in enumerate(clustered(30))}
    model |= dict(zip(["new1", "p00001"], clustered(2, seed=9), strict=True))
    del model["p00002"]
    assert_holds(open_index(old), model, clustered(5, seed=3))


def test_tuning_loads_the_graph_once_and_compacting_and_going_back_not_at_all(old, loaded):
    retune_index(old, ef_search=20)
    assert len(loaded) == 1

    loaded.clear()
    compact_index(old)
    rollback(old)
    assert loaded == []


def test_damaged_graph_is_mended_by_compacting(old, clustered):
    (old / "versions" / "000001" / "graph.bin").write_bytes(b"gone")

    compact_index(old)

    np.testing.assert_array_equal(open_index(old).search(clustered(30), top_k=1).rows[:, 0], np.arange(30))
