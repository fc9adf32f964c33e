"""Train on groups of offers with each loss, and score the pairs of wdc_all_small.

    python benchmarks/group_losses.py --output_dir runs/groups
    python benchmarks/group_losses.py --output_dir runs/groups --losses in_batch circle -- --use_peft

The groups are the connected offers of the training pairs that match; pairs that do not match are not used.
With no flags after `--`, a skip connection on frozen MiniLM is trained, so that all losses share the
encoder's vectors. A tenth of the groups is held out; the best evaluation of each run is kept by its MRR. The
loss with the highest MRR scores the pairs of the test file.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from aisle.data.negatives import equality_keys
from aisle.evaluation.pair_metrics import score_pairs
from aisle.losses.registry import registered_losses
from aisle.models.loading import load_encoder

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("AISLE_BENCH_DATA", ROOT.parent / "shared" / "data")) / "product_pairs"
BASE = "all-MiniLM-L6-v2"
SHOWN = ("mrr", "r_precision", "precision@1")
LOSSES = [loss.name for loss in registered_losses() if loss.takes_groups]
FROZEN = (
    "--freeze_encoder",
    "--head",
    "skip_connection",
    "--learning_rate",
    "1e-3",
    "--num_train_epochs",
    "20",
)


def pairs_of(split):
    with (DATA / f"wdc_all_small_{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_groups(path):
    """Write the offers of the matching training pairs with their groups; return the number of both."""
    matching = [row for row in pairs_of("train") if row["match"] == "1"]
    offers = [row[side] for side in ("title_a", "title_b") for row in matching]
    rows = [str(number) for number in range(len(matching))] * 2
    groups = equality_keys(offers, rows)  # offers of a pair share the number of its row
    written = dict(zip(offers, groups.tolist(), strict=True))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "group"])
        writer.writerows(written.items())
    return len(written), len(set(written.values()))


def score(model):
    """Return ROC-AUC and average precision of the pairs of the test file."""
    encoder, rows = load_encoder(model), pairs_of("test")
    sides = [encoder.encode_products([row[side] for row in rows]) for side in ("title_a", "title_b")]
    found = score_pairs((sides[0] * sides[1]).sum(axis=1), np.array([float(row["match"]) for row in rows]))
    return {"roc_auc": found.roc_auc, "average precision": found.average_precision}


def train(loss, file, folder, flags):
    run_dir = folder / loss
    command = [sys.executable, ROOT / "train_peft.py", "--model_name_or_path", BASE, "--train_file", file]
    command += ["--group_column", "group", "--loss", loss, "--max_length", "70", "--seed", "42", *flags]
    command += ["--output_dir", run_dir, "--overwrite_output_dir"]
    if "--freeze_encoder" in flags:
        command += ["--embedding_cache", folder / "cache"]
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)
    return run_dir, json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))


def main():
    """Train with each loss and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", required=True, type=Path)
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("flags", nargs="*", help="flags of train_peft.py, after --")
    given = parser.parse_args()
    given.output_dir.mkdir(parents=True, exist_ok=True)
    file = given.output_dir / "groups.csv"
    offers, groups = write_groups(file)
    print(f"{offers:,} offers in {groups:,} groups")
    runs = {loss: train(loss, file, given.output_dir, given.flags or FROZEN) for loss in given.losses}
    for loss, (_, metrics) in runs.items():
        print(loss, *(f"{name} {metrics['best'][name]:.4f}" for name in SHOWN))
        base = metrics["base"]
    print("untuned", *(f"{name} {base[name]:.4f}" for name in SHOWN))
    best = max(runs, key=lambda loss: runs[loss][1]["best"]["mrr"])
    print("test pairs,", best, score(str(runs[best][0])))


if __name__ == "__main__":
    main()
