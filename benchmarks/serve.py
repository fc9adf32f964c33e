r"""Measure `aisle serve`: swaps under load, memory over many requests, latency beside search in process.

    python benchmarks/serve.py swaps --index_dir runs/index --model runs/fp32 \
        --other_index_dir runs/other_index --other_model runs/int8 --queries runs/shop/queries.csv
    python benchmarks/serve.py memory --index_dir runs/index --model runs/fp32 \
        --queries runs/shop/queries.csv
    python benchmarks/serve.py latency --index_dir runs/index --model runs/fp32 \
        --queries runs/shop/queries.csv

`swaps` copies both indexes, sends requests from all clients, and publishes five pairs meanwhile: a new
version, another model with its index, a damaged version, the first model with its index, and a new version.
Every response is compared with the result in process of the version that it names. `memory` compares the
server's resident memory after a tenth of the requests with that at the end. `latency` sends searches from 1,
8 and 32 clients, and runs the same searches in as many threads of this process. Prints JSON; exits with 1 if
a response is wrong.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from served_load import Reply, Server, bodies_of, difference, send_all, served

from aisle.index import delete_products
from aisle.service.pairs.pointer_file import publish_pair
from aisle.service.pairs.served_pair import PairSource, ServedPair, load_pair
from aisle.types.columns import ID_COLUMN

DELETED = 50
"""Share of the products that a new version lacks: one in so many."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("swaps", "memory", "latency"))
    parser.add_argument("--index_dir", type=Path, required=True)
    parser.add_argument("--model", required=True, help="run or bundle")
    parser.add_argument("--other_index_dir", type=Path, help="index of the other model, for swaps")
    parser.add_argument("--other_model", help="another run or bundle, for swaps")
    parser.add_argument("--queries", type=Path, required=True, help="CSV file with a column query")
    parser.add_argument(
        "--requests", type=int, help="10,000 for swaps, 100,000 for memory, 2,000 for latency"
    )
    parser.add_argument(
        "--clients", type=int, nargs="+", help="32 for swaps, 8 for memory, 1 8 32 for latency"
    )
    parser.add_argument("--window", type=int, default=1000)
    given = parser.parse_args()
    with given.queries.open(encoding="utf-8", newline="") as file:
        queries = list(dict.fromkeys(row["query"] for row in csv.DictReader(file)))
    measured = {"swaps": measure_swaps, "memory": measure_memory, "latency": measure_latency}
    figures = measured[given.what](given, queries)
    print(json.dumps(figures, indent=2))
    sys.exit(1 if figures.get("wrong") else 0)


def measure_swaps(given: argparse.Namespace, queries: Sequence[str]) -> dict[str, Any]:
    """Return how many responses of a server that swaps are right."""
    requests, [clients] = given.requests or 10_000, given.clients or [32]
    bodies = bodies_of(queries, window=given.window)
    replies: list[Reply] = []
    with tempfile.TemporaryDirectory() as folder:
        pairs = Pairs(Path(folder), given)
        pairs.publish(0)
        with served("--follow", str(pairs.pointer), "--watch_seconds", "0.1") as server:
            swapping = threading.Thread(
                target=swap_five_times, args=(server, pairs, lambda: len(replies) / requests)
            )
            swapping.start()
            seconds = send_all(server, bodies, requests=requests, clients=clients, on_reply=replies.append)
            swapping.join()
            swaps = server.get("/info")[1]["swaps"]
        compared = [pairs.compare(reply, bodies[reply.number % len(bodies)]) for reply in replies]
    return {
        "requests": requests,
        "clients": clients,
        "statuses": dict(Counter(str(reply.status) for reply in replies)),
        "responses_by_version": dict(Counter(pairs.name_of(reply) for reply in replies)),
        "swaps": swaps["swaps"],
        "refused": swaps["refused"] > 0,
        "wrong": sum(difference is None for difference in compared) + (swaps["swaps"] != 4),
        "greatest_difference": max((found for found in compared if found is not None), default=None),
        "requests_per_second": round(requests / seconds, 1),
    }


class Pairs:
    """Copies of two indexes, and the pairs that were published from them.

    Args:
        folder: Folder for the copies and the pointer file.
        given: Command line.
    """

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        self.pointer = folder / "serving.json"
        self.published: dict[str, ServedPair] = {}
        originals = [(given.index_dir, given.model), (given.other_index_dir, given.other_model)]
        if None in originals[1]:
            raise SystemExit("swaps: give --other_index_dir and --other_model")
        self.sources = []
        for number, (index_dir, model) in enumerate(originals):
            copied = folder / f"index{number}"
            shutil.copytree(index_dir, copied)
            self.sources.append(PairSource(copied, model=str(Path(model).resolve())))

    def publish(self, number: int, *, damaged: bool = False) -> ServedPair:
        """Publish the current version of an index; with `damaged`, change a byte of it before."""
        pair = load_pair(self.sources[number])
        if damaged:
            path = pair.index.directory / "embeddings.npy"
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.unlink()  # the loaded pair keeps the whole file
            path.write_bytes(content)
        else:
            self.published[pair.index_fingerprint] = pair
        publish_pair(pair, self.pointer)
        return pair

    def make_version(self, number: int) -> None:
        """Make a new version of an index, without some of its products."""
        source = self.sources[number]
        ids = load_pair(source).index.products.column(ID_COLUMN).to_pylist()
        delete_products(source.index_dir, ids[:: max(2, DELETED)] if len(ids) > DELETED else ids[:1])

    def name_of(self, reply: Reply) -> str:
        """Return a name for the pair that a reply names."""
        pair = self.published.get(reply.content.get("index", {}).get("fingerprint"))
        return "none" if pair is None else f"{pair.source.index_dir.name} version {pair.version}"

    def compare(self, reply: Reply, body: dict[str, Any]) -> float | None:
        """Return the greatest difference from the scores in process; None if the reply is wrong."""
        pair = self.published.get(reply.content.get("index", {}).get("fingerprint"))
        if reply.status != 200 or pair is None:
            return None
        return difference(reply, pair, body)


def swap_five_times(server: Server, pairs: Pairs, done: Any) -> None:
    """Publish five pairs while the requests are sent, the third of them damaged."""
    for step, (number, new_version, damaged) in enumerate(
        [(0, True, False), (1, False, False), (1, True, True), (0, False, False), (0, True, False)], start=1
    ):
        while done() < step / 7:
            time.sleep(0.01)
        if new_version:
            pairs.make_version(number)
        pair = pairs.publish(number, damaged=damaged)

        def in_use(fingerprint: str = pair.index_fingerprint, refused: bool = damaged) -> bool:
            info = server.get("/info")[1]
            if refused:
                return info["swaps"]["problem"] is not None
            return bool(info["index"]["fingerprint"] == fingerprint)

        server.wait_until(in_use)


def measure_memory(given: argparse.Namespace, queries: Sequence[str]) -> dict[str, Any]:
    """Return the server's resident memory over many requests."""
    requests, [clients] = given.requests or 100_000, given.clients or [8]
    bodies = bodies_of(queries, window=given.window)
    flags = ("--index_dir", str(given.index_dir), "--model", given.model)
    statuses: Counter[int] = Counter()
    with served(*flags) as server:
        resident = []
        for _ in range(10):
            send_all(
                server,
                bodies,
                requests=requests // 10,
                clients=clients,
                on_reply=lambda reply: statuses.update([reply.status]),
            )
            resident.append(server.resident_kib())
    return {
        "requests": requests,
        "statuses": {str(status): count for status, count in statuses.items()},
        "resident_mib_after_each_tenth": [round(kib / 1024, 1) for kib in resident],
        "growth": round(resident[-1] / resident[0] - 1, 4),
        "wrong": requests // 10 * 10 - statuses[200],
    }


def measure_latency(given: argparse.Namespace, queries: Sequence[str]) -> dict[str, Any]:
    """Return the latency of searches by the server, and in threads of this process."""
    requests = given.requests or 2000
    bodies = [{"query": query, "window": given.window, "fields": []} for query in queries]
    flags = ("--index_dir", str(given.index_dir), "--model", given.model)
    rows = []
    wrong = 0
    with served(*flags) as server:
        send_all(server, bodies, requests=100, clients=8, on_reply=lambda _: None)  # warm up
        for clients in given.clients or (1, 8, 32):
            replies: list[Reply] = []
            seconds = send_all(server, bodies, requests=requests, clients=clients, on_reply=replies.append)
            wrong += sum(reply.status != 200 for reply in replies)
            rows.append(
                {"where": "server", "clients": clients}
                | latencies([reply.seconds for reply in replies], seconds)
            )
    searcher = load_pair(PairSource(given.index_dir.resolve(), model=given.model)).searcher
    for clients in given.clients or (1, 8, 32):

        def search(number: int) -> float:
            started = time.perf_counter()
            [found] = searcher.candidates([queries[number % len(queries)]], window=given.window)
            found.page(0, 10)
            return time.perf_counter() - started

        with ThreadPoolExecutor(clients) as pool:
            started = time.perf_counter()
            each = list(pool.map(search, range(requests)))
            seconds = time.perf_counter() - started
        rows.append({"where": "in process", "clients": clients} | latencies(each, seconds))
    return {"products": len(searcher.index), "requests": requests, "latency": rows, "wrong": wrong}


def latencies(seconds: Sequence[float], total: float) -> dict[str, float]:
    """Return percentiles in milliseconds, and the requests per second."""
    p50, p99 = 1e3 * np.percentile(seconds, [50, 99])
    return {
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "per_second": round(len(seconds) / total, 1),
    }


if __name__ == "__main__":
    main()
