"""ESCI retrieval from training to report, by the commands.

    python benchmarks/esci_report.py --output_dir runs/esci
    python benchmarks/esci_report.py --output_dir runs/esci -- --num_train_epochs 1

Trains with the recipe esci_minilm on the training split of examples.csv (flags after `--` are passed on),
indexes the titles of all examples and distractors, and evaluates on the test split's queries that have an
exact product, with a page in OUTPUT_DIR/report. A title with several product ids counts as one product.
The data folder is ../shared/data, or AISLE_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
from pathlib import Path

from real_data import DATA, ROOT, esci_training_file, rows_of

GRADES = "E=1,S=0.1,C=0.01,I=0"


def write(path, header, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def write_inputs(folder):
    """Write training pairs, catalogue, queries, judgements and test pairs; return their paths by name."""
    examples = rows_of(DATA / "esci" / "examples.csv")
    brands = {row["product_title"]: row["product_brand"] for row in examples}
    titles = dict.fromkeys(
        [*brands, *(row["title"] for row in rows_of(DATA / "esci" / "distractor_titles.csv"))]
    )
    ids = {title: f"p{number}" for number, title in enumerate(titles)}
    test = [row for row in examples if row["split"] == "test"]
    exact = {row["query_id"] for row in test if row["esci_label"] == "E"}
    return {
        "train": esci_training_file(folder),
        "pairs": write(folder / "esci_test.csv", list(test[0]), [row.values() for row in test]),
        "catalog": write(
            folder / "products.csv",
            ("product_id", "title", "brand"),
            [(ids[title], title, brands.get(title, "")) for title in titles],
        ),
        "queries": write(
            folder / "queries.csv",
            ("query_id", "query"),
            {row["query_id"]: row["query"] for row in test if row["query_id"] in exact}.items(),
        ),
        "qrels": write(
            folder / "qrels.csv",
            ("query_id", "product_id", "relevance"),
            [
                (row["query_id"], ids[row["product_title"]], row["esci_label"])
                for row in test
                if row["query_id"] in exact
            ],
        ),
    }


def run(*words):
    """Print a command of the repository and run it."""
    command = [str(word) for word in words]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], check=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/esci"))
    parser.add_argument("train_flags", nargs="*", help="flags for train_peft.py, after --")
    arguments = parser.parse_args()
    folder = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    files = write_inputs(folder)
    model, index_dir = folder / "model", folder / "index"
    recipe = [
        "--use_peft",
        "--config",
        "esci_minilm",
        "--train_file",
        files["train"],
    ]
    run("train_peft.py", *recipe, "--output_dir", model, "--overwrite_output_dir", *arguments.train_flags)
    catalog = ["--catalog", files["catalog"], "--text_template", "{title}"]
    run("infer_index.py", "build", "--model", model, *catalog, "--index_dir", index_dir)
    judged = ["--queries", files["queries"], "--qrels", files["qrels"], "--label_map", GRADES]
    pairs = ["--pairs", files["pairs"], "--product_column", "product_title", "--label_column", "esci_label"]
    report = ["--relevant_from", "1", "--report", folder / "report"]
    run("infer_index.py", "evaluate", "--index_dir", index_dir, *judged, *pairs, *report)


if __name__ == "__main__":
    main()
