"""Vectors with clusters and repeats, and a builder with the arguments that a test does not care about."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from aisle.index import build_index


def clustered(count, dim=16, *, clusters=20, seed=0):
    """Return (count, dim) float32 unit vectors around a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    vectors = centres[rng.integers(clusters, size=count)] + 0.3 * rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(name="clustered")
def clustered_fixture():
    return clustered


@pytest.fixture
def build(tmp_path):
    def build(vectors, index_dir: Path = tmp_path / "index", **changes):
        defaults = {
            "product_ids": [f"p{row:05d}" for row in range(len(vectors))],
            "payload": pa.table({}),
            "embeddings": [vectors],
            "dim": vectors.shape[1],
            "fingerprint": "f" * 64,
            "encoder": {"model": "tiny"},
            "text_template": None,
            "threads": 1,
        }
        return build_index(index_dir, **(defaults | changes))

    return build
