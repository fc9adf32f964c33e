r"""Latency of a search from text to products, through the Python API, one query at a time.

    aisle sample --output_dir runs/shop --products 200000
    aisle export all-MiniLM-L6-v2 --output_dir runs/int8 --precision int8
    aisle build --model runs/int8 --catalog runs/shop/products.csv --text_template "{title}" \
        --index_dir runs/index
    python benchmarks/search_latency.py --index_dir runs/index --queries runs/shop/queries.csv

A query is embedded and searched in one call. The first `--warm_up` queries are left out. Prints JSON: the
number of products, and the median, 95th and 99th percentile and the maximum, in milliseconds.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import time
from pathlib import Path

import numpy as np

import aisle


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index_dir", required=True)
    parser.add_argument("--model", help="encoder, if not the one that made the index: a run or a bundle")
    parser.add_argument("--queries", type=Path, required=True, help="CSV file with a column query")
    parser.add_argument("--mode", choices=("dense", "lexical", "hybrid"), default="dense")
    parser.add_argument("--top_k", type=int, default=10)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--warm_up", type=int, default=50)
    given = parser.parse_args()
    with given.queries.open(encoding="utf-8", newline="") as file:
        queries = [row["query"] for row in csv.DictReader(file)]
    searcher = aisle.open_searcher(given.index_dir, mode=given.mode, model=given.model)
    milliseconds = []
    for query in itertools.islice(itertools.cycle(queries), given.runs + given.warm_up):
        started = time.perf_counter()
        searcher.search([query], top_k=given.top_k)
        milliseconds.append(1e3 * (time.perf_counter() - started))
    p50, p95, p99, most = np.percentile(milliseconds[given.warm_up :], [50, 95, 99, 100])
    figures = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": most}
    found = {"products": len(searcher.index), "mode": given.mode, "queries": given.runs}
    print(json.dumps(found | {name: round(float(value), 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
