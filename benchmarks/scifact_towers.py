"""SciFact: MiniLM, one tuned tower, a tuned query tower, and two towers; dense and hybrid search.

    python benchmarks/scifact_towers.py --output_dir runs/scifact-towers
    python benchmarks/scifact_towers.py --output_dir runs/smoke --smoke
    python benchmarks/scifact_towers.py --output_dir runs/scifact-towers --rows base one_tower two_towers \
        --settings "all weights, 3 epochs" --max_length 128        # on CPUs

Mines a BM25 negative for each training pair, and trains with the recipe `two_towers` on 85% of the training
queries. The other training queries choose the setting of each row (all weights or LoRA, 1 or 3 epochs) and
its hybrid weight; then the test queries are ranked once for each row. Prints nDCG@10 with exact search over
all documents, and the differences from one tower on the test queries with their 95% intervals.

`--smoke` takes two training steps, one setting and the judged documents alone: it shows that everything runs,
and its figures mean nothing. The data folder is ../shared/data, or AISLE_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from hybrid import DATA, METRIC, rows_of, scifact
from mined_negatives import VALIDATION_PAIRS, is_held_out, mined_pairs, without_negatives

from aisle.cli import main as run_command
from aisle.evaluation.comparison import compare_runs
from aisle.evaluation.runs import read_trec_run

BASE = "all-MiniLM-L6-v2"
ROWS = {
    "base": None,
    "one_tower": ("--no_two_towers",),
    "query_tower": ("--freeze", "product"),
    "two_towers": (),
}
"""Row -> flags besides those of the recipe; None is the model as it is."""
WEIGHTS = {
    "all weights": (),
    "LoRA": ("--use_peft", "--lora_rank", "16", "--lora_alpha", "32", "--learning_rate", "2e-4"),
}
SETTINGS = {
    f"{weights}, {epochs} epochs": (*flags, "--num_train_epochs", str(epochs))
    for weights, flags in WEIGHTS.items()
    for epochs in (1, 3)
}
SMOKE = {"smoke": ("--max_train_steps", "2")}
SMOKE_LENGTH = 32
"""Tokens of the longest text in --smoke."""
SYSTEMS = ("dense", "hybrid")


@dataclass(frozen=True)
class Files:
    """Files that the commands read.

    Args:
        training: Training pairs with their hard negatives.
        validation: Pairs of held-out queries, which training prints figures of.
        catalog: Documents to index.
        held_out: Judgements of the held-out queries.
        test: Judgements of the test queries.
    """

    training: Path
    validation: Path
    catalog: Path
    held_out: Path
    test: Path


def aisle(command, *flags):
    """Run a command of aisle; stop if it fails."""
    code = run_command([command, *map(str, flags)])
    if code:
        raise SystemExit(code)


def aisle_json(command, *flags):
    """Return the JSON document of a command of aisle."""
    with redirect_stdout(io.StringIO()) as printed:
        aisle(command, *flags, "--json")
    return json.loads(printed.getvalue())


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_qrels(path, qrels):
    lines = [f"{query}\t{product}\t{score:g}\n" for query in qrels for product, score in qrels[query].items()]
    path.write_text("".join(["query-id\tcorpus-id\tscore\n", *lines]), encoding="utf-8")
    return path


def prepare(folder, *, smoke):
    """Mine, split the training queries, and write the files."""
    _, queries, qrels = scifact()
    pairs = mined_pairs(folder, queries)
    held_out = {query: judged for query, judged in qrels["train"].items() if is_held_out(queries[query])}
    asked = [pair for pair in pairs if is_held_out(pair["query"])]
    catalog = DATA / "scifact" / "corpus.jsonl"
    if smoke:
        parts = (held_out, qrels["test"])
        judged = {product for part in parts for found in part.values() for product in found}
        kept = [row for row in rows_of(catalog) if row["_id"] in judged]
        catalog = write_rows(folder / "judged_documents.jsonl", kept)
    training = [pair for pair in pairs if not is_held_out(pair["query"])]
    return Files(
        training=write_rows(folder / "training.jsonl", training),
        validation=write_rows(folder / "validation.jsonl", without_negatives(asked)[:VALIDATION_PAIRS]),
        catalog=catalog,
        held_out=write_qrels(folder / "held_out.tsv", held_out),
        test=DATA / "scifact" / "qrels" / "test.tsv",
    )


def train(run_dir, files, flags):
    data = ["--train_file", files.training, "--validation_file", files.validation, "--label_column", "none"]
    run = ["--output_dir", run_dir, "--overwrite_output_dir"]
    aisle("train", "--config", "two_towers", *data, *flags, *run)
    return run_dir


def build(index_dir, model, files, *, flags=()):
    """Index the documents with exact search and BM25, and tune the hybrid weight on the held-out queries."""
    texts = ["--catalog", files.catalog, "--id_column", "_id", "--text_template", "{title} {text}"]
    how = ["--backend", "exact", "--precision", "fp32", "--embed_all"]
    tuned = ["--tune_queries", DATA / "scifact" / "queries.jsonl", "--tune_qrels", files.held_out]
    aisle("build", "--model", model, "--index_dir", index_dir, *texts, *how, *tuned, *flags)


def evaluate(index_dir, qrels, run_file):
    """Return the dense nDCG@10 and the hybrid weight; write the rankings of dense and hybrid search."""
    judged = ["--queries", DATA / "scifact" / "queries.jsonl", "--qrels", qrels]
    rows = ["--rows", "base", "tuned", "hybrid", "--base_model_row", "none"]
    found = aisle_json("evaluate", "--index_dir", index_dir, *judged, *rows, "--run_file", run_file)
    return found[METRIC], found["provenance"]["configuration"]["hybrid_weight"]


def measure(row, files, folder, *, settings, length):
    """Choose the setting of a row on the held-out queries, and rank the test queries once.

    Args:
        row: Name of the row.
        files: Files of the data.
        folder: Folder of models, indexes and rankings.
        settings: Settings to choose among, with their flags.
        length: Flags of the longest text, for `train` and `build`.

    Returns:
        The chosen setting, its nDCG@10 on the held-out queries, and its hybrid weight.
    """
    tried = {}
    settings = {"as it is": None} if ROWS[row] is None else settings
    for number, (setting, flags) in enumerate(settings.items()):
        index_dir = folder / f"{row}-{number}-index"
        model = BASE
        if flags is not None:
            model = train(folder / f"{row}-{number}", files, (*ROWS[row], *flags, *length))
        build(index_dir, model, files, flags=length)
        tried[setting] = (*evaluate(index_dir, files.held_out, folder / f"{row}-{number}.run"), index_dir)
        print(f"{row}, {setting}: {METRIC} of the held-out queries {tried[setting][0]:.4f}", flush=True)
    chosen = max(tried, key=lambda setting: tried[setting][0])
    quality, weight, index_dir = tried[chosen]
    evaluate(index_dir, files.test, folder / f"{row}.run")
    return chosen, quality, weight


def compare(rows, qrels, folder, *, products):
    """Return system -> row -> figures on the test queries, with the differences from one tower."""
    base = "one_tower" if "one_tower" in rows else rows[0]
    compared = {}
    for system in SYSTEMS:
        ending = "run" if system == "dense" else f"run.{system}"
        found, _ = compare_runs(
            {row: read_trec_run(folder / f"{row}.{ending}") for row in rows},
            qrels,
            kinds=dict.fromkeys(rows, "other"),
            base=base,
            products=len(products),
            known_products=list(products),
            cutoffs=(10,),
        )
        compared[system] = {row.name: row for row in found.rows}
    return base, compared


def show(base, compared, choices):
    print(f"| model | chosen | held out | test | minus {base} | hybrid, test (weight) | minus {base} |")
    print("|---|---|---|---|---|---|---|")
    for row, (chosen, quality, weight) in choices.items():
        cells = [row, chosen, f"{quality:.4f}"]
        for system in SYSTEMS:
            found = compared[system][row]
            shown = f"{found.metrics[METRIC].value:.4f}"
            cells.append(shown if system == "dense" else f"{shown} ({weight:.2f})")
            gain = found.differences.get(METRIC)
            cells.append("" if gain is None else f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]")
        print(f"| {' | '.join(cells)} |")


def main():
    """Train, choose, test, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--max_length", type=int, default=256, help="tokens after which texts are cut")
    parser.add_argument("--smoke", action="store_true", help="two steps on few documents")
    given = parser.parse_args()
    folder = given.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    files = prepare(folder, smoke=given.smoke)
    rows = list(dict.fromkeys(given.rows))
    settings = SMOKE if given.smoke else {name: SETTINGS[name] for name in given.settings}
    length = ("--max_length", str(SMOKE_LENGTH if given.smoke else given.max_length))
    choices = {row: measure(row, files, folder, settings=settings, length=length) for row in rows}
    products, _, qrels = scifact()
    show(*compare(rows, qrels["test"], folder, products=products), choices)


if __name__ == "__main__":
    main()
