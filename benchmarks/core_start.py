"""Measure the time from the start of a program to its first answer, in an installation without torch.

    python -m venv core && core/bin/pip install -c constraints.txt '.[onnx]'
    core/bin/python benchmarks/core_start.py --index_dir INDEX --query "red sofa"

Each run is a new process that opens the index and searches it once with a vector; the time includes the
start of Python. With --query, the command `aisle query` is measured too, from the shell to its end, with the
encoder of the index, which should be a bundle; --flags adds flags, such as --model BUNDLE. Runs take turns.
A first run of each, which reads the libraries from the disk, is left out. Prints JSON: the fastest, median
and slowest run in seconds; the median processor time, which busy machines change less; and the time that
Python takes to start and do nothing.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

ANSWER = """
import sys
import numpy
import aisle
index = aisle.open_index(sys.argv[1])
query = numpy.ones((1, index.dim), numpy.float32) / numpy.float32(index.dim) ** 0.5
found = index.search(query, top_k=min(10, len(index)))
print(len(index), index.dim, found.product_ids[0, 0])
"""


def measure(command: list[str]) -> tuple[float, float, str]:
    """Return the seconds and processor seconds of a new program, and what it prints."""
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - started, os.times()
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system, done.stdout


def figures(runs: list[tuple[float, float, str]]) -> dict[str, float]:
    walls = [wall for wall, _, _ in runs]
    return {
        "fastest_s": round(min(walls), 3),
        "median_s": round(statistics.median(walls), 3),
        "slowest_s": round(max(walls), 3),
        "processor_s": round(statistics.median(cpu for _, cpu, _ in runs), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index_dir", required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--query", help="text for `aisle query`; without it, only a vector is searched")
    parser.add_argument("--flags", default="", help="further flags of `aisle query`, in one argument")
    given = parser.parse_args()
    python, aisle = sys.executable, str(Path(sys.executable).with_name("aisle"))
    by_text = ["query", "--index_dir", given.index_dir, *shlex.split(given.flags), given.query or ""]
    commands = {
        "vector": [python, "-c", ANSWER, given.index_dir],
        "python": [python, "-c", ""],
        **({} if given.query is None else {"query": [aisle, *by_text]}),
    }
    first = {name: measure(command) for name, command in commands.items()}
    rounds = [
        {name: measure(command) for name, command in commands.items()} for _ in range(max(given.runs, 1))
    ]
    count, dim, _ = first["vector"][2].split(maxsplit=2)
    found = {
        "products": int(count),
        "dim": int(dim),
        "runs": len(rounds),
        **figures([one["vector"] for one in rounds]),
        "python_alone_s": figures([one["python"] for one in rounds])["median_s"],
    }
    if given.query is not None:
        command = shlex.join(["aisle", *by_text])
        found["query"] = {"command": command, **figures([one["query"] for one in rounds])}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
