"""SciFact: one epoch with in-batch negatives only, and with a mined negative for each pair from each source.

    python benchmarks/mined_negatives.py --output_dir runs/mined-negatives
    python benchmarks/mined_negatives.py --output_dir runs/mined-negatives --sources random bm25

The sources are those of `aisle mine`: random, bm25, dense and both; dense and both rank by the base model. It
trains on 85% of the training queries, and prints nDCG@10 with exact search over all documents for the other
training queries and for the test queries, the gain of each source over in-batch negatives with its 95%
interval, and whether random negatives did as well. Data are those of the shared data folder: ../shared/data,
or AISLE_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import json
from hashlib import blake2b
from pathlib import Path

import numpy as np
from hybrid import DATA, METRIC, rows_of, scifact

import aisle
from aisle.cli import main as run_command
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.evaluation.runs import to_run
from aisle.evaluation.significance import bootstrap_interval
from aisle.index import exact_search

HELD_OUT = 0.15
"""Share of the training queries on which nothing is trained."""
VALIDATION_PAIRS = 32
SOURCES = ("random", "bm25", "dense", "both")
SETTINGS = {
    "model_name_or_path": "all-MiniLM-L6-v2",
    "use_peft": True,
    "lora_rank": 16,
    "lora_alpha": 32,
    "learning_rate": 2e-4,
    "loss": "in_batch",
    "in_batch_directions": ["query_to_product"],
    "label_column": "none",
    "max_length": 128,
    "per_device_train_batch_size": 32,
    "num_train_epochs": 1,
    "keep": "last",
}


def is_held_out(query):
    return int(blake2b(query.encode()).hexdigest(), 16) % 100 < 100 * HELD_OUT


def mined_pairs(folder, queries, source="bm25"):
    """Return the training pairs with a hard negative each."""
    judged, mined = folder / "judged.jsonl", folder / f"mined-{source}.jsonl"
    with judged.open("w", encoding="utf-8") as file:
        for row in rows_of(DATA / "scifact" / "qrels" / "train.tsv"):
            pair = {"query_id": row["query-id"], "query": queries[row["query-id"]]}
            file.write(json.dumps({**pair, "product_id": row["corpus-id"], "relevance": 1.0}) + "\n")
    catalog = ["--catalog", str(DATA / "scifact" / "corpus.jsonl"), "--id_column", "_id"]
    catalog += ["--text_template", "{title} {text}", "--per_query", "1"]
    catalog += ["--source", source]
    if source in ("dense", "both"):
        cache = ["--embedding_cache", str(folder / "vectors"), "--max_length", str(SETTINGS["max_length"])]
        catalog += ["--model", SETTINGS["model_name_or_path"], *cache]
    code = run_command(["mine", "--train_file", str(judged), *catalog, "--output_file", str(mined)])
    if code:
        raise SystemExit(code)
    return rows_of(mined)


def without_negatives(pairs):
    return [{name: value for name, value in pair.items() if not name.startswith("hard")} for pair in pairs]


def measure(model, products, queries, qrels):
    """Return nDCG@10 per query for each split."""
    encoder = aisle.load_encoder(model)
    embeddings = encoder.encode_products(list(products.values()))
    found = {}
    for split, judged in qrels.items():
        asked = encoder.encode_queries([queries[query] for query in judged])
        ranking = exact_search(embeddings, asked, top_k=10)
        run = to_run(list(judged), list(products), *ranking)
        found[split] = evaluate_run(judged, run, cutoffs=(10,)).per_query[METRIC]
    return found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    products, queries, qrels = scifact()
    mined = {source: mined_pairs(arguments.output_dir, queries, source) for source in arguments.sources}
    pairs = next(iter(mined.values()))
    rows = {"in-batch": without_negatives(pairs), **mined}
    held_out = [pair for pair in pairs if is_held_out(pair["query"])]
    kept = {pair["query_id"] for pair in held_out}
    splits = {
        "held out": {query: found for query, found in qrels["train"].items() if query in kept},
        "test": qrels["test"],
    }
    found = {}
    for name, training in rows.items():
        run_dir = arguments.output_dir / name
        aisle.train(
            output_dir=run_dir,
            overwrite_output_dir=True,
            train_data=[pair for pair in training if not is_held_out(pair["query"])],
            validation_data=without_negatives(held_out)[:VALIDATION_PAIRS],
            **SETTINGS,
        )
        found[name] = measure(run_dir, products, queries, splits)
        print(name, {split: round(float(np.mean(values)), 4) for split, values in found[name].items()})
    for split in splits:
        for name in mined:
            show(f"{split}: {name} gains over in-batch", found[name][split] - found["in-batch"][split])
        for name in sorted(set(mined) - {"random"}) if "random" in mined else ():
            low = show(f"{split}: {name} gains over random", found[name][split] - found["random"][split])
            if low <= 0:
                print(f"{split}: random negatives did as well as {name}")


def show(what, gain):
    """Print a gain with its interval; return the lower end."""
    low, high = bootstrap_interval(gain)
    print(f"{what} {np.mean(gain):+.4f}, 95% interval {low:+.4f} to {high:+.4f}")
    return low


if __name__ == "__main__":
    main()
