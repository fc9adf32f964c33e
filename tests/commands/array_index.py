"""An index of a few made-up vectors, for commands without an encoder, and a function that runs them."""

import json

import numpy as np
import pyarrow as pa

from aisle.cli import index_main
from aisle.index import build_index

COUNT = 200


def write_index(index_dir, *, count=COUNT, dim=16, **changes):
    """Build an index of random unit vectors with ids p000 and on; return its manifest."""
    vectors = np.random.default_rng(0).normal(size=(count, dim))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    defaults = {
        "product_ids": [f"p{row:03d}" for row in range(count)],
        "payload": pa.table({"title": [f"chair {row}" for row in range(count)], "price": range(count)}),
        "texts": [f"chair {row}" for row in range(count)],
        "embeddings": [vectors],
        "dim": dim,
        "fingerprint": "f" * 64,
        "encoder": {"model": "shop/encoder", "precision": "fp32", "revision": None},
        "text_template": "{title}",
        "threads": 1,
    }
    return build_index(index_dir, **(defaults | changes))


def ask(capfd, command, *flags):
    """Run a command with --json; return its exit code, its JSON document and its log."""
    capfd.readouterr()
    code = index_main([command, *map(str, flags), "--json"])
    said = capfd.readouterr()
    assert "Traceback" not in said.err
    return code, json.loads(said.out) if said.out else None, said.err
