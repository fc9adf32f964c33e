r"""Time of a request for a page with its total and facets, by the window of the candidate set.

    aisle sample --output_dir runs/shop --products 20000
    aisle export all-MiniLM-L6-v2 --output_dir runs/mini
    aisle build --model runs/mini --catalog runs/shop/products.csv --text_template "{title} {brand}" \
        --index_dir runs/index
    python benchmarks/candidate_window.py --index_dir runs/index --queries runs/shop/queries.csv

    python benchmarks/candidate_window.py --products 200000 --index_dir runs/made-up --runs 0  # build once
    python benchmarks/candidate_window.py --products 200000 --index_dir runs/made-up --where "price < 250"

With --products the catalogue is made up: 64 components around 2,000 centres, titles of three words (every
title shares a word with every query), brands and prices. Queries are embedded beforehand: the times are those
of the search alone, one query at a time on one thread. The windows take turns. Prints a JSON line per mode
and window: the median and 99th percentile in milliseconds of the candidate set (`set`), and of the set with a
page of ten products and the facets (`page`); and a line for `Searcher.search` for ten products.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa

import aisle
from aisle.index import build_index, open_index
from aisle.search.searcher import Searcher

MODES = ("dense", "lexical", "hybrid")
WARM_UP = 20
DIM = 64
CENTRES = 2000


def made_up(count, rng):
    """Return embeddings around the centres, and a title of three words for each: the centres are the same."""
    centres = np.random.default_rng(0).normal(size=(CENTRES, DIM))
    place = rng.integers(CENTRES, size=count)
    embeddings = (centres[place] + 0.6 * rng.normal(size=(count, DIM))).astype(np.float32)
    words = zip(place % 300, place // 10, rng.integers(40, size=count), strict=True)
    titles = [f"colour{colour} noun{first} noun{second + 300}" for first, second, colour in words]
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), titles


def open_made_up(index_dir, count):
    """Return a searcher of a made-up catalogue, which is built if the folder does not exist."""
    if not Path(index_dir).exists():
        rng = np.random.default_rng(1)
        embeddings, titles = made_up(count, rng)
        payload = {
            "title": titles,
            "brand": [f"Brand {number}" for number in rng.integers(500, size=count)],
            "price": rng.integers(1, 500, size=count).astype(float),
        }
        build_index(
            index_dir,
            product_ids=[f"p{row:07d}" for row in range(count)],
            payload=pa.table(payload),
            texts=titles,
            embeddings=[embeddings],
            dim=DIM,
            fingerprint="f" * 64,
            encoder={"model": "made up"},
        )
    return Searcher(open_index(index_dir), mode="hybrid", threads=1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index_dir", required=True)
    parser.add_argument("--model", help="encoder, if not the one that made the index: a run or a bundle")
    parser.add_argument("--queries", type=Path, help="CSV file with a column query")
    parser.add_argument("--products", type=int, help="products of a made-up catalogue, without --queries")
    parser.add_argument("--facets", nargs="*", help="columns to count; brand, colour, department")
    parser.add_argument("--where", help="condition on the products")
    parser.add_argument("--windows", type=int, nargs="+", default=[10, 100, 200, 500, 1000])
    parser.add_argument("--runs", type=int, default=300)
    given = parser.parse_args()
    facets = given.facets or ["brand", "colour", "department"]
    if given.products is None:
        with given.queries.open(encoding="utf-8", newline="") as file:
            queries = [row["query"] for row in csv.DictReader(file)][: given.runs]
        searcher = aisle.open_searcher(given.index_dir, mode="hybrid", model=given.model)
        embeddings = searcher.encode(queries)
    else:
        searcher = open_made_up(given.index_dir, given.products)
        embeddings, queries = made_up(given.runs, np.random.default_rng(2))
        facets = given.facets or ["brand", "price"]
    times, totals = defaultdict(list), defaultdict(list)
    for at, query in enumerate(queries):
        asked = {"where": given.where, "query_embeddings": embeddings[at : at + 1]}
        for mode in MODES:
            started = time.perf_counter()
            searcher.search([query], 10, mode=mode, **asked)
            times[mode, "search of 10", "page"].append(time.perf_counter() - started)
            for window in given.windows:
                started = time.perf_counter()
                (found,) = searcher.candidates([query], mode=mode, window=window, **asked)
                times[mode, window, "set"].append(time.perf_counter() - started)
                found.page(0, 10)
                found.facets(facets)
                times[mode, window, "page"].append(time.perf_counter() - started)
                totals[mode, window].append(found.total.value)
    for mode, window, part in times:
        if part == "page":
            figures = {"mode": mode, "window": window}
            for name in ("set", "page"):
                if taken := times.get((mode, window, name)):
                    p50, p99 = np.percentile(1e3 * np.array(taken[WARM_UP:]), [50, 99])
                    figures[f"{name}_p50_ms"] = round(float(p50), 2)
                    figures[f"{name}_p99_ms"] = round(float(p99), 2)
            if (mode, window) in totals:
                figures["median_total"] = int(np.median(totals[mode, window]))
            print(json.dumps(figures))


if __name__ == "__main__":
    main()
