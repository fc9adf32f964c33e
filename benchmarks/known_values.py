"""Check that `infer_index.py evaluate` reproduces known figures; exit code 1 if a figure is missed.

    python benchmarks/known_values.py
    python benchmarks/known_values.py faq product_pairs esci
    python benchmarks/known_values.py scifact --output_dir runs/known

The model is all-MiniLM-L6-v2, untuned; the protocols are those of the shared data folder, ../shared/data, or
AISLE_BENCH_DATA. SciFact is embedded and indexed first, which takes minutes on a CPU; its index is kept in
--output_dir, and a second run takes its embeddings over.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("AISLE_BENCH_DATA", ROOT.parent / "shared" / "data"))
MODEL = "all-MiniLM-L6-v2"
NEARLY_EXACT = 1000
"""ef_search at which the graph over 5,183 documents gives the results of exact search."""


@dataclass(frozen=True)
class Known:
    """A figure that a task must reproduce.

    Args:
        name: Name of the figure.
        expected: Published value, or value measured by another program.
        tolerance: Largest allowed difference: half of the last digit, or more where stated.
    """

    name: str
    expected: float
    tolerance: float


def run(*words):
    """Run a command of infer_index.py and return its JSON document; its messages are shown."""
    command = [sys.executable, str(ROOT / "infer_index.py"), *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def scifact(output_dir):
    """Retrieval over 5,183 abstracts; published as .645."""
    folder, index_dir = DATA / "scifact", output_dir / "scifact-index"
    flags = ["--model", MODEL, "--catalog", folder / "corpus.jsonl", "--id_column", "_id"]
    flags += ["--text_template", "{title} {text}", "--precision", "fp32", "--index_dir", index_dir]
    run("build", *flags)
    judged = ["--queries", folder / "queries.jsonl", "--qrels", folder / "qrels" / "test.tsv"]
    found = run("evaluate", "--index_dir", index_dir, *judged, "--ef_search", NEARLY_EXACT)
    rows = {row["name"]: row["metrics"] for row in found["retrieval"]["rows"]}
    return {"queries": found["queries"], "nDCG@10": rows["base"]["ndcg@10"]["value"]}


def faq(output_dir):
    """Questions and answers in one pool; published as .564 and .663."""
    flags = ["--protocol", "joint_pool", "--model", MODEL, "--product_column", "answer"]
    found = run("evaluate", *flags, "--pairs", DATA / "cloud_faq" / "validation.jsonl")
    row = found["joint_pool"][0]
    return {
        "texts": row["texts"],
        "precision@1": row["precision_at_1"]["value"],
        "MRR": row["mrr"]["value"],
    }


def product_pairs(output_dir):
    """Pairs of offers of two shops; measured with sentence-transformers and scikit-learn."""
    figures = {}
    for name in ("walmart_amazon", "wdc_all_small"):
        pairs = DATA / "product_pairs" / f"{name}_test.csv"
        columns = ["--query_column", "title_a", "--product_column", "title_b", "--label_column", "match"]
        found = run("evaluate", "--model", MODEL, "--pairs", pairs, *columns)
        metrics = found["pairs"]["rows"][0]["metrics"]
        figures[f"{name} ROC-AUC"] = metrics["roc_auc"]["value"]
        figures[f"{name} average precision"] = metrics["average_precision"]["value"]
    return figures


def esci(output_dir):
    """Judged products of the test split, E against all other labels; measured with scikit-learn."""
    with (DATA / "esci" / "examples.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    path = output_dir / "esci_test.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    flags = [
        "--pairs",
        path,
        "--pairs_label_map",
        "E=1,S=0.1,C=0.01,I=0",
        "--product_column",
        "product_title",
    ]
    row = run("evaluate", "--model", MODEL, *flags)["pairs"]["rows"][0]
    return {"ROC-AUC": row["metrics"]["roc_auc"]["value"]}


TASKS = {
    scifact: (Known("queries", 300, 0), Known("nDCG@10", 0.645, 0.001)),
    faq: (Known("texts", 4250, 0), Known("precision@1", 0.564, 0.0005), Known("MRR", 0.6625, 0.0005)),
    product_pairs: (
        Known("walmart_amazon ROC-AUC", 0.7337, 0.0005),
        Known("walmart_amazon average precision", 0.3495, 0.0005),
        Known("wdc_all_small ROC-AUC", 0.6394, 0.0005),
        Known("wdc_all_small average precision", 0.3602, 0.0005),
    ),
    esci: (Known("ROC-AUC", 0.654, 0.001),),
}


def main():
    tasks = {task.__name__: task for task in TASKS}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", help=f"tasks out of {', '.join(tasks)}; default all")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/known"))
    arguments = parser.parse_args()
    unknown = set(arguments.tasks) - set(tasks)
    if unknown:
        parser.error(f"there is no task {', '.join(sorted(unknown))}; there are {', '.join(tasks)}")
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    missed = 0
    for name in arguments.tasks or tasks:
        figures = tasks[name](arguments.output_dir)
        for known in TASKS[tasks[name]]:
            met = abs(figures[known.name] - known.expected) <= known.tolerance + 1e-9
            missed += not met
            print(
                f"{name} {known.name}: {figures[known.name]:.4f}, known {known.expected:g} "
                f"+-{known.tolerance:g}: {'met' if met else 'MISSED'}",
                flush=True,
            )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
