"""Kill runs with SIGKILL at random moments, resume them, and compare with an uninterrupted run.

    python benchmarks/crash_resume.py --kills 20
    python benchmarks/crash_resume.py --kills 20 --processes 2
    python benchmarks/crash_resume.py --kills 3 --tiny     # random weights, made-up pairs, no data needed

The moment is drawn uniformly over the duration of the uninterrupted run, including evaluations, checkpoints
and saving the model. A killed run is resumed with --resume_from_checkpoint latest, or restarted if it died
before its first checkpoint. It must end in the same adapter, the same last checkpoint (weights and optimiser,
to the byte) and the same history of evaluations. Training runs on CPU, where sums are reproducible to the
bit. The data folder is ../shared/data, or AISLE_BENCH_DATA. Exits with 1 and keeps its folder if a run ends
differently.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("AISLE_BENCH_DATA", ROOT.parent / "shared" / "data"))
MODEL = "all-MiniLM-L6-v2"
ROWS = 256
# 230 pairs are left for training, 16 a step with one process: an epoch ends after every 15th step.
RECIPE = [
    "--use_peft", "--query_column", "question", "--product_column", "answer", "--loss", "in_batch",
    "--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2",
    "--checkpointing_steps", "2", "--checkpoints_to_keep", "3", "--eval_steps", "5", "--lora_dropout", "0.1",
    "--lr_scheduler_type", "cosine", "--num_warmup_steps", "4", "--max_length", "64",
]  # fmt: skip
STEPS, TINY_STEPS = 32, 100
POLL_SECONDS = 0.002
MOST_DRAWS = 10


@dataclass(frozen=True)
class Outcome:
    """Results that must not depend on interruptions."""

    adapter: bytes
    last_checkpoint: dict[str, bytes]
    history: list[dict[str, object]]

    def differing(self, other):
        """Return the names of the differing results."""
        names = ("adapter", "last_checkpoint", "history")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


@dataclass(frozen=True)
class Killed:
    """A run that was killed and resumed; `seconds` count from the start of training."""

    seconds: float
    where: str
    newest_step: int | None
    differing: list[str]


def write_pairs(path, *, tiny):
    """Write the first question-answer pairs of the data folder, or made-up pairs."""
    if tiny:
        rows = [
            {"question": f"what is the price of item {n}?", "answer": f"item {n} costs {7 * n % 61} coins"}
            for n in range(ROWS)
        ]
        lines = [json.dumps(row) + "\n" for row in rows]
    else:
        with (DATA / "cloud_faq" / "train.jsonl").open(encoding="utf-8") as file:
            lines = [line for line, _ in zip(file, range(ROWS), strict=False)]
    path.write_text("".join(lines), encoding="utf-8")


def write_tiny_model(folder):
    """Write a BERT of two layers with random weights and MiniLM's tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    from aisle.models.model_source import find_model

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(find_model(MODEL).path)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def start(run_dir, flags, *, processes):
    """Start training and return the process; its output goes to a file beside the run."""
    # Waiting threads are slow if other programs use the cores; OMP_NUM_THREADS=1 helps then.
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
    environment = {
        **threads,
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    launcher = []
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", port]
    command = [sys.executable, *launcher, str(ROOT / "train_peft.py"), "--output_dir", str(run_dir), *flags]
    with log_of(run_dir).open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


def log_of(run_dir):
    return run_dir.with_suffix(".log")


def fail(run_dir, what):
    raise SystemExit(f"{run_dir}: {what}:\n{log_of(run_dir).read_text()[-3000:]}")


def wait_for(file, process):
    """Wait for a file and return whether it appeared before the process ended."""
    while not file.exists():
        if process.poll() is not None:
            return file.exists()
        time.sleep(POLL_SECONDS)
    return True


def uninterrupted(run_dir, flags, *, processes):
    """Train to the end and return the seconds of training."""
    process = start(run_dir, flags, processes=processes)
    wait_for(run_dir / "config.yaml", process)
    began = time.perf_counter()
    wait_for(run_dir / "metrics.json", process)
    trained = time.perf_counter() - began
    if process.wait() != 0:
        fail(run_dir, "the uninterrupted run failed")
    return trained


def killed(run_dir, flags, *, processes, seconds):
    """Kill every process of a run some time after training started; return whether it was running."""
    process = start(run_dir, flags, processes=processes)
    if not wait_for(run_dir / "config.yaml", process):
        fail(run_dir, "the run failed before it was killed")
    time.sleep(seconds)
    if process.poll() is not None:
        return False
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(family[1:])
    return True


def steps_of(run_dir):
    return sorted(int(path.name.partition("_")[2]) for path in (run_dir / "checkpoints").glob("step_*"))


def where_it_died(run_dir, *, last_step):
    folder, steps = run_dir / "checkpoints", steps_of(run_dir)
    if list(folder.glob(".step_*.writing")):
        return "while writing a checkpoint"
    if list(folder.glob(".step_*.removing")):
        return "while removing a checkpoint"
    if not steps:
        return "before the first checkpoint"
    return "after the last step" if steps[-1] == last_step else "between checkpoints"


def outcome(run_dir):
    last = run_dir / "checkpoints" / f"step_{steps_of(run_dir)[-1]:08d}"
    files = [path for kind in ("*.safetensors", "*.bin") for path in sorted(last.glob(kind))]
    return Outcome(
        adapter=(run_dir / "adapter_model.safetensors").read_bytes(),
        last_checkpoint={path.name: path.read_bytes() for path in files},
        history=json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))["history"],
    )


def kill_and_go_on(run_dir, flags, *, processes, trained, draw, reference, last_step):
    """Kill a run at a random moment, resume it to its end, and compare."""
    for _ in range(MOST_DRAWS):
        seconds = draw.uniform(0, trained)
        if killed(run_dir, flags, processes=processes, seconds=seconds):
            break
        shutil.rmtree(run_dir)  # faster than the reference: the run finished before the drawn moment
    else:
        fail(run_dir, f"{MOST_DRAWS} runs in a row finished before they could be killed")
    where, steps = where_it_died(run_dir, last_step=last_step), steps_of(run_dir)
    more = ["--resume_from_checkpoint", "latest"] if steps else ["--overwrite_output_dir"]
    if start(run_dir, [*flags, *more], processes=processes).wait() != 0:
        fail(run_dir, f"killed {where}, the run could not be resumed")
    differing = outcome(run_dir).differing(reference)
    if not differing:
        shutil.rmtree(run_dir)
    return Killed(seconds, where, steps[-1] if steps else None, differing)


def report(runs):
    print("| kill | seconds into training | where | newest checkpoint | ends in |")
    print("|---|---|---|---|---|")
    for number, run in enumerate(runs, start=1):
        newest = "none" if run.newest_step is None else f"step {run.newest_step}"
        end = f"another {', '.join(run.differing)}" if run.differing else "the same"
        print(f"| {number} | {run.seconds:.2f} | {run.where} | {newest} | {end} |")
    for where, count in Counter(run.where for run in runs).most_common():
        print(f"{where}: {count}")
    identical = sum(not run.differing for run in runs)
    print(f"{identical} of {len(runs)} identical")
    return identical == len(runs)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a tiny random model and made-up pairs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    folder, began = Path(tempfile.mkdtemp(prefix="crash_resume_")), time.perf_counter()
    write_pairs(folder / "pairs.jsonl", tiny=arguments.tiny)
    model = MODEL
    if arguments.tiny:
        model = str(folder / "model")
        write_tiny_model(folder / "model")
    steps = TINY_STEPS if arguments.tiny else STEPS
    flags = [
        *RECIPE,
        "--max_train_steps",
        str(steps),
        "--model_name_or_path",
        model,
        "--train_file",
        str(folder / "pairs.jsonl"),
    ]
    alone = folder / "uninterrupted"
    trained = uninterrupted(alone, flags, processes=arguments.processes)
    reference, last_step = outcome(alone), steps_of(alone)[-1]
    print(f"uninterrupted: {trained:.1f} s of training in {time.perf_counter() - began:.1f} s", flush=True)
    draw, runs = random.Random(arguments.seed), []
    for number in range(1, arguments.kills + 1):
        runs.append(
            kill_and_go_on(
                folder / f"killed_{number}",
                flags,
                processes=arguments.processes,
                trained=trained,
                draw=draw,
                reference=reference,
                last_step=last_step,
            )
        )
        print(f"kill {number}: {runs[-1]}", file=sys.stderr, flush=True)
    every_one = report(runs)
    print(f"{time.perf_counter() - began:.0f} s in all")
    if not every_one:
        raise SystemExit(f"the runs that differ are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
