"""Vectors with clusters and repeats, and writers with default arguments."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aisle.index import build_index, open_index, read_manifest, upsert_products
from aisle.index.layout import version_directory
from tests.index.small_index import ids

FINGERPRINT = "f" * 64


def clustered(count, dim=16, *, clusters=20, seed=0):
    """Return (count, dim) float32 unit vectors around a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    vectors = centres[rng.integers(clusters, size=count)] + 0.3 * rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(model, queries):
    """Return, per query, every product id of a dict of id -> vector, best first; ties break by id."""
    ids = sorted(model)
    stored = np.stack([model[product_id] for product_id in ids]).astype(np.float64)
    scores = [
        np.einsum("pd,pd->p", stored, np.tile(query.astype(np.float64), (len(ids), 1))) for query in queries
    ]
    return [[ids[row] for row in np.argsort(-score.astype(np.float32), kind="stable")] for score in scores]


def assert_holds(index, model, queries):
    """Assert that an index has exactly the products of a dict of id -> vector, and finds them."""
    held = dict(zip(index.products.column("product_id").to_pylist(), index.embeddings, strict=True))
    assert held.keys() == model.keys()
    for product_id, vector in model.items():
        np.testing.assert_array_equal(held[product_id], vector)
    count, expected = len(model), brute_force(model, queries)
    assert index.search(queries, top_k=count, exact=True).product_ids.tolist() == expected
    assert index.search(queries, top_k=count).product_ids.tolist() == expected
    few = min(10, count)
    choosable = len(index.graph.backend.efforts) > 1
    found = index.search(queries, top_k=few, ef_search=2 * count if choosable else None)
    assert found.product_ids.tolist() == [ids[:few] for ids in expected]


def files_under(folder):
    """Return the bytes of every file under a folder by its relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def current_folder(index_dir):
    """Return the folder of the current version's files."""
    return version_directory(index_dir, read_manifest(index_dir).version)


@pytest.fixture(name="clustered")
def clustered_fixture():
    return clustered


@pytest.fixture(name="assert_holds")
def assert_holds_fixture():
    return assert_holds


@pytest.fixture(name="files_under")
def files_under_fixture():
    return files_under


@pytest.fixture(name="current_folder")
def current_folder_fixture():
    return current_folder


@pytest.fixture
def build(tmp_path):
    def build(vectors, index_dir: Path = tmp_path / "index", **changes):
        defaults = {
            "product_ids": [f"p{row:05d}" for row in range(len(vectors))],
            "payload": pa.table({}),
            "embeddings": [vectors],
            "dim": vectors.shape[1],
            "fingerprint": FINGERPRINT,
            "encoder": {"model": "tiny"},
            "threads": 1,
        }
        return build_index(index_dir, **(defaults | changes))

    return build


@pytest.fixture
def upsert(tmp_path):
    def upsert(product_ids, vectors, index_dir: Path = tmp_path / "index", *, columns=None, **changes):
        defaults = {
            "products": pa.table({"product_id": pa.array(product_ids, pa.string()), **(columns or {})}),
            "embeddings": [vectors],
            "fingerprint": FINGERPRINT,
            "threads": 1,
        }
        return upsert_products(index_dir, **(defaults | changes))

    return upsert


@pytest.fixture
def old(build, clustered, tmp_path):
    """An index of 30 products, in its first version."""
    build(clustered(30))
    return tmp_path / "index"


@pytest.fixture
def assert_untouched(old):
    """Assert that the index of 30 products is unchanged, with no other files."""

    def assert_untouched():
        index = open_index(old)
        assert (index.manifest.version, len(index)) == (1, 30)
        assert sorted(path.name for path in old.iterdir()) == ["lock", "manifest.json", "versions"]
        assert [path.name for path in (old / "versions").iterdir()] == ["000001"]

    return assert_untouched


@pytest.fixture
def index_dir(build, clustered, tmp_path):
    """An index of 50 clustered products."""
    build(clustered(50), payload=pa.table({"price": range(50)}))
    return tmp_path / "index"


@pytest.fixture
def model(clustered):
    """Expected contents of `index_dir`."""
    return dict(zip(ids(50), clustered(50), strict=True))
