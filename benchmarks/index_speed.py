"""Build and search speed at equal recall: aisle's index, hnswlib, faiss and usearch, compared.

    pip install faiss-cpu usearch
    python benchmarks/index_speed.py --output_dir runs/index_speed
    python benchmarks/index_speed.py --output_dir runs/index_speed --counts 20000 200000

The vectors are titles of the sample catalogue (`aisle sample`), embedded once and kept in --output_dir; the
queries are its judged queries and titles that are not in the index. All contenders have the same vectors, M,
ef_construction and threads; each searches with the smallest ef that reaches the recall@10; they take turns.
"cost" is the median over the rounds of aisle's seconds divided by the contender's: 1.05 is 5% more. "cpu" is
the same for processor seconds, which other programs on the machine disturb less. "aisle's own graph" is
hnswlib's bare search of aisle's graph, at aisle's ef.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import hnswlib
import numpy as np
import pyarrow as pa

from aisle import build_index, load_encoder, open_index
from aisle.index import ann_recall, exact_search
from aisle.index.dense_search import build_graph
from aisle.index.row_groups import RowGroups, number_nodes
from aisle.index.scoring import pair_scores

OURS, PEER, OWN_GRAPH = "aisle", "hnswlib", "aisle's own graph"
BUILD_BAR, SEARCH_BAR = 1.05, 1.10
TOP_K = 10
QUERIES = 1000
TARGETS = (0.95, 0.99)
PART = 10_000
PAYLOAD = ("title", "brand", "colour", "price", "department")
UNMEASURED = {"ef_search": 64}
"""A fixed ef_search, so that the build does not tune it; the benchmark finds its own."""


def sample_rows(folder, products):
    """Return the rows of a synthetic catalogue's products and of its judged queries."""
    if not (folder / "products.csv").exists():
        command = [sys.executable, "-m", "aisle.cli", "sample", "--products", str(products)]
        subprocess.run([*command, "--output_dir", str(folder)], check=True, stdout=sys.stderr)
    rows = []
    for name in ("products.csv", "queries.csv"):
        with (folder / name).open(newline="", encoding="utf-8") as file:
            rows.append(list(csv.DictReader(file)))
    return rows


def embedded(folder, encode, texts):
    """Return the embeddings of texts, reusing parts that the folder has."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(texts), PART):
        path = folder / f"{start:09d}.npy"
        if not path.exists():
            beside = path.with_suffix(".writing.npy")
            np.save(beside, encode(texts[start : start + PART]))
            beside.rename(path)
            print(f"embedded {min(start + PART, len(texts)):,} of {len(texts):,}", file=sys.stderr)
        parts.append(np.load(path))
    return np.concatenate(parts)


def prepare(folder, encoder, count):
    """Return (count, dim) distinct vectors, their products' payload, and the queries' texts and vectors."""
    products, judged = sample_rows(folder / "sample", count + count // 50 + QUERIES)
    rows = list({row["title"]: row for row in products}.values())
    vectors = embedded(folder / "products", encoder.encode_products, [row["title"] for row in rows])
    first = np.unique(number_nodes(vectors), return_index=True)[1]
    rows, vectors = [rows[row] for row in first], vectors[first]
    payload = pa.table({name: [row[name] for row in rows[:count]] for name in PAYLOAD})
    texts = [row["query"] for row in judged][:QUERIES]
    texts += [row["title"] for row in rows[count : count + QUERIES - len(texts)]]
    queries = embedded(folder / "queries", encoder.encode_queries, texts)
    return vectors[:count].copy(), payload, texts, queries


def peers():
    """Return the modules of faiss and usearch, which are no dependencies of aisle.

    Raises:
        SystemExit: One of them is not installed.
    """
    try:
        import faiss
        import usearch.index
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is not installed: pip install faiss-cpu usearch") from None
    return faiss, usearch.index


def builders(settings):
    """Return each contender's function from vectors to its graph."""
    faiss, usearch_index = peers()
    M, ef, threads = settings.M, settings.ef_construction, settings.threads

    def aisle(vectors):
        groups = RowGroups.of(number_nodes(vectors), np.arange(len(vectors)))
        parameters = {"M": M, "ef_construction": ef}
        return build_graph(vectors, groups, backend="hnsw", parameters=parameters, threads=threads)

    def hnsw(vectors):
        index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), M=M, ef_construction=ef)
        index.add_items(vectors, np.arange(len(vectors)), num_threads=threads)
        return index

    def faiss_hnsw(vectors):
        index = faiss.IndexHNSWFlat(vectors.shape[1], M, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = ef
        index.add(vectors)
        return index

    def usearch(vectors):
        index = usearch_index.Index(
            ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=M, expansion_add=ef
        )
        index.add(np.arange(len(vectors)), vectors, threads=threads)
        return index

    return {OURS: aisle, PEER: hnsw, "faiss": faiss_hnsw, "usearch": usearch}


def searchers(index, built, threads):
    """Return each contender's function from queries and ef to (queries, TOP_K) rows."""

    def aisle(queries, ef):
        return index.search(queries, top_k=TOP_K, ef_search=ef, threads=threads).rows

    def hnswlib_of(graph):
        def search(queries, ef):
            graph.set_ef(ef)
            found = graph.knn_query(queries, k=TOP_K, num_threads=threads)[0].astype(np.int64)
            graph.set_ef(1)  # as aisle leaves its own graph
            return found

        return search

    def faiss_hnsw(queries, ef):
        built["faiss"].hnsw.efSearch = ef
        return built["faiss"].search(queries, TOP_K)[1]

    def usearch(queries, ef):
        built["usearch"].expansion_search = ef
        return built["usearch"].search(queries, TOP_K, threads=threads).keys.astype(np.int64)

    own = hnswlib_of(index.graph.backend.index)
    return {
        OURS: aisle,
        OWN_GRAPH: own,
        PEER: hnswlib_of(built[PEER]),
        "faiss": faiss_hnsw,
        "usearch": usearch,
    }


def time_in_turns(contenders, rounds, repeats=1):
    """Return each contender's (rounds, 2) wall and processor seconds, and its last result."""
    taken, returned = {name: [] for name in contenders}, {}
    names = list(contenders)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            wall, processor = time.perf_counter(), time.process_time()
            for _ in range(repeats):
                returned[name] = contenders[name]()
            taken[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: np.array(seconds) / repeats for name, seconds in taken.items()}, returned


def smallest_ef(recall, target):
    """Return the smallest ef that reaches a recall, by doubling and bisection."""
    below, reaching = TOP_K - 1, TOP_K
    while recall(reaching) < target:
        if reaching >= 2**14:
            raise SystemExit(f"recall@{TOP_K} {recall(reaching):.4f} at ef {reaching}, not {target}")
        below, reaching = reaching, 2 * reaching
    while reaching - below > 1:
        middle = (below + reaching) // 2
        below, reaching = (below, middle) if recall(middle) >= target else (middle, reaching)
    return reaching


def recall_of(search, vectors, queries, exact):
    """Return the function from ef to a contender's recall@10, each measured once."""
    known = {}
    query_of = np.repeat(np.arange(len(queries)), TOP_K)

    def recall(ef):
        if ef not in known:
            rows = search(queries, ef)
            scores = pair_scores(vectors, rows.ravel(), queries, query_of).reshape(rows.shape)
            known[ef] = ann_recall(rows, exact[0], approximate_scores=scores, exact_scores=exact[1])
        return known[ef]

    return recall


def speed(taken, items):
    """Return items per second of each contender, and aisle's cost relative to it."""
    return {
        name: {
            "per second": items / statistics.median(seconds[:, 0]),
            "cost": statistics.median(taken[OURS][:, 0] / seconds[:, 0]),
            "cpu": statistics.median(taken[OURS][:, 1] / seconds[:, 1]),
        }
        for name, seconds in taken.items()
    }


def search_table(contenders, vectors, queries, target, settings):
    """Return each contender's ef, recall and speed at a recall."""
    exact = exact_search(vectors, queries, top_k=TOP_K)
    recalls = {name: recall_of(search, vectors, queries, exact) for name, search in contenders.items()}
    efs = {name: smallest_ef(recall, target) for name, recall in recalls.items()}
    efs[OWN_GRAPH] = efs[OURS]
    calls = {
        name: lambda search=search, ef=efs[name]: search(queries, ef) for name, search in contenders.items()
    }
    taken, _ = time_in_turns(calls, settings.search_rounds, repeats=settings.repeats)
    rows = speed(taken, len(queries))
    return {name: {"ef": efs[name], "recall": recalls[name](efs[name])} | row for name, row in rows.items()}


def single_query(index, encoder, texts, settings):
    """Return percentiles of the milliseconds from one query's text to its products and their payload."""

    def answer(text):
        found = index.search(encoder.encode_queries([text]), top_k=TOP_K, threads=settings.threads)
        return index.payload(found.rows[0])

    milliseconds = []
    for number, text in enumerate(texts[:50] + texts[:300]):
        started = time.perf_counter()
        answer(text)
        if number >= 50:  # the first queries warm up
            milliseconds.append((time.perf_counter() - started) * 1000)
    return {f"p{part}": float(np.percentile(milliseconds, part)) for part in (50, 99)}


def measure(count, encoder, settings):
    """Return all tables of one size of index."""
    folder = settings.output_dir / str(count)
    vectors, payload, texts, queries = prepare(folder, encoder, count)
    peers()[0].omp_set_num_threads(settings.threads)
    build_calls = {name: lambda build=build: build(vectors) for name, build in builders(settings).items()}
    build_seconds, built = time_in_turns(build_calls, settings.rounds)
    started = time.perf_counter()
    build_index(
        folder / "index",
        product_ids=[f"P{row:07d}" for row in range(count)],
        payload=payload,
        embeddings=[vectors],
        dim=vectors.shape[1],
        fingerprint=encoder.fingerprint,
        encoder={"model": settings.model},
        M=settings.M,
        ef_construction=settings.ef_construction,
        threads=settings.threads,
        keep_versions=1,
        **UNMEASURED,
    )
    whole = time.perf_counter() - started
    index = open_index(folder / "index", fingerprint=encoder.fingerprint)
    contenders = searchers(index, built, settings.threads)
    return {
        "build": speed(build_seconds, count),
        "whole build, vectors per second": count / whole,
        **{
            f"search at recall@10 {target}": search_table(contenders, vectors, queries, target, settings)
            for target in TARGETS
        },
        "single query, ms": single_query(index, encoder, texts, settings),
    }


def show(title, value):
    if not isinstance(value, dict):
        print(f"{title}: {value:,.1f}")
        return
    print(f"{title}:")
    for name, cells in value.items():
        cells = cells if isinstance(cells, dict) else {"": cells}
        digits = {key: "," if isinstance(cell, int) else ",.3f" for key, cell in cells.items()}
        print(f"  {name}: " + ", ".join(f"{key} {cell:{digits[key]}}".strip() for key, cell in cells.items()))
    bar = BUILD_BAR if title == "build" else SEARCH_BAR
    if PEER in value:
        cost = value[PEER]["cost"]
        print(f"  {'within' if cost <= bar else 'OVER'} the bar of {bar}: {cost:.3f} times {PEER}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000])
    parser.add_argument("--M", type=int, default=16)
    parser.add_argument("--ef_construction", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="builds of each contender")
    parser.add_argument("--search_rounds", type=int, default=15, help="turns of each contender in searching")
    parser.add_argument("--repeats", type=int, default=5, help="searches of all queries in a turn")
    parser.add_argument("--json", action="store_true", help="print a JSON document instead of lines")
    settings = parser.parse_args()
    peers()  # before anything is embedded
    encoder = load_encoder(settings.model)
    tables = {str(count): measure(count, encoder, settings) for count in settings.counts}
    if settings.json:
        print(json.dumps(tables, indent=2))
        return
    for count, values in tables.items():
        print(f"{int(count):,} products, {settings.threads} threads")
        for title, value in values.items():
            show(title, value)


if __name__ == "__main__":
    main()
