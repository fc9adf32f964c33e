"""The whole way on the sample catalogue: train, index, compare base model, tuned model and BM25."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aisle.config.tools import QuickstartSettings
from aisle.data.files import iter_rows
from aisle.data.judgements import read_qrels, read_queries
from aisle.data.pairs import PairColumns, Pairs, read_pairs
from aisle.data.sample_catalog import SampleFiles, write_sample
from aisle.durable import replace_text
from aisle.errors import AisleError, ConfigError
from aisle.evaluation.pairs import score_pairs
from aisle.evaluation.report import retrieval_table, side_by_side
from aisle.evaluation.retrieval import evaluate_run
from aisle.evaluation.runs import to_run
from aisle.index import exact_search, open_index, open_stored
from aisle.index.lexical import Bm25Index
from aisle.index.products import ID_COLUMN, text_of
from aisle.models.encoder import Encoder
from aisle.models.loading import load_encoder
from aisle.pipelines.evaluation.evaluate import run_of
from aisle.pipelines.output import Output, quieten_libraries

SAMPLE_GRADES = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}
TEXT_TEMPLATE = "{title} {brand}"
DEPTH = 100
RETRIEVAL = ("recall@10", "mrr@10", "ndcg@10")
EXAMPLES = 3
SHOWN = 5


@dataclass(frozen=True)
class TestSet:
    """What the systems are compared on: queries that no training pair has."""

    product_ids: list[str]
    texts: list[str]
    titles: list[str]
    pairs: Pairs
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class System:
    """One system's answers: a score per test pair, and a ranking per query."""

    pair_scores: np.ndarray
    run: Mapping[str, Mapping[str, float]]


def quickstart(settings: QuickstartSettings) -> Mapping[str, Any]:
    """Run the whole way and return the figures, which are written to the run's `metrics.json` too.

    Raises:
        AisleError: a step failed; its own message was printed.
    """
    output = Output(json_only=settings.json)
    quieten_libraries()
    started = time.perf_counter()
    run_dir = Path(settings.output_dir)
    sample_dir, index_dir = (run_dir.with_name(run_dir.name + end) for end in ("-sample", "-index"))
    if not Path(settings.recipe).is_file():
        raise ConfigError(
            f"--recipe {settings.recipe}: there is no such file; run this in the project's folder"
        )

    output.say(f"writing the synthetic sample catalogue to {sample_dir}")
    sample = write_sample(sample_dir, overwrite=True)
    _run(_train_command(settings.recipe, run_dir, sample), output)
    _run(_build_command(run_dir, sample, index_dir), output)

    output.say("\ncomparing the base model, the tuned model and BM25 on queries that were not trained on")
    test = _test_set(sample, index_dir)
    base_name = json.loads((run_dir / "aisle.json").read_text(encoding="utf-8"))["base_model"]
    systems = {
        "base": _exact_system(load_encoder(base_name), test),
        "tuned": _index_system(load_encoder(str(run_dir)), index_dir, test),
        "bm25": _bm25_system(test),
    }
    figures: dict[str, Any] = {name: _measure(system, test) for name, system in systems.items()}
    figures["seconds"] = round(time.perf_counter() - started, 1)
    _show(systems, figures, test, output)
    metrics_file = run_dir / "metrics.json"
    trained = json.loads(metrics_file.read_text(encoding="utf-8"))
    replace_text(metrics_file, json.dumps({**figures, "training": trained}, indent=2, allow_nan=False) + "\n")
    output.say(_next_steps(run_dir, index_dir, sample, seconds=figures["seconds"]))
    output.document(figures)
    return figures


def _train_command(recipe: str, run_dir: Path, sample: SampleFiles) -> list[str]:
    return [
        *("accelerate", "launch", "--num_processes", "1", "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no"),
        # Accelerate gives a CPU process one thread unless told otherwise.
        *("--num_cpu_threads_per_process", str(os.cpu_count() or 1)),
        *("train_peft.py", "--use_peft", "--config", recipe, "--output_dir", str(run_dir)),
        *("--train_file", str(sample.train), "--validation_file", str(sample.validation)),
        "--overwrite_output_dir",
    ]


def _build_command(run_dir: Path, sample: SampleFiles, index_dir: Path) -> list[str]:
    return [
        *("python", "infer_index.py", "build", "--model", str(run_dir), "--catalog", str(sample.products)),
        *("--text_template", TEXT_TEMPLATE, "--index_dir", str(index_dir)),
    ]


def _run(command: Sequence[str], output: Output) -> None:
    """Print a command and run it with this interpreter; its output is the user's to see."""
    output.say(f"\n$ {shlex.join(command)}")
    ours = {"python": [], "accelerate": ["-m", "accelerate.commands.accelerate_cli"]}[command[0]]
    stdout = sys.stderr if output.json_only else None
    done = subprocess.run([sys.executable, *ours, *command[1:]], check=False, stdout=stdout)
    if done.returncode != 0:
        raise AisleError(
            f"the command above ended with exit code {done.returncode}; its message is above too"
        )


def _test_set(sample: SampleFiles, index_dir: Path) -> TestSet:
    products = open_stored(index_dir).products
    columns = PairColumns(
        query="query", product="product_title", label="esci_label", query_id=None, product_id="product_id"
    )
    pairs = read_pairs(
        iter_rows([sample.test]), columns=columns, label_map=SAMPLE_GRADES, on_bad_row="error"
    ).pairs
    qrels = read_qrels([sample.qrels])
    return TestSet(
        products.column(ID_COLUMN).to_pylist(),
        list(text_of(products)),
        products.column("title").to_pylist(),
        pairs,
        read_queries([sample.queries], only=qrels.keys()),
        qrels,
    )


def _exact_system(encoder: Encoder, test: TestSet) -> System:
    embeddings = encoder.encode_products(test.texts)
    ids = test.product_ids
    order = np.argsort(np.argsort(np.array(ids, dtype=object))).astype(np.int64)
    rows, scores = exact_search(
        embeddings, encoder.encode_queries(list(test.queries.values())), top_k=DEPTH, tie_ranks=order
    )
    return System(_pair_scores(encoder, test.pairs), to_run(list(test.queries), ids, rows, scores))


def _index_system(encoder: Encoder, index_dir: Path, test: TestSet) -> System:
    index = open_index(index_dir, fingerprint=encoder.fingerprint)
    found = index.search(encoder.encode_queries(list(test.queries.values())), top_k=DEPTH)
    return System(_pair_scores(encoder, test.pairs), run_of(list(test.queries), found))


def _bm25_system(test: TestSet) -> System:
    bm25 = Bm25Index.build(test.texts)
    ids = test.product_ids
    rows, scores = bm25.rank(list(test.queries.values()), top_k=DEPTH)
    every_row, every_score = bm25.rank(distinct_queries := sorted(set(test.pairs.queries)), top_k=len(ids))
    by_query = {
        query: dict(zip((ids[row] for row in ranked), found.tolist(), strict=True))
        for query, ranked, found in zip(distinct_queries, every_row, every_score, strict=True)
    }
    product_ids = test.pairs.product_ids or []
    pair_scores = [
        by_query[query].get(product, 0.0)
        for query, product in zip(test.pairs.queries, product_ids, strict=True)
    ]
    return System(np.array(pair_scores), to_run(list(test.queries), ids, rows, scores))


def _pair_scores(encoder: Encoder, pairs: Pairs) -> np.ndarray:
    scores: np.ndarray = np.einsum(
        "ij,ij->i", encoder.encode_queries(pairs.queries), encoder.encode_products(pairs.products)
    )
    return scores


def _measure(system: System, test: TestSet) -> dict[str, Any]:
    relevance = test.pairs.relevance
    assert relevance is not None
    retrieval = evaluate_run(test.qrels, system.run, cutoffs=(10,)).values
    roc_auc = score_pairs(system.pair_scores, relevance).roc_auc
    return {"roc_auc": roc_auc, **{name: retrieval[name] for name in RETRIEVAL}}


def _show(systems: Mapping[str, System], figures: Mapping[str, Any], test: TestSet, output: Output) -> None:
    rows = {name: figures[name] for name in systems}
    count = f"{len(test.queries)} queries, {len(test.product_ids):,} products"
    output.show(
        retrieval_table(
            rows, metrics=("roc_auc", *RETRIEVAL), title=f"Queries that were not trained on: {count}"
        )
    )
    titles = dict(zip(test.product_ids, test.titles, strict=True))
    for query_id in _examples(systems, test):
        answers = {
            name: [(score, titles[product]) for product, score in _top(systems[name].run[query_id])]
            for name in ("base", "tuned")
        }
        output.show(side_by_side(test.queries[query_id], answers))


def _top(ranking: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(ranking.items(), key=lambda item: (-item[1], item[0]))[:SHOWN]


def _examples(systems: Mapping[str, System], test: TestSet) -> list[str]:
    """Return queries at even distances: not chosen by how they came out."""
    ids = sorted(test.queries)
    return [ids[at] for at in range(0, len(ids), max(len(ids) // EXAMPLES, 1))][:EXAMPLES]


def _next_steps(run_dir: Path, index_dir: Path, sample: SampleFiles, *, seconds: float) -> str:
    return f"""
Done in {seconds:.0f} s. The figures are in {run_dir / "metrics.json"}. Try next:

  python infer_index.py query --index_dir {index_dir} "gift for a toddler who likes trains"
  python infer_index.py query --index_dir {index_dir}
  python infer_index.py evaluate --index_dir {index_dir} --queries {sample.queries} --qrels {sample.qrels}

and with judged pairs of your own (a csv with query, product and relevance in 0 to 1):

  accelerate launch train_peft.py --use_peft --train_file pairs.csv --output_dir runs/mine
  python infer_index.py build --model runs/mine --catalog products.csv --index_dir runs/mine-index
"""
