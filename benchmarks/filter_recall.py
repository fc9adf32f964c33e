"""Recall@10 of filtered search at shrinking shares of the catalogue, compared with exact search.

    python benchmarks/filter_recall.py --output_dir runs/index_speed
    python benchmarks/filter_recall.py --output_dir runs/index_speed --count 200000

Titles of the sample catalogue, embedded once and kept in --output_dir (benchmarks/index_speed.py uses it
too). Two filters keep each share: by price, which is independent of the embeddings, and by brand, which the
titles contain, so that either all or none of a query's neighbours satisfy the filter.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from index_speed import TOP_K, UNMEASURED, prepare

from aisle import build_index, load_encoder, open_index
from aisle.index import ann_recall

SHARES = (0.5, 0.1, 0.01, 0.001)


def by_price(payload, share):
    """Return the condition that keeps the cheapest share."""
    return f"price <= {cheapest(payload['price'], share)}"


def by_brand(payload, share):
    """Return the condition that keeps random brands, or the cheapest products of a brand, up to a share."""
    sizes = Counter(payload["brand"].to_pylist())
    names = [str(name) for name in np.random.default_rng(0).permutation(sorted(sizes))]
    if sizes[names[0]] > share * len(payload):
        prices = payload.filter(pc.equal(payload["brand"], names[0]))["price"]
        within = cheapest(prices, share * len(payload) / len(prices))
        return f"brand == '{names[0]}' and price <= {within}"
    kept = np.searchsorted(np.cumsum([sizes[name] for name in names]), share * len(payload))
    return "brand in [" + ", ".join(f"'{name}'" for name in names[:kept]) + "]"


def cheapest(prices, share):
    return f"{float(np.quantile(prices.to_numpy(), share)):.2f}"


def measure(index, queries, where):
    """Return the kept share, recall@10, and milliseconds per query of the index and of exact search."""
    started = time.perf_counter()
    found = index.search(queries, top_k=TOP_K, where=where)
    taken = time.perf_counter() - started
    started = time.perf_counter()
    exact = index.search(queries, top_k=TOP_K, where=where, exact=True)
    taken_exactly = time.perf_counter() - started
    mask = index.satisfying(where)
    if not mask[found.rows].all():
        raise SystemExit(f"{where}: a result does not satisfy the filter")
    recall = ann_recall(found.rows, exact.rows, approximate_scores=found.scores, exact_scores=exact.scores)
    return mask.mean(), recall, 1000 * taken / len(queries), 1000 * taken_exactly / len(queries)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=500)
    settings = parser.parse_args()
    encoder = load_encoder(settings.model)
    folder = settings.output_dir / str(settings.count)
    vectors, payload, _, queries = prepare(folder, encoder, settings.count)
    prices = pa.array([float(price) for price in payload["price"].to_pylist()])
    payload = payload.set_column(payload.column_names.index("price"), "price", prices)
    build_index(
        folder / "filtered",
        product_ids=[f"P{row:07d}" for row in range(settings.count)],
        payload=payload,
        embeddings=[vectors],
        dim=vectors.shape[1],
        fingerprint=encoder.fingerprint,
        encoder={"model": settings.model},
        keep_versions=1,
        **UNMEASURED,
    )
    index = open_index(folder / "filtered", fingerprint=encoder.fingerprint)
    queries = queries[np.linspace(0, len(queries) - 1, settings.queries).astype(int)]
    print(f"{settings.count:,} products, {len(queries):,} queries, ef_search {index.manifest.ef_search}")
    for share in SHARES:
        for name, condition in (("price", by_price), ("brand", by_brand)):
            kept, recall, ms, exact_ms = measure(index, queries, condition(payload, share))
            print(
                f"{share:.1%} by {name}: {kept:.3%} kept, recall@10 {recall:.4f}, "
                f"{ms:.2f} ms a query, exact search {exact_ms:.2f} ms"
            )


if __name__ == "__main__":
    main()
