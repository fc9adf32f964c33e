"""Peak memory of `infer_index.py evaluate` as products and queries grow, over an index of random embeddings.

    python benchmarks/evaluate_memory.py --products 20000 200000 --queries 1000 20000 --output_dir runs/memory

Products are texts of made-up words with random unit vectors as embeddings, so that the memory of ranking and
measuring is separate from that of embedding a catalogue; the model embeds the queries. Each evaluation ranks
by BM25, embeddings and both, in a separate process. Its anonymous memory (RssAnon: without mapped files) is
read ten times a second.
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

from aisle.index import build_index
from aisle.models.loading import load_encoder

ROOT = Path(__file__).resolve().parents[1]
WORDS = 20_000
TEXT_WORDS = 8
JUDGED = 5
CHUNK = 10_000


def texts_of(count, words, random):
    """Return texts of made-up words, few of them frequent, as in natural language."""
    numbers = (WORDS * random.random((count, words)) ** 3).astype(int)
    return [" ".join(f"word{number}" for number in row) for row in numbers]


def unit_vectors(count, dim, random):
    """Yield random unit vectors in chunks."""
    for start in range(0, count, CHUNK):
        vectors = random.standard_normal((min(CHUNK, count - start), dim), np.float32)
        yield vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_index(index_dir, products, model):
    """Build the index of made-up products under the fingerprint of the model."""
    random = np.random.default_rng(0)
    encoder = load_encoder(model, device="cpu")
    build_index(
        index_dir,
        product_ids=[f"P{row:07d}" for row in range(products)],
        payload=pa.table({"department": [f"department {row % 20}" for row in range(products)]}),
        texts=texts_of(products, TEXT_WORDS, random),
        embeddings=unit_vectors(products, encoder.dim, random),
        dim=encoder.dim,
        fingerprint=encoder.fingerprint,
        encoder={"model": model, "precision": "fp32", "revision": None},
        text_template=None,
        M=8,
        ef_construction=40,
        ef_search=100,
    )


def write_judgements(folder, queries, products):
    """Write queries and judgements of random products; return their files."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    asked, judged = folder / f"queries{queries}.jsonl", folder / f"qrels{queries}-{products}.txt"
    texts = texts_of(queries, 3, random)
    asked.write_text(
        "".join(json.dumps({"_id": f"Q{row}", "text": text}) + "\n" for row, text in enumerate(texts))
    )
    drawn = random.integers(products, size=(queries, JUDGED))
    judged.write_text(
        "".join(f"Q{row} 0 P{number:07d} 1\n" for row, numbers in enumerate(drawn) for number in set(numbers))
    )
    return asked, judged


def own_memory_mib(pid):
    """Return the anonymous resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def measure(index_dir, asked, judged, flags):
    """Evaluate once; return the seconds and the peak memory."""
    command = [sys.executable, str(ROOT / "infer_index.py"), "evaluate", "--index_dir", str(index_dir)]
    command += [
        "--queries",
        str(asked),
        "--qrels",
        str(judged),
        "--rows",
        "bm25",
        "tuned",
        "hybrid",
        "--json",
    ]
    started, peak = time.monotonic(), 0.0
    with subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, env=os.environ) as child:
        while child.poll() is None:
            try:
                peak = max(peak, own_memory_mib(child.pid))
            except OSError:
                break
            time.sleep(0.1)
    if child.returncode:
        raise SystemExit(f"the evaluation of {index_dir} failed")
    return round(time.monotonic() - started), round(peak)


def size_mib(folder):
    """Return the size of an index on disk."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--products", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1_000, 20_000])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--flags", default="", help="further flags of evaluate, in a string")
    arguments = parser.parse_args()
    for products in arguments.products:
        index_dir = arguments.output_dir / f"index{products}"
        if not (index_dir / "manifest.json").is_file():
            write_index(index_dir, products, arguments.model)
        for queries in arguments.queries:
            asked, judged = write_judgements(arguments.output_dir, queries, products)
            seconds, peak = measure(index_dir, asked, judged, arguments.flags.split())
            found = {"products": products, "queries": queries, "seconds": seconds, "peak_mib": peak}
            print(json.dumps({**found, "index_mib": size_mib(index_dir)}), flush=True)


if __name__ == "__main__":
    main()
