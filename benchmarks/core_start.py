"""Measure the time from the start of a program to its first answer, in an installation without extras.

    python -m venv core && core/bin/pip install -c constraints.txt .
    core/bin/python benchmarks/core_start.py --index_dir INDEX

Each run is a new process that opens the index and searches it once with a vector; the time includes the
start of Python. A first run, which reads the libraries from the disk, is left out. Prints JSON: the fastest,
median and slowest run in seconds; the median processor time, which busy machines change less; and the time
that Python takes to start and do nothing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

ANSWER = """
import sys
import numpy
import aisle
index = aisle.open_index(sys.argv[1])
query = numpy.ones((1, index.dim), numpy.float32) / numpy.float32(index.dim) ** 0.5
found = index.search(query, top_k=min(10, len(index)))
print(len(index), index.dim, found.product_ids[0, 0])
"""


def measure(code: str, *arguments: str) -> tuple[float, float, str]:
    """Return the seconds and processor seconds of a new program, and what it prints."""
    started, before = time.perf_counter(), os.times()
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    wall, after = time.perf_counter() - started, os.times()
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index_dir", required=True)
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    *_, answer = measure(ANSWER, given.index_dir)
    count, dim, _ = answer.split(maxsplit=2)
    runs = [measure(ANSWER, given.index_dir) for _ in range(given.runs)]
    walls = [wall for wall, _, _ in runs]
    figures = {
        "products": int(count),
        "dim": int(dim),
        "runs": given.runs,
        "fastest_s": round(min(walls), 3),
        "median_s": round(statistics.median(walls), 3),
        "slowest_s": round(max(walls), 3),
        "processor_s": round(statistics.median(cpu for _, cpu, _ in runs), 3),
        "python_alone_s": round(statistics.median(measure("")[0] for _ in range(given.runs)), 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
