"""Measure the time from the start of a program to its first answer, in an installation without extras.

    python -m venv core && core/bin/pip install -c constraints.txt .
    core/bin/python benchmarks/core_start.py --index_dir INDEX

Each run is a new process that opens the index and searches it once with a vector; the time includes the
start of Python. A first run, which reads the libraries from the disk, is left out. Prints JSON: the fastest,
median and slowest run in seconds, and the time that Python takes to start and do nothing.
"""

import argparse
import json
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


def seconds(code: str, *arguments: str) -> tuple[float, str]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - started, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--index_dir", required=True)
    parser.add_argument("--runs", type=int, default=20)
    given = parser.parse_args()
    _, answer = seconds(ANSWER, given.index_dir)
    count, dim, _ = answer.split(maxsplit=2)
    runs = sorted(seconds(ANSWER, given.index_dir)[0] for _ in range(given.runs))
    bare = statistics.median(seconds("")[0] for _ in range(given.runs))
    figures = {
        "products": int(count),
        "dim": int(dim),
        "runs": given.runs,
        "fastest_s": round(runs[0], 3),
        "median_s": round(statistics.median(runs), 3),
        "slowest_s": round(runs[-1], 3),
        "python_alone_s": round(bare, 3),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
