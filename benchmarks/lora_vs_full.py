"""LoRA compared with full fine-tuning: seconds per epoch, the largest batch that fits, test ROC-AUC.

    python benchmarks/lora_vs_full.py --data walmart_amazon --memory_gib 2
    python benchmarks/lora_vs_full.py --data wdc --memory_gib 2 --epochs 1 -- --eval_steps 50
    python benchmarks/lora_vs_full.py --geometry bert_large --memory_gib 32 --max_steps 20

The table of PEFT's semantic-similarity guide, which published for e5-large-v2 on ESCI and a V100: ROC-AUC .68
as it is; .787 after LoRA in 1.73 h with batches of 64; .797 after full fine-tuning in 2.33 h, batches of 32.

Here MiniLM trains with the data's recipe by train_peft.py (flags after `--` are passed on);
the best evaluation is chosen on validation, and the test file is scored once, at the end. Other geometries
have random weights and texts as long as ESCI's: time and largest batch only.

An epoch's seconds are those of its training steps: all pairs over the pairs per second after
`--warmup_steps`. The largest batch is found by doubling and bisection, to a sixteenth, over runs of two steps
that must not fail and must stay within `--memory_gib`: the peak of the process on CPU, of what torch
allocates on a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from gpu_training import machine
from real_data import TASKS, training_flags
from throughput_contenders import after_warmup
from throughput_data import GEOMETRIES, ROOT, DataSet, make_data, make_geometry, read_rows, write_validation

from aisle.models.loading import load_encoder

LORA, FULL = "LoRA", "full fine-tuning"
FIRST_BATCH = 8
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
KILLED = -9


class ProgramError(Exception):
    """A run of train_peft.py failed; the message is the end of its output."""


@dataclass(frozen=True)
class Bench:
    """Settings that both methods share.

    Args:
        model: Folder of the base model.
        data: Rows to train on.
        recipe: Settings file of train_peft.py.
        flags: Further flags for both methods.
        methods: Flags of each method.
        folder: Folder of the runs.
    """

    model: str
    data: DataSet
    recipe: Path
    flags: tuple[str, ...]
    methods: dict[str, tuple[str, ...]]
    folder: Path

    def run(self, method, name, *flags):
        """Train in a separate process and return the run's metrics.json.

        Raises:
            ProgramError: If the run failed.
        """
        run_dir = self.folder / name
        command = [sys.executable, str(ROOT / "train_peft.py"), "--config", str(self.recipe)]
        command += [
            "--output_dir",
            str(run_dir),
            "--overwrite_output_dir",
            "--model_name_or_path",
            self.model,
        ]
        command += [*self.methods[method], *self.flags, *flags]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            errors="replace",
        )
        if done.returncode:
            killed = "out of memory: killed\n" if done.returncode == KILLED else ""
            raise ProgramError(f"{killed}{done.stdout[-3000:]}")
        return json.loads((run_dir / "metrics.json").read_text())

    def peak_gib(self, method, batch):
        """Return the peak memory of two steps of a batch, or None if they run out of memory.

        Raises:
            ProgramError: If the run failed for another reason.
        """
        small = ("--train_file", self.data.train_file)
        small += ("--validation_file", str(write_validation(self.data, self.folder)))
        steps = ("--max_train_steps", "2", "--per_device_train_batch_size", str(batch))
        try:
            metrics = self.run(method, "probe", *small, *steps)
        except ProgramError as error:
            if any(said in str(error).lower() for said in OUT_OF_MEMORY):
                return None
            raise
        return metrics["peak_memory_bytes"] / 2**30


def largest_batch(fits, *, most, first=FIRST_BATCH):
    """Return the largest batch that fits, to a sixteenth, or 0 if no batch fits.

    Args:
        fits: Function that tells whether a batch size fits; smaller batches than a fitting batch fit too.
        most: Largest batch to try.
        first: First batch to try.
    """
    low, high = 0, min(first, most)
    while fits(high):
        if high == most:
            return most
        low, high = high, min(2 * high, most)
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def probe(bench, method, memory_gib):
    """Return the largest batch of a method in the given memory, as text for the table."""
    pairs = len(read_rows(bench.data, bench.data.train_file)[0])

    def fits(batch):
        peak = bench.peak_gib(method, batch)
        said = "out of memory" if peak is None else f"{peak:.2f} GiB"
        print(f"{method}: batch {batch}: {said}", file=sys.stderr, flush=True)
        return peak is not None and peak <= memory_gib

    found = largest_batch(fits, most=pairs)
    return f"all {pairs} pairs" if found == pairs else str(found or "none")


def measure(bench, arguments):
    """Return a row per method: seconds per epoch and largest batch, by column name."""
    rows = {}
    limits = ["--num_train_epochs", str(arguments.epochs)] if arguments.epochs else []
    limits += ["--max_train_steps", str(arguments.max_steps)] if arguments.max_steps else []
    for method in bench.methods:
        name = method.split()[0].lower()
        metrics = bench.run(method, name, *training_files(bench, arguments), *limits)
        rate = after_warmup(bench.folder / name, arguments.warmup_steps)["pairs_per_second"]
        rows[method] = {"seconds per epoch": f"{metrics['train_pairs'] / rate:.1f}"}
        if arguments.memory_gib:
            column = f"largest batch in {arguments.memory_gib:g} GiB"
            rows[method][column] = probe(bench, method, arguments.memory_gib)
    return rows


def training_files(bench, arguments):
    if arguments.geometry == "minilm":
        return training_flags(arguments.data, bench.folder)
    held_out = write_validation(bench.data, bench.folder)
    return ["--train_file", bench.data.train_file, "--validation_file", str(held_out)]


def with_scores(rows, bench, arguments):
    """Return the rows with the test ROC-AUC, and a row of the untuned model."""
    models = {
        "as it is": bench.model,
        **{method: bench.folder / method.split()[0].lower() for method in rows},
    }
    score = TASKS[arguments.data]
    return {
        name: {
            **rows.get(name, {}),
            "test ROC-AUC": f"{score(load_encoder(model, device=arguments.device))['roc_auc']:.4f}",
        }
        for name, model in models.items()
    }


def markdown(rows):
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    columns.sort(key=lambda column: column == "test ROC-AUC")
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    lines += [f"| {name} | {' | '.join(row.get(c, '') for c in columns)} |" for name, row in rows.items()]
    return "\n".join(lines)


def flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="walmart_amazon", choices=("walmart_amazon", "wdc"))
    parser.add_argument("--geometry", default="minilm", choices=GEOMETRIES)
    parser.add_argument(
        "--memory_gib", type=float, help="memory limit for the largest batch; default: do not search for it"
    )
    parser.add_argument("--epochs", type=int, help="default: those of the recipe")
    parser.add_argument("--max_steps", type=int, help="optimiser steps; overrides --epochs")
    parser.add_argument("--warmup_steps", type=int, default=3, help="untimed first steps")
    parser.add_argument(
        "--full_learning_rate",
        type=float,
        default=2e-5,
        help="learning rate of full fine-tuning; the recipe has LoRA's",
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/lora_vs_full"))
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    arguments, handed_on = parser.parse_known_args()
    if handed_on and "--" not in sys.argv:
        parser.error(f"unrecognised: {' '.join(handed_on)}; flags of train_peft.py go after --")
    return arguments, tuple(flag for flag in handed_on if flag != "--")


def main():
    arguments, handed_on = flags()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    minilm = arguments.geometry == "minilm"
    with tempfile.TemporaryDirectory() as scratch:
        data = make_data(arguments.data if minilm else "esci_lengths", scratch)
        columns = ("--query_column", data.query_column, "--product_column", data.product_column)
        columns += ("--label_column", data.label_column)
        precision = ("--mixed_precision", "bf16") if arguments.device == "cuda" else ()
        bench = Bench(
            model=make_geometry(arguments.geometry, scratch),
            data=data,
            recipe=ROOT / "src" / "aisle" / "recipes" / f"{arguments.data}.yaml",
            flags=(*columns, *precision, *handed_on),
            methods={LORA: ("--use_peft",), FULL: ("--learning_rate", str(arguments.full_learning_rate))},
            folder=arguments.output_dir,
        )
        rows = measure(bench, arguments)
        # Score last: a child's peak memory starts at its parent's, so no model may be loaded here before.
        rows = with_scores(rows, bench, arguments) if minilm else rows
    (arguments.output_dir / "lora_vs_full.json").write_text(json.dumps(rows, indent=1))
    print(f"`python {' '.join(sys.argv)}`: {machine(arguments.device)}\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
