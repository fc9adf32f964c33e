"""Compare the base model, the tuned model and BM25 on real data, by the protocols of the data folder.

    python benchmarks/real_data.py walmart_amazon --output_dir runs/bench
    python benchmarks/real_data.py faq --output_dir runs/bench -- --num_train_epochs 1
    python benchmarks/real_data.py scifact
    python benchmarks/real_data.py faq --no_train --encoders runs/fp32 runs/int8

Trains with the recipe of the data through train_peft.py (flags after `--` are passed on), on training
files only; the best evaluation is chosen on validation; the test file is scored once, at the end.
`--encoders` adds other runs, models or bundles. The data folder is ../shared/data, or AISLE_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import aisle
from aisle.evaluation.joint_pool import joint_pool
from aisle.evaluation.pair_metrics import score_pairs
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.evaluation.runs import to_run
from aisle.index.lexical import Bm25Index
from aisle.models.loading import load_encoder

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("AISLE_BENCH_DATA", ROOT.parent / "shared" / "data"))
BASE = "all-MiniLM-L6-v2"
ESCI_GAINS = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def top_100(encoder, queries, texts):
    """Rows and scores of the best texts per query, by exact cosine, or by BM25 without an encoder."""
    if encoder is None:
        return Bm25Index.build(texts).rank(queries, top_k=100)
    scores = encoder.encode_queries(queries) @ encoder.encode_products(texts).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    return rows, np.take_along_axis(scores, rows, axis=1)


def product_pairs(encoder, name):
    rows = rows_of(DATA / "product_pairs" / f"{name}_test.csv")
    queries = encoder.encode_queries([row["title_a"] for row in rows])
    products = encoder.encode_products([row["title_b"] for row in rows])
    found = score_pairs((queries * products).sum(axis=1), np.array([float(row["match"]) for row in rows]))
    return {"roc_auc": found.roc_auc, "average_precision": found.average_precision}


def faq(encoder):
    rows = rows_of(DATA / "cloud_faq" / "validation.jsonl")
    pool = joint_pool(
        encoder.encode_queries([row["question"] for row in rows]),
        encoder.encode_products([row["answer"] for row in rows]),
    )
    return {"precision@1": pool.precision_at_1, "mrr": pool.mrr}


def esci(encoder):
    """Pairs of the test split by label, and retrieval over all titles (a title judged E is relevant)."""
    rows = rows_of(DATA / "esci" / "examples.csv")
    titles = list(
        dict.fromkeys(
            [row["product_title"] for row in rows]
            + [row["title"] for row in rows_of(DATA / "esci" / "distractor_titles.csv")]
        )
    )
    qrels, texts, splits = {}, {}, {}
    for row in rows:
        texts[row["query_id"]] = row["query"]
        splits[row["query_id"]] = row["split"]
        if row["esci_label"] == "E":
            qrels.setdefault(row["query_id"], {})[row["product_title"]] = 1.0
    run = to_run(list(qrels), titles, *top_100(encoder, [texts[q] for q in qrels], titles))
    figures = {}
    for part in ("all", "test"):
        chosen = {q: judged for q, judged in qrels.items() if part == "all" or splits[q] == "test"}
        values = evaluate_run(chosen, {q: run[q] for q in chosen}, cutoffs=(1, 10)).values
        figures |= {f"{part} queries": len(chosen)}
        figures |= {f"{part} {m}": values[m] for m in ("precision@1", "mrr@10", "ndcg@10", "recall@10")}
    if encoder is not None:
        test = [row for row in rows if row["split"] == "test"]
        cosines = (
            encoder.encode_queries([row["query"] for row in test])
            * encoder.encode_products([row["product_title"] for row in test])
        ).sum(axis=1)
        exact = np.array([row["esci_label"] == "E" for row in test])
        for other in "SCI":
            among = exact | np.array([row["esci_label"] == other for row in test])
            figures[f"E against {other}"] = score_pairs(cosines[among], exact[among].astype(float)).roc_auc
        figures["E against all others"] = score_pairs(cosines, exact.astype(float)).roc_auc
    return figures


def scifact(encoder):
    corpus = rows_of(DATA / "scifact" / "corpus.jsonl")
    qrels = {}
    for row in rows_of(DATA / "scifact" / "qrels" / "test.tsv"):
        qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = float(row["score"])
    texts = {row["_id"]: row["text"] for row in rows_of(DATA / "scifact" / "queries.jsonl")}
    documents = [f"{row['title']} {row['text']}" for row in corpus]
    ids = [row["_id"] for row in corpus]
    run = to_run(list(qrels), ids, *top_100(encoder, [texts[q] for q in qrels], documents))
    values = evaluate_run(qrels, run, cutoffs=(10, 100)).values
    return {"ndcg@10": values["ndcg@10"], "recall@100": values["recall@100"]}


def esci_training_file(folder):
    """Write the training split's pairs; 625 of the 700 are E."""
    path = folder / "esci_train.csv"
    kept = [row for row in rows_of(DATA / "esci" / "examples.csv") if row["split"] == "train"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    return path


TASKS = {
    "walmart_amazon": lambda encoder: product_pairs(encoder, "walmart_amazon"),
    "wdc": lambda encoder: product_pairs(encoder, "wdc_all_small"),
    "faq": faq,
    "esci": esci,
    "scifact": scifact,
}
WITH_BM25 = ("esci", "scifact")


def training_flags(task, folder):
    if task in ("walmart_amazon", "wdc"):
        name = "walmart_amazon" if task == "walmart_amazon" else "wdc_all_small"
        files = [DATA / "product_pairs" / f"{name}_{split}.csv" for split in ("train", "validation")]
        return ["--train_file", str(files[0]), "--validation_file", str(files[1])]
    if task == "faq":
        return ["--train_file", str(DATA / "cloud_faq" / "train.jsonl")]
    return ["--train_file", str(esci_training_file(folder))]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/bench"))
    parser.add_argument("--recipe", help="default: the task's recipe in src/aisle/recipes/")
    parser.add_argument("--name", default="tuned", help="name of the tuned row and its folder")
    parser.add_argument("--no_train", action="store_true")
    parser.add_argument("--encoders", nargs="+", default=[], help="runs, models or bundles to measure too")
    arguments, handed_on = parser.parse_known_args()
    measure = TASKS[arguments.task]
    figures = {"base": measure(load_encoder(BASE))}
    for name in arguments.encoders:
        figures[name] = measure(aisle.load_encoder(name))
    if arguments.task in WITH_BM25:
        figures["bm25"] = measure(None)
    if arguments.task != "scifact" and not arguments.no_train:
        run_dir = arguments.output_dir / f"{arguments.task}-{arguments.name}"
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        own = "esci_minilm" if arguments.task == "esci" else arguments.task
        recipe = arguments.recipe or str(ROOT / "src" / "aisle" / "recipes" / f"{own}.yaml")
        command = [sys.executable, str(ROOT / "train_peft.py"), "--use_peft", "--config", recipe]
        command += ["--output_dir", str(run_dir), "--overwrite_output_dir"]
        command += training_flags(arguments.task, arguments.output_dir)
        started = time.perf_counter()
        subprocess.run([*command, *(flag for flag in handed_on if flag != "--")], check=True)
        figures[arguments.name] = measure(load_encoder(run_dir))
        trained = json.loads((run_dir / "metrics.json").read_text())
        figures[arguments.name]["training seconds"] = round(time.perf_counter() - started)
        figures[arguments.name]["pairs_per_second"] = round(trained["pairs_per_second"], 1)
        figures[arguments.name]["padding_share"] = round(trained["padding_share"], 3)
    for name, values in figures.items():
        shown = ", ".join(f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())
        print(f"{arguments.task} {name}: {shown}")


if __name__ == "__main__":
    main()
