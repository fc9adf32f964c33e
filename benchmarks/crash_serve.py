r"""Stop `aisle serve` at random moments under load, while versions appear, and check what is served next.

    python benchmarks/crash_serve.py --stops 40 --index_dir runs/index --model runs/int8 \
        --queries runs/shop/queries.csv

In each round clients send searches, a writer makes new versions of the index (in every third round the last
of them is damaged), and after a random time the server gets SIGKILL or, in every other round, SIGTERM. Every
response must equal the result in process of the version that it names. After SIGTERM the server must answer
all requests that it had (those sent at least GRACE_SECONDS before), exit with 0, and take no longer than
DRAIN_SECONDS. The next start must serve the last version that is not damaged. Prints JSON; exits with 1 if
anything was lost.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import itertools
import json
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from served_load import Reply, Server, bodies_of, difference, served

from aisle.index import delete_products
from aisle.service.pairs.served_pair import PairSource, ServedPair, load_pair
from aisle.types.columns import ID_COLUMN

GRACE_SECONDS = 0.1
"""A request that is sent later than this before SIGTERM may find its connection closed."""
DRAIN_SECONDS = 30
LONGEST_SECONDS = 4
"""Longest time under load before the stop."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index_dir", type=Path, required=True)
    parser.add_argument("--model", required=True, help="run or bundle")
    parser.add_argument("--queries", type=Path, required=True, help="CSV file with a column query")
    parser.add_argument("--stops", type=int, default=40)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with given.queries.open(encoding="utf-8", newline="") as file:
        queries = list(dict.fromkeys(row["query"] for row in csv.DictReader(file)))
    with tempfile.TemporaryDirectory() as folder:
        figures = run_rounds(given, bodies_of(queries, window=1000), Path(folder))
    print(json.dumps(figures, indent=2))
    sys.exit(1 if figures["lost"] else 0)


@dataclass
class Sent:
    """A request: the body's number, when it was sent, and its reply, if one came."""

    body: int
    started: float
    reply: Reply | None = None


@dataclass
class Versions:
    """The versions of an index that a writer makes, each loaded before it may be damaged.

    Args:
        source: Where they are.
        loaded: Them, by their fingerprint.
        last: Fingerprint of the last that is not damaged.
        ids: Products that are left.
        embeddings: The newest version's file of embeddings.
    """

    source: PairSource
    loaded: dict[str, ServedPair] = field(default_factory=dict)
    last: str = ""
    ids: list[str] = field(default_factory=list)
    embeddings: Path = Path()

    def load(self) -> None:
        """Add the current version."""
        pair = load_pair(self.source)
        self.loaded[pair.index_fingerprint] = pair
        self.last = pair.index_fingerprint
        self.ids = pair.index.products.column(ID_COLUMN).to_pylist()
        self.embeddings = pair.index.directory / "embeddings.npy"

    def make(self) -> None:
        """Make a version without one of the products."""
        delete_products(self.source.index_dir, [self.ids.pop()])
        self.load()

    def damage(self) -> bytes:
        """Make a version, change a byte of it, and return the file as it was; a server may have loaded it."""
        before = self.last
        self.make()
        path = self.embeddings
        content = path.read_bytes()
        path.unlink()  # the loaded pair keeps the whole file
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        self.last = before
        return content


def run_rounds(given: argparse.Namespace, bodies: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Return what became of all stops."""
    shutil.copytree(given.index_dir, folder / "index")
    versions = Versions(PairSource(folder / "index", model=str(Path(given.model).resolve())))
    versions.load()
    rng = random.Random(given.seed)
    lost: list[str] = []
    counts: Counter[str] = Counter()
    drained, starts = [], []
    for stop in range(given.stops):
        how = signal.SIGTERM if stop % 2 else signal.SIGKILL
        damaged = stop % 3 == 2
        started = time.monotonic()
        with served(*flags_of(versions)) as server:
            starts.append(time.monotonic() - started)
            lost += [] if serves(server, versions.last) else [f"stop {stop}: another version after the start"]
            load = Load(server, bodies, given.clients)
            whole = write_versions(versions, rng, damaged=damaged)
            load.stop(how)
            drained += [load.drain_seconds] if how is signal.SIGTERM else []
        counts += load.check(versions, lost, name=f"stop {stop} ({how.name})")
        if whole is not None:
            started = time.monotonic()
            with served(*flags_of(versions)) as server:
                starts.append(time.monotonic() - started)
                fine = serves(server, versions.last)
            lost += [] if fine else [f"stop {stop}: not the last good version after the start"]
            versions.embeddings.write_bytes(whole)
            versions.load()
    return {
        "stops": given.stops,
        "versions": len(versions.loaded),
        "requests": dict(counts),
        "longest_start_s": round(max(starts), 2),
        "longest_drain_s": round(max(drained, default=0), 2),
        "lost": len(lost),
        "examples": lost[:10],
    }


def flags_of(versions: Versions) -> tuple[str, ...]:
    """Return the flags of a server of the versions."""
    source = versions.source
    return ("--index_dir", str(source.index_dir), "--model", str(source.model), "--watch_seconds", "0.05")


def serves(server: Server, fingerprint: str) -> bool:
    """Return whether a server serves a version."""
    return bool(server.get("/info")[1]["index"]["fingerprint"] == fingerprint)


def write_versions(versions: Versions, rng: random.Random, *, damaged: bool) -> bytes | None:
    """Make versions for a random time; return the whole file of the last if it is damaged."""
    until = time.monotonic() + rng.uniform(0, LONGEST_SECONDS)
    while time.monotonic() < until:
        versions.make()
        time.sleep(rng.uniform(0, 0.3))
    whole = versions.damage() if damaged else None
    time.sleep(rng.uniform(0, 0.5))
    return whole


class Load:
    """Clients that send searches until the server stops.

    Args:
        server: The server.
        bodies: Bodies of the requests.
        clients: Number of clients.
    """

    def __init__(self, server: Server, bodies: list[dict[str, Any]], clients: int) -> None:
        self.server = server
        self.bodies = bodies
        self.sent: list[Sent] = []
        self.stopped = float("inf")
        self.drain_seconds = 0.0
        self.status: int | None = None
        self._numbers = itertools.count()
        self._threads = [threading.Thread(target=self._client) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def stop(self, how: signal.Signals) -> None:
        """Send the server a signal, and wait until it and all clients have ended."""
        self.stopped = time.monotonic()
        self.server.process.send_signal(how)
        self.status = self.server.process.wait(2 * DRAIN_SECONDS)
        self.drain_seconds = time.monotonic() - self.stopped
        for thread in self._threads:
            thread.join()

    def check(self, versions: Versions, lost: list[str], *, name: str) -> Counter[str]:
        """Return the number of requests by their fate, and add to `lost` what is wrong."""
        killed = self.status == -signal.SIGKILL
        if not killed and (self.status != 0 or self.drain_seconds > DRAIN_SECONDS):
            lost.append(f"{name}: status {self.status} after {self.drain_seconds:.1f} s")
        counts: Counter[str] = Counter()
        for sent in self.sent:
            if sent.reply is None:
                counts["killed" if killed else "came too late"] += 1
                if not killed and sent.started < self.stopped - GRACE_SECONDS:
                    lost.append(f"{name}: no reply to a request {self.stopped - sent.started:.2f} s before")
                continue
            fate = self._fate(sent, sent.reply, versions)
            counts[fate] += 1
            if fate not in ("right", "refused"):
                lost.append(f"{name}: {fate}: {sent.reply.status} {str(sent.reply.content)[:200]}")
        return counts

    def _fate(self, sent: Sent, reply: Reply, versions: Versions) -> str:
        """Return whether a reply is right."""
        if reply.status == 503 and sent.started > self.stopped - GRACE_SECONDS:
            return "refused"
        pair = versions.loaded.get(reply.content.get("index", {}).get("fingerprint"))
        if reply.status != 200 or pair is None:
            return "failed"
        return "wrong" if difference(reply, pair, self.bodies[reply.number]) is None else "right"

    def _client(self) -> None:
        """Send requests until the server closes the connection or refuses it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            while True:
                number = next(self._numbers) % len(self.bodies)
                sent = Sent(number, time.monotonic())
                self.sent.append(sent)
                content = json.dumps(self.bodies[number]).encode()
                connection.request("POST", "/search", content, {"Content-Type": "application/json"})
                reply = connection.getresponse()
                seconds = time.monotonic() - sent.started
                sent.reply = Reply(number, reply.status, json.loads(reply.read()), seconds)
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return  # the server has ended
        finally:
            connection.close()


if __name__ == "__main__":
    main()
