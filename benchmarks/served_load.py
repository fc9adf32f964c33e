"""A server of `aisle serve` in a process, and clients that send it searches from threads."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aisle.service.pairs.served_pair import ServedPair

SECONDS = 300
"""Most seconds to wait for the server to start, or to switch."""


TOLERANCE = 1e-5
"""Greatest difference of two scores: a query embedded in a batch may differ in the last bit."""


@dataclass(frozen=True)
class Reply:
    """Reply to a request: its number, status, JSON and seconds."""

    number: int
    status: int
    content: Any
    seconds: float


@dataclass
class Server:
    """A running server.

    Args:
        process: Its process.
        port: Its port.
        log: Lines that it has written.
    """

    process: subprocess.Popen[str]
    port: int
    log: list[str] = field(default_factory=list)

    def get(self, path: str) -> tuple[int, Any]:
        """Return the status and the JSON of a page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds."""
        until = time.monotonic() + SECONDS
        while not holds():
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit("the server failed:\n" + "".join(self.log))
            time.sleep(0.05)

    def resident_kib(self) -> int:
        """Return the resident memory of the server in KiB."""
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return int(shown.stdout)


@contextmanager
def served(*flags: str) -> Iterator[Server]:
    """Start `aisle serve` on a free port, wait until it is ready, and stop it at the end."""
    command = [sys.executable, "-m", "aisle", "serve", "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log: list[str] = []
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
            break
    else:
        raise SystemExit("the server failed:\n" + "".join(log))
    reader = threading.Thread(target=log.extend, args=(process.stderr,), daemon=True)
    reader.start()
    server = Server(process, int(found[1]), log)
    try:
        server.wait_until(lambda: server.get("/ready")[0] == 200)
        yield server
    finally:
        process.terminate()
        process.wait(60)
        reader.join(60)
        process.stderr.close()


def send_all(
    server: Server,
    bodies: Sequence[Any],
    *,
    requests: int,
    clients: int,
    on_reply: Callable[[Reply], None],
) -> float:
    """Send searches from several clients, each with a connection, and return the seconds that it took.

    Args:
        server: The server.
        bodies: Bodies of the requests; they are sent again from the start as often as needed.
        requests: Number of requests.
        clients: Number of clients.
        on_reply: Function called with each reply, by the client's thread.
    """
    written = [json.dumps(body).encode() for body in bodies]
    numbers = itertools.count()  # its next number is taken in one step, so that threads can share it
    failures: list[BaseException] = []

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        try:
            while (number := next(numbers)) < requests:
                started = time.perf_counter()
                connection.request(
                    "POST", "/search", written[number % len(written)], {"Content-Type": "application/json"}
                )
                reply = connection.getresponse()
                content = reply.read()
                seconds = time.perf_counter() - started
                on_reply(Reply(number, reply.status, json.loads(content), seconds))
        except BaseException as error:  # raised by the caller
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return time.perf_counter() - started


def bodies_of(queries: Sequence[str], *, window: int) -> list[dict[str, Any]]:
    """Return a search for each query, with a mode and a page in turn."""
    modes = itertools.cycle(("dense", "hybrid", "lexical"))
    offsets = itertools.cycle((0, 10))
    return [
        {"query": query, "mode": mode, "offset": offset, "window": window, "fields": []}
        for query, mode, offset in zip(queries, modes, offsets, strict=False)
    ]


def difference(reply: Reply, pair: ServedPair, body: dict[str, Any]) -> float | None:
    """Return the greatest difference of a reply's scores from those in process; None if it is wrong."""
    [expected] = pair.searcher.candidates([body["query"]], mode=body["mode"], window=body["window"])
    page, hits = expected.page(body["offset"], 10), reply.content["hits"]
    scores = dict(zip(expected.product_ids.tolist(), expected.score.tolist(), strict=True))
    found = np.array([hit["score"] for hit in hits])
    differences = np.abs(found - [hit.score for hit in page]) if len(page) == len(hits) else None
    if differences is None or reply.content["total"]["value"] != expected.total.value:
        return None
    # Products with equal scores may change places if their scores differ in the last bit.
    of_products = np.abs(found - [scores.get(hit["id"], np.inf) for hit in hits])
    greatest = float(max(differences.max(initial=0), of_products.max(initial=0)))
    return greatest if greatest <= TOLERANCE else None
