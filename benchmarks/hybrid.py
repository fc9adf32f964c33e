"""nDCG@10 of BM25, embeddings and hybrid search on real data; the weight is tuned on training queries only.

    python benchmarks/hybrid.py scifact
    python benchmarks/hybrid.py esci --model runs/esci

Exact search, by the protocols of the shared data folder: ../shared/data, or AISLE_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from aisle.commands.indexing.hybrid_tuning import quality_by_weight
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.evaluation.runs import to_run
from aisle.evaluation.significance import bootstrap_interval
from aisle.index import exact_search
from aisle.index.fusion import fuse, tune_weight
from aisle.index.hybrid_search import candidate_depth, gather_candidates
from aisle.index.lexical import Bm25Index
from aisle.index.products import rank_ids
from aisle.models.loading import load_encoder
from aisle.types.columns import ID_COLUMN

DATA = Path(os.environ.get("AISLE_BENCH_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
METRIC = "ndcg@10"


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file]
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def scifact():
    """Return products, texts of queries, and judgements per split."""
    folder = DATA / "scifact"
    products = {row["_id"]: f"{row['title']} {row['text']}" for row in rows_of(folder / "corpus.jsonl")}
    queries = {row["_id"]: row["text"] for row in rows_of(folder / "queries.jsonl")}
    qrels = {"train": {}, "test": {}}
    for split, judged in qrels.items():
        for row in rows_of(folder / "qrels" / f"{split}.tsv"):
            judged.setdefault(row["query-id"], {})[row["corpus-id"]] = float(row["score"])
    return products, queries, qrels


def esci():
    """Return products, texts of queries, and judgements per split: a title judged E is relevant."""
    rows = rows_of(DATA / "esci" / "examples.csv")
    titles = [row["product_title"] for row in rows]
    titles += [row["title"] for row in rows_of(DATA / "esci" / "distractor_titles.csv")]
    qrels = {"train": {}, "test": {}}
    for row in rows:
        if row["esci_label"] == "E":
            qrels[row["split"]].setdefault(row["query_id"], {})[row["product_title"]] = 1.0
    return {title: title for title in titles}, {row["query_id"]: row["query"] for row in rows}, qrels


TASKS = {"scifact": scifact, "esci": esci}


class Collection:
    """Embedded and indexed products of a task."""

    def __init__(self, products, encoder):
        self.table = pa.table({ID_COLUMN: list(products)})
        self.tie_ranks = rank_ids(self.table)
        self.lexical = Bm25Index.build(products.values())
        self.encoder = encoder
        self.embeddings = encoder.encode_products(list(products.values()))

    def answer(self, texts):
        """Return the rankings by BM25 and by embeddings, and the candidates for their fusion."""
        asked = self.encoder.encode_queries(texts)
        depth = candidate_depth(10, count=len(self.embeddings))
        dense = exact_search(self.embeddings, asked, top_k=depth, tie_ranks=self.tie_ranks)
        words = self.lexical.rank(texts, top_k=depth, tie_ranks=self.tie_ranks)
        candidates = gather_candidates(
            self.lexical, self.embeddings, texts, asked, dense_rows=dense[0], tie_ranks=self.tie_ranks
        )
        return dense, words, candidates

    def measure(self, qrels, ranking):
        """Return nDCG@10 per query."""
        ids = self.table.column(ID_COLUMN).to_pylist()
        return evaluate_run(qrels, to_run(list(qrels), ids, *ranking), cutoffs=(10,)).per_query[METRIC]


def compare(collection, queries, qrels):
    judged, dense, words, candidates = {}, {}, {}, {}
    for split in ("train", "test"):
        judged[split] = {query: found for query, found in qrels[split].items() if query in queries}
        texts = [queries[query] for query in judged[split]]
        dense[split], words[split], candidates[split] = collection.answer(texts)
    quality = quality_by_weight(
        dict(zip(judged["train"], candidates["train"], strict=True)),
        judged["train"],
        product_ids=collection.table.column(ID_COLUMN),
        tie_ranks=collection.tie_ranks,
    )
    weight = tune_weight(quality.__getitem__)
    print(f"weight tuned on {len(judged['train'])} training queries: {weight:.2f}")
    for split in ("train", "test"):
        fused = {
            fusion: fuse(
                candidates[split], top_k=10, tie_ranks=collection.tie_ranks, weight=weight, fusion=fusion
            )
            for fusion in ("convex", "rrf")
        }
        rankings = {
            "bm25": words[split],
            "dense": dense[split],
            "hybrid": fused["convex"],
            "rrf": fused["rrf"],
        }
        found = {name: collection.measure(judged[split], ranking) for name, ranking in rankings.items()}
        shown = ", ".join(f"{name} {values.mean():.4f}" for name, values in found.items())
        better = max(("bm25", "dense"), key=lambda name: found[name].mean())
        gain = found["hybrid"] - found[better]
        low, high = bootstrap_interval(gain)
        print(f"{split}: {METRIC} of {len(gain)} queries: {shown}")
        print(f"{split}: hybrid over {better}: {np.mean(gain):+.4f}, 95% interval {low:+.4f} to {high:+.4f}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    products, queries, qrels = TASKS[arguments.task]()
    compare(Collection(products, load_encoder(arguments.model)), queries, qrels)


if __name__ == "__main__":
    main()
