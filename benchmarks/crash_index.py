"""Kill writers of an index with SIGKILL at random moments, and check which version survives.

    python benchmarks/crash_index.py --kills 50
    python benchmarks/crash_index.py --kills 50 --products 20000
    python benchmarks/crash_index.py --kills 200 --seed 1

Each writer (first build, build, upsert, delete, compact, tune, rollback) is a separate process on the same
index directory, and embeds slowly enough to be killed meanwhile. The moment is drawn uniformly over the
duration of the last writer of the kind, including the switch to the new version and the removal of old
versions. After every kill the index must open with valid checksums, be the version before or after with
exactly that version's products, and give the results of exact search over them. After a killed first build
there is no index, or a complete index. Then the same writer runs again, or another writer if the killed one
had finished. It must succeed without manual cleaning and leave no temporary files. Exits with 1 and keeps its
folder if anything was lost.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from aisle.errors import IndexIntegrityError
from aisle.index import (
    build_index,
    compact_index,
    delete_products,
    list_versions,
    open_index,
    retune_index,
    rollback,
    upsert_products,
)

DIM, CLUSTERS, CHUNK = 64, 50, 256
CHUNK_SECONDS = 0.03
WRITERS = ("build", "upsert", "delete", "compact", "tune", "rollback", "first build")
FINGERPRINT = "f" * 64
WHOLE = {"lock", "manifest.json", "versions"}
QUERIES, LOWEST_RECALL = 20, 0.9
MOST_DRAWS = 20


@dataclass(frozen=True)
class Task:
    """The task of a writer: products as numbers with a revision, which determines the vector."""

    writer: str
    before: dict[str, int] | None
    """Products of the version before; None if there is no index."""
    after: dict[str, int]
    version_after: int


@dataclass(frozen=True)
class Killed:
    """A killed writer and the state of the index afterwards."""

    writer: str
    seconds: float
    where: str
    serves: str
    lost: str | None


def vectors_of(products):
    """Return (products, DIM) float32 unit vectors around a few centres."""
    centres = np.random.default_rng(0).normal(size=(CLUSTERS, DIM))
    vectors = np.empty((len(products), DIM))
    for row, (name, revision) in enumerate(products.items()):
        rng = np.random.default_rng([int(name[1:]), revision])
        vectors[row] = centres[rng.integers(CLUSTERS)] + 0.5 * rng.normal(size=DIM)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def texts_of(products):
    return [f"item {name} revision {revision}" for name, revision in products.items()]


def embed(products):
    """Yield the vectors of products in chunks, as slowly as a small model."""
    vectors = vectors_of(products)
    for start in range(0, len(vectors), CHUNK):
        time.sleep(CHUNK_SECONDS)
        yield vectors[start : start + CHUNK]


def write(index_dir, task):
    """Carry out a task."""
    before, after = task.before or {}, task.after
    if task.writer in ("build", "first build"):
        build_index(
            index_dir,
            product_ids=list(after),
            payload=pa.table({"revision": list(after.values())}),
            texts=texts_of(after),
            embeddings=embed(after),
            dim=DIM,
            fingerprint=FINGERPRINT,
            encoder={},
        )
    elif task.writer == "upsert":
        changed = {name: revision for name, revision in after.items() if before.get(name) != revision}
        products = {
            "product_id": list(changed),
            "__text__": texts_of(changed),
            "revision": list(changed.values()),
        }
        upsert_products(
            index_dir, products=pa.table(products), embeddings=embed(changed), fingerprint=FINGERPRINT
        )
    elif task.writer == "delete":
        delete_products(index_dir, [name for name in before if name not in after])
    elif task.writer == "compact":
        compact_index(index_dir)
    elif task.writer == "tune":
        retune_index(index_dir, target_recall=0.97)
    else:
        rollback(index_dir, to=task.version_after)


def run_as_child(index_dir, task_file):
    """Report when everything is imported, write, and report the duration."""
    task = Task(**json.loads(task_file.read_text()))
    print("ready", flush=True)
    began = time.perf_counter()
    write(index_dir, task)
    print(time.perf_counter() - began, flush=True)


class Shop:
    """An index, and the expected contents of each version."""

    def __init__(self, index_dir, products, draw):
        self.index_dir, self.products, self.draw = index_dir, products, draw
        self.held: dict[int, dict[str, int]] = {}
        self.current: int | None = None
        self.next_id = 0

    def new(self, count):
        """Return new products, at their first revision."""
        names = [f"p{number}" for number in range(self.next_id, self.next_id + count)]
        self.next_id += count
        return dict.fromkeys(names, 0)

    def task(self, writer):
        """Return the next task of a writer."""
        if self.current is None:
            return Task("first build", None, self.new(self.products), 1)
        before, numbers = self.held[self.current], self.numbers()
        names, after, version_after = list(before), dict(before), numbers[-1] + 1
        some = self.draw.sample(names, len(names) // 8)
        if writer == "build":
            after = {name: revision for name, revision in before.items() if name not in some}
            after |= self.new(self.products - len(after))
        elif writer == "upsert":
            after |= {name: before[name] + 1 for name in some} | self.new(len(some) // 2)
        elif writer == "delete":
            after = {name: revision for name, revision in before.items() if name not in some}
        elif writer == "rollback":
            older = [number for number in numbers if number != self.current]
            version_after = self.draw.choice(older) if older else self.current
            after = self.held[version_after]
        return Task(writer, before, after, version_after)

    def numbers(self):
        """Return the numbers of the kept versions."""
        return [version.number for version in list_versions(self.index_dir)]

    def did(self, task):
        """Record a finished task."""
        self.held[task.version_after], self.current = task.after, task.version_after

    def problem(self, task):
        """Return the version that serves ("before", "after" or "none"), and its defect or None."""
        try:
            index = open_index(self.index_dir, fingerprint=FINGERPRINT)
        except IndexIntegrityError as error:
            never = task.before is None and not (self.index_dir / "manifest.json").exists()
            return "none", None if never else f"it does not open: {error}"
        version = index.manifest.version
        if version == task.version_after:
            return "after", wrong_products(index, task.after)
        if version == self.current and task.before is not None:
            return "before", wrong_products(index, task.before)
        return "none", f"version {version} serves, not {self.current} or {task.version_after}"

    def left_behind(self):
        """Return the files that a finished writer should have removed, or None."""
        names = {path.name for path in self.index_dir.iterdir()}
        damaged = [version.problem for version in list_versions(self.index_dir) if version.problem]
        return f"{sorted(names - WHOLE)} {damaged} left behind" if names != WHOLE or damaged else None


def wrong_products(index, products):
    """Return how an index differs from the products it must hold and find, or None."""
    expected = vectors_of(products)
    place = {name: row for row, name in enumerate(products)}
    names = index.products.column("product_id").to_pylist()
    if sorted(names) != sorted(products):
        return f"it holds {len(names)} products, not the {len(products)} of that version"
    order = [place[name] for name in names]
    if not np.array_equal(index.embeddings, expected[order]):
        return "embeddings are not those of that version"
    if index.products.column("revision").to_pylist() != [products[name] for name in names]:
        return "payload is not that of that version"
    asked = expected[:: max(1, len(expected) // QUERIES)]
    exact = index.search(asked, top_k=10, exact=True).product_ids
    if exact[:, 0].tolist() != list(products)[:: max(1, len(expected) // QUERIES)]:
        return "a product is not the best answer to its own embedding"
    graph = index.search(asked, top_k=10).product_ids
    recall = np.mean([len(set(mine) & set(true)) / 10 for mine, true in zip(graph, exact, strict=True)])
    word = index.lexical.rank([names[-1]], top_k=1)[0][0].tolist()
    if recall < LOWEST_RECALL or word != [len(names) - 1]:
        return f"it answers badly: recall@10 {recall:.3f}, word found in rows {word}"
    return None


def where_it_died(index_dir, serves):
    staged = index_dir / ".building" / "version"
    if (index_dir / ".building" / "committing").exists():
        return "while switching" if serves != "after" else "after the switch"
    if serves == "after":
        return "after the switch"
    for name, where in (
        ("manifest.json", "before moving the version into place"),
        ("queries.npy", "while measuring, checksumming or syncing"),
        ("nodes.npy", "while making graph and words"),
        ("embeddings.npy", "while writing embeddings"),
        ("upserted.npy", "while embedding"),
    ):
        if (staged / name).exists():
            return where
    return "before anything was written"


def start(index_dir, task):
    """Start a writer and return it once its imports are done."""
    task_file = index_dir.with_suffix(".task")
    task_file.write_text(json.dumps(task.__dict__))
    command = [sys.executable, __file__, "--child", str(index_dir), str(task_file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"{index_dir}: {task.writer} did not start")
    return process


def finish(process, task):
    """Wait for a writer and return its seconds of writing."""
    spent, _ = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{task.writer} failed without being killed")
    return float(spent)


def killed(shop, task, seconds):
    """Kill a writer after a delay, and return whether it was still writing."""
    process = start(shop.index_dir, task)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    return process.returncode != 0


def kill_and_go_on(shop, writer, times):
    """Kill a writer at a random moment, check the index, and run the next writer."""
    for _ in range(MOST_DRAWS):
        task = shop.task(writer)
        seconds = shop.draw.uniform(0, times[writer])
        if killed(shop, task, seconds):
            break
        shop.did(task)  # faster than last time: it finished before the drawn moment
        if writer == "first build":
            shutil.rmtree(shop.index_dir)
            shop.current, shop.held = None, {}
    else:
        raise SystemExit(f"{writer}: {MOST_DRAWS} in a row finished before they could be killed")
    serves, lost = shop.problem(task)
    where = where_it_died(shop.index_dir, serves)
    if lost is None and serves == "after":
        shop.did(task)
        task = shop.task("delete")
    if lost is None:
        times[task.writer] = finish(start(shop.index_dir, task), task)
        shop.did(task)
        again, lost = shop.problem(task)
        if lost is None:
            lost = shop.left_behind() if again == "after" else "the next writer changed nothing"
    return Killed(writer, seconds, where, serves, lost)


def report(runs):
    print("| kill | writer | seconds into it | where | serves | lost |")
    print("|---|---|---|---|---|---|")
    for number, run in enumerate(runs, start=1):
        lost = run.lost or "nothing"
        print(f"| {number} | {run.writer} | {run.seconds:.2f} | {run.where} | {run.serves} | {lost} |")
    for what, count in Counter(run.where for run in runs).most_common():
        print(f"{what}: {count}")
    whole = sum(run.lost is None for run in runs)
    print(f"{whole} of {len(runs)}{'' if whole == len(runs) else ': something was lost'}")
    return whole == len(runs)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--products", type=int, default=4000, help="of a build")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and the changes")
    parser.add_argument("--child", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        run_as_child(*arguments.child)
        return
    folder, began = Path(tempfile.mkdtemp(prefix="crash_index_")), time.perf_counter()
    draw, times, runs = random.Random(arguments.seed), {}, []
    shop = Shop(folder / "index", arguments.products, draw)
    for writer in ("first build", *WRITERS[:-1]):
        task = shop.task(writer)
        times[writer] = finish(start(shop.index_dir, task), task)
        shop.did(task)
    print(
        "uninterrupted: " + ", ".join(f"{writer} {spent:.2f} s" for writer, spent in times.items()),
        flush=True,
    )
    for number in range(1, arguments.kills + 1):
        writer = WRITERS[number % len(WRITERS)]
        used = Shop(folder / f"first_{number}", arguments.products, draw) if writer == "first build" else shop
        runs.append(kill_and_go_on(used, writer, times))
        print(f"kill {number}: {runs[-1]}", file=sys.stderr, flush=True)
        if runs[-1].lost:
            break  # later runs would build on the damage
    every_one = report(runs)
    print(f"{time.perf_counter() - began:.0f} s in all")
    if not every_one:
        raise SystemExit(f"the index is in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
