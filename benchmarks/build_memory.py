"""Memory and time of `infer_index.py build` as the catalogue grows; the graph's memory is separate.

    python benchmarks/build_memory.py --products 100000 1000000 --output_dir runs/memory

Each build of a synthetic catalogue (`aisle sample`) runs in a separate process. Once a second, its phase and
its anonymous memory (RssAnon: without mapped files) are read. The peak before the graph must not grow:
everything streams except the graph, which hnswlib keeps in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def own_memory_mib(pid):
    """Return the anonymous resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0


def sample_catalog(products, folder):
    """Write a synthetic catalogue and return its csv."""
    command = [sys.executable, "-m", "aisle.cli", "sample", "--products", str(products)]
    subprocess.run([*command, "--output_dir", str(folder), "--overwrite"], check=True)
    return folder / "products.csv"


def phase_of(index_dir):
    """Return the phase of a build, judged by the files written so far."""
    staging = index_dir / ".building" / "version"
    for name, phase in (("graph.bin", "measuring"), ("nodes.npy", "graph"), ("embeddings.npy", "gathering")):
        if (staging / name).exists():
            return phase
    return "embedding" if (index_dir / ".building" / "shards").exists() else "reading"


def measure(catalog, index_dir, arguments):
    """Build once; return the seconds and the peak memory of each phase, and the manifest."""
    command = [sys.executable, str(ROOT / "infer_index.py"), "build", "--model", arguments.model]
    command += ["--catalog", str(catalog), "--index_dir", str(index_dir), *arguments.flags.split()]
    started = time.monotonic()
    child = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    peaks, seconds = {}, {}
    while child.poll() is None:
        phase = phase_of(index_dir)
        try:
            peaks[phase] = max(peaks.get(phase, 0.0), own_memory_mib(child.pid))
        except OSError:
            break
        seconds[phase] = seconds.get(phase, 0) + 1
        time.sleep(1)
    if child.wait():
        raise SystemExit(f"the build of {catalog} failed")
    manifest = json.loads((index_dir / "manifest.json").read_text())
    return {
        "products": manifest["count"],
        "nodes": manifest["graph_nodes"],
        "seconds": round(time.monotonic() - started),
        "seconds_by_phase": seconds,
        "peak_mib": {phase: round(peak) for phase, peak in peaks.items()},
        "peak_mib_before_graph": round(
            max(peaks.get(name, 0) for name in ("reading", "embedding", "gathering"))
        ),
        "ann_recall@10": manifest["ann_recall@10"],
        "ef_search": manifest["ef_search"],
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--products", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--flags", default="", help="further flags of build, in a string")
    arguments = parser.parse_args()
    found = []
    for products in arguments.products:
        catalog = sample_catalog(products, arguments.output_dir / f"shop{products}")
        found.append(measure(catalog, arguments.output_dir / f"index{products}", arguments))
        print(json.dumps(found[-1]), flush=True)
    first, last = found[0], found[-1]
    ratio = last["peak_mib_before_graph"] / first["peak_mib_before_graph"]
    print(f"{last['products']:,} products take {ratio:.2f} times the memory of {first['products']:,}")


if __name__ == "__main__":
    main()
