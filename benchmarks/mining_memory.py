"""Peak memory and time of `aisle mine --source both` as the catalogue grows, over random embeddings.

    python benchmarks/mining_memory.py --products 100000 1000000 --output_dir runs/mining-memory

Products are texts of made-up words with random unit vectors, so that the memory of mining is separate from
that of embedding a catalogue (benchmarks/build_memory.py). Each call mines from an index without a graph, so
every query is compared with every product, in a separate process. Its anonymous memory (RssAnon: without
mapped files) and its resident memory (VmRSS: with the pages of mapped files, which the system takes back when
others need memory) are read ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from evaluate_memory import TEXT_WORDS, texts_of, unit_vectors

from aisle.index import build_index
from aisle.models.loading import load_encoder


def write_index(index_dir, products, model):
    """Build an index of made-up products, without a graph, under the fingerprint of the model."""
    random = np.random.default_rng(0)
    encoder = load_encoder(model, device="cpu")
    build_index(
        index_dir,
        product_ids=[f"P{row:07d}" for row in range(products)],
        payload=pa.table({}),
        texts=texts_of(products, TEXT_WORDS, random),
        embeddings=unit_vectors(products, encoder.dim, random),
        dim=encoder.dim,
        fingerprint=encoder.fingerprint,
        encoder={"model": model, "precision": "fp32", "revision": None},
        backend="exact",
    )


def write_pairs(folder, queries, products):
    """Write made-up queries with a random product each; return the file."""
    random = np.random.default_rng(1)
    path = folder / f"pairs{queries}-{products}.jsonl"
    texts, numbers = texts_of(queries, 3, random), random.integers(products, size=queries)
    rows = (
        {"query": f"{text} {row}", "product_id": f"P{number:07d}"}
        for row, (text, number) in enumerate(zip(texts, numbers, strict=True))
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def memory_mib(pid):
    """Return the anonymous and the resident memory of a process."""
    found = dict.fromkeys(("RssAnon:", "VmRSS:"), 0.0)
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name = line.split()[0] if line.split() else ""
        if name in found:
            found[name] = int(line.split()[1]) / 1024
    return found["RssAnon:"], found["VmRSS:"]


def measure(index_dir, pairs, output):
    """Mine once; return the seconds and the peaks."""
    command = [sys.executable, "-m", "aisle.cli", "mine", "--source", "both", "--index_dir", str(index_dir)]
    command += ["--train_file", str(pairs), "--output_file", str(output), "--json"]
    started, peaks = time.monotonic(), [0.0, 0.0]
    child = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.DEVNULL)
    while child.poll() is None:
        try:
            peaks = [max(pair) for pair in zip(peaks, memory_mib(child.pid), strict=True)]
        except OSError:
            break
        time.sleep(0.1)
    if child.wait():
        raise SystemExit(f"mining from {index_dir} failed")
    report = json.loads(Path(f"{output}.mining.json").read_text())
    return {
        "hard_negatives": report["hard_negatives"],
        "seconds": round(time.monotonic() - started),
        "peak_mib": round(peaks[0]),
        "peak_resident_mib": round(peaks[1]),
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--products", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--output_dir", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for products in arguments.products:
        index_dir = arguments.output_dir / f"index{products}"
        if not index_dir.exists():
            write_index(index_dir, products, arguments.model)
        pairs = write_pairs(arguments.output_dir, arguments.queries, products)
        found = measure(index_dir, pairs, arguments.output_dir / f"mined{products}.jsonl")
        print(json.dumps({"products": products, "queries": arguments.queries, **found}), flush=True)


if __name__ == "__main__":
    main()
