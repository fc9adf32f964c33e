"""The query adapter of an index: its formulas, its file, and the versions that have it."""

import os
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import IndexIntegrityError
from aisle.index import (
    compact_index,
    delete_products,
    list_versions,
    open_index,
    read_manifest,
    retune_index,
    rollback,
    upsert_products,
)
from aisle.index.adapt_index import TrainedFunction, adapt_index
from aisle.index.manifest import (
    ADAPTER_FILE,
    EMBEDDINGS_FILE,
    MANIFEST_FILE,
    FileRecord,
    write_manifest,
)
from aisle.index.query_adapter import QueryAdapter, write_adapter
from aisle.io.durable import file_sha256
from tests.search.adapter_record import BASE, record_of
from tests.search.word_encoder import DIM, WordEncoder, write_shop

SWAPPED = QueryAdapter("linear", {"weight": np.eye(DIM, dtype=np.float32)[::-1].copy()})


@pytest.fixture
def index_dir(tmp_path):
    write_shop(tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def adapted(index_dir):
    adapt_index(index_dir, lambda _: TrainedFunction(SWAPPED, record_of(SWAPPED)))
    return index_dir


def random_adapter(kind, *, dim=8, size=3):
    rng = np.random.default_rng(0)
    shapes = {
        "linear": {"weight": (dim, dim)},
        "low_rank": {"down": (size, dim), "up": (dim, size)},
        "mlp": {
            "hidden_weight": (size, dim),
            "hidden_bias": (size,),
            "output_weight": (dim, size),
            "output_bias": (dim,),
        },
    }
    return QueryAdapter(
        kind, {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes[kind].items()}
    )


def test_the_kinds_compute_their_formulas():
    q = np.array([[0.6, 0.8]], np.float32)
    linear = QueryAdapter("linear", {"weight": np.array([[0, 2], [1, 0]], np.float32)})
    low_rank = QueryAdapter(
        "low_rank", {"down": np.array([[1, 1]], np.float32), "up": np.array([[1], [0]], np.float32)}
    )
    mlp = QueryAdapter(
        "mlp",
        {
            "hidden_weight": np.array([[1, 0], [-1, 0]], np.float32),
            "hidden_bias": np.array([0.4, 0.5], np.float32),
            "output_weight": np.array([[1, 9], [0, 9]], np.float32),
            "output_bias": np.array([0, 0.2], np.float32),
        },
    )

    found = [adapter.apply(q)[0] for adapter in (linear, low_rank, mlp)]

    # W q = (1.6, .6); q + (1.4, 0) = (2, .8); relu(1, -.1) = (1, 0), so q + (1, 0) + (0, .2) = (1.6, 1)
    wanted = [np.array(v) / np.linalg.norm(v) for v in ((1.6, 0.6), (2.0, 0.8), (1.6, 1.0))]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "low_rank", "mlp"])
def test_a_query_does_not_depend_on_the_others(kind):
    adapter = random_adapter(kind)
    queries = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)

    together = adapter.apply(queries)

    assert np.array_equal(together, np.concatenate([adapter.apply(queries[i : i + 1]) for i in range(50)]))
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)


def test_the_fingerprint_depends_on_weights_base_and_index():
    adapter, other = random_adapter("mlp"), random_adapter("mlp")
    other.weights["output_bias"][0] += 1

    prints = {
        adapter.fingerprint(base="a", index="b"),
        adapter.fingerprint(base="a", index="c"),
        adapter.fingerprint(base="c", index="b"),
        other.fingerprint(base="a", index="b"),
    }

    assert len(prints) == 4


def test_a_published_adapter_shares_the_vectors_and_is_read_back(adapted):
    index = open_index(adapted)

    assert (index.manifest.version, index.manifest.command, index.manifest.parent) == (2, "adapt", 1)
    assert index.manifest.query_adapter == record_of(SWAPPED)
    asked = WordEncoder().encode_queries(["red sofa", "blue lamp"])
    np.testing.assert_allclose(index.adapted(asked), asked[:, ::-1], atol=1e-7)
    before = open_index(adapted, version=1)
    assert np.array_equal(before.adapted(asked), asked)
    assert os.path.samefile(index.directory / EMBEDDINGS_FILE, before.directory / EMBEDDINGS_FILE)


def test_nothing_is_published_without_an_adapter(index_dir):
    manifest = adapt_index(index_dir, lambda _: None)

    assert manifest.version == read_manifest(index_dir).version == 1
    assert len(list_versions(index_dir)) == 1


def test_rollback_takes_the_adapter_away(adapted):
    rollback(adapted)

    assert open_index(adapted).query_adapter is None


def test_changes_of_the_products_keep_the_adapter(adapted):
    products = pa.table({"product_id": ["new"], "title": ["red rug"], "price": [9], "__text__": ["red rug"]})
    vectors = WordEncoder().encode_products(["red rug"])

    for change in (
        lambda: upsert_products(adapted, products=products, embeddings=[vectors], fingerprint=BASE),
        lambda: delete_products(adapted, ["new"]),
        lambda: retune_index(adapted, ef_search=20),
        lambda: compact_index(adapted, threads=1),
    ):
        change()
        index = open_index(adapted)
        assert index.manifest.query_adapter == record_of(SWAPPED)
        assert np.array_equal(index.query_adapter.weights["weight"], SWAPPED.weights["weight"])


def test_an_adapter_with_other_weights_than_recorded_is_refused_with_one_message(adapted):
    other = QueryAdapter("linear", {"weight": np.eye(DIM, dtype=np.float32)})
    replace_adapter(adapted, other)

    with pytest.raises(IndexIntegrityError, match="has other weights than the adapter of the manifest"):
        open_index(adapted)


def test_an_adapter_of_another_shape_is_refused(adapted):
    replace_adapter(adapted, QueryAdapter("linear", {"weight": np.eye(3, dtype=np.float32)}))

    with pytest.raises(IndexIntegrityError, match=r"query adapter of kind linear .* \(32, 32\).*\(3, 3\)"):
        open_index(adapted)


def test_an_altered_adapter_is_found_by_its_checksum(adapted):
    path = open_index(adapted).directory / ADAPTER_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\1")

    with pytest.raises(IndexIntegrityError, match=r"query_adapter\.npz: altered"):
        open_index(adapted)


def replace_adapter(index_dir, adapter):
    """Put another adapter into the current version, with a checksum that fits."""
    index = open_index(index_dir)
    write_adapter(index.directory, adapter)
    path = index.directory / ADAPTER_FILE
    files = {**index.manifest.files, ADAPTER_FILE: FileRecord(file_sha256(path), path.stat().st_size)}
    for folder in (index_dir, index.directory):
        write_manifest(folder / MANIFEST_FILE, replace(index.manifest, files=files))
