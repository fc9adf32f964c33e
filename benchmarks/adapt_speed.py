"""Time the training of a query adapter on made-up vectors: no encoder, no text, no data needed.

    python benchmarks/adapt_speed.py                       # 100,000 pairs, 50,000 products, 384 components
    python benchmarks/adapt_speed.py --kind mlp --epochs 5

Products are points of 32 dimensions, seen in another space with noise. A query means its product and is seen
in a space that is turned, so that an adapter has something to learn. The time is that of `aisle adapt` after
queries are embedded: it finds hard negatives, trains all epochs, and measures the held-out queries.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from aisle.index import build_index, open_index
from aisle.training.adapter_measure import measure_adapter
from aisle.training.adapter_queries import AdapterQueries
from aisle.training.adapter_training import train_adapter
from aisle.types.adapter_options import AdapterOptions

LATENT = 32
"""Dimension of what products and queries mean."""


def unit(vectors):
    """Return vectors scaled to unit norm, float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def made_up(products, queries, pairs, dim, rng):
    """Return embeddings of products and queries, and (queries, judged) rows: the first is the query's own."""
    axes, turned = (rng.normal(size=(LATENT, dim)) for _ in range(2))
    meant = rng.normal(size=(products, LATENT))
    catalogue = unit(meant @ axes + 0.3 * rng.normal(size=(products, dim)))
    own = rng.integers(0, products, queries)
    asked = unit(
        (meant[own] + 0.5 * rng.normal(size=(queries, LATENT))) @ (0.15 * axes + 0.85 * turned)
        + rng.normal(size=(queries, dim))
    )
    others = rng.integers(0, products, (queries, pairs // queries - 1))
    return catalogue, asked, np.concatenate([own[:, None], others], axis=1)


def judged(rows):
    """Return queries with judged rows; the first row of each is relevant."""
    order = np.argsort(rows, axis=1)
    ranked = np.take_along_axis(rows, order, axis=1)
    gains = (order == 0).astype(np.float32)
    starts = np.arange(len(rows) + 1) * rows.shape[1]
    return AdapterQueries([str(n) for n in range(len(rows))], starts, ranked.ravel(), gains.ravel())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=25_000)
    parser.add_argument("--products", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--kind", choices=("linear", "low_rank", "mlp"), default="linear")
    parser.add_argument("--epochs", type=int, default=AdapterOptions().epochs)
    parser.add_argument("--index_dir", type=Path, help="folder of the index, which is built if it is missing")
    parser.add_argument("--build_only", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    catalogue, asked, rows = made_up(options.products, options.queries, options.pairs, options.dim, rng)
    with tempfile.TemporaryDirectory() as folder:
        index_dir = options.index_dir or Path(folder) / "index"
        if not index_dir.exists():
            build(index_dir, catalogue)
        if not options.build_only:
            print(json.dumps(measured(open_index(index_dir), asked, rows, options)))


def build(index_dir, catalogue):
    """Write the index of the catalogue."""
    build_index(
        index_dir,
        product_ids=[f"p{row}" for row in range(len(catalogue))],
        payload=pa.table({"number": range(len(catalogue))}),
        embeddings=[catalogue],
        dim=catalogue.shape[1],
        fingerprint="f" * 64,
        encoder={"model": "made-up"},
    )


def measured(index, asked, rows, options):
    """Train an adapter and measure it; return the figures."""
    ends = [round(options.queries * share) for share in (0.7, 0.8)]
    parts = [judged(part) for part in np.split(rows, ends)]
    vectors = np.split(asked, ends)
    epochs = []
    started, processor = time.perf_counter(), time.process_time()
    adapter = train_adapter(
        index,
        parts[0],
        vectors[0],
        validation=parts[1],
        validation_embeddings=vectors[1],
        options=AdapterOptions(kind=options.kind, epochs=options.epochs),
        log=epochs.append,
    )
    trained = time.perf_counter() - started
    gain = adapter and measure_adapter(
        index, parts[2], before=vectors[2], after=adapter.apply(vectors[2]), seen=parts[0].relevant_rows
    )
    return {
        **{name: value for name, value in vars(options).items() if isinstance(value, int | str)},
        "threads": torch.get_num_threads(),
        "epochs_run": len(epochs),
        "train_seconds": round(trained, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "last_epoch": epochs[-1],
        "ndcg@10": gain and [round(gain.all_products.before, 4), round(gain.all_products.after, 4)],
    }


if __name__ == "__main__":
    main()
