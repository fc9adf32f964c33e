"""Training speed on the same rows: aisle, sentence-transformers' trainer, PEFT's example's settings.

    python benchmarks/train_throughput.py                                  # MiniLM, FAQ pairs, one epoch
    python benchmarks/train_throughput.py --data walmart_amazon            # labelled pairs, cosine-target
    python benchmarks/train_throughput.py --contenders aisle st --max_steps 60 --rounds 5   # with the spread
    python benchmarks/train_throughput.py --contenders aisle --max_steps 30 --busy 2   # beside others
    python benchmarks/train_throughput.py --geometry bert_large --data esci_lengths --max_steps 30 --batch 64

Contenders run in separate processes, one after the other, for `--rounds` rounds. The figures are medians over
the rounds; pairs per second also have the lowest and the highest. Ratios are aisle's speed divided by the
contender's within a round: median, lowest and highest. All train the same LoRA adapter (r8 on q, k, v)
with the same loss, batch, learning rate, steps and seed. The first `--warmup_steps`, loading, evaluation and
saving are not timed. Tokens exclude padding; aisle reads a text that occurs twice in a batch once, so compare
contenders by pairs. The data folder is ../shared/data, or AISLE_BENCH_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import torch
from step_profile import profile_text
from throughput_contenders import CONTENDERS
from throughput_data import (
    DATA_SETS,
    GEOMETRIES,
    DataSet,
    Job,
    in_own_process,
    make_data,
    make_geometry,
    read_rows,
)

DEFAULT_CONTENDERS = ["aisle", "st", "st_bf16", "peft_settings"]
SHOWN = (
    ("pairs/s", "pairs_per_second", "{:.1f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("padding", "padding_share", "{:.1%}"),
    ("peak GiB", "peak_memory_gib", "{:.2f}"),
    ("final loss", "final_loss", "{:.4f}"),
)


class ContenderError(Exception):
    """A contender failed; the message is the end of its log."""


def run_contender(name, job, folder, *, timeout=None):
    """Run a contender in a fresh process and return its figures.

    Raises:
        ContenderError: If it failed, or took longer than `timeout` seconds.
    """
    job_file, result_file, log_file = folder / "job.json", folder / "result.json", folder / f"{name}.log"
    job_file.write_text(json.dumps(asdict(job)))
    command = [sys.executable, __file__, "--contender", name, "--job", str(job_file)]
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if job.device == "cpu" else {}
    with log_file.open("w") as log:
        child = subprocess.Popen(
            [*command, "--result", str(result_file)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **hidden},
            start_new_session=True,
        )
        try:
            failed = child.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # aisle starts a child process
            child.wait()
            raise ContenderError(f"{name}: not done after {timeout:.0f} s") from None
    if failed:
        raise ContenderError(f"{name} failed:\n{log_file.read_text(errors='replace')[-3000:]}")
    return json.loads(result_file.read_text())


def job_of(arguments, data, model):
    """Return the job that the flags describe; an epoch without --max_steps."""
    epoch = -(-len(read_rows(data, data.train_file)[0]) // arguments.batch)
    steps = arguments.max_steps or epoch
    if steps <= arguments.warmup_steps:
        raise SystemExit(
            f"--warmup_steps {arguments.warmup_steps}: must be less than the run's {steps} steps; give fewer"
        )
    return Job(
        model=model,
        data=data,
        batch=arguments.batch,
        steps=steps,
        warmup_steps=arguments.warmup_steps,
        learning_rate=arguments.learning_rate,
        device=arguments.device,
        our_flags=arguments.our_flags,
    )


def table(rounds, quality):
    names = list(rounds)
    columns = [*(title for title, _, _ in SHOWN), *quality, f"{names[0]} over it"]
    print(f"| {'':16} | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for name in names:
        medians = {key: statistics.median(one[key] for one in rounds[name]) for _, key, _ in SHOWN}
        cells = [form.format(medians[key]) for _, key, form in SHOWN]
        cells[0] += spread([one["pairs_per_second"] for one in rounds[name]], "{:.1f}")
        cells += [f"{statistics.median(one['quality'][key] for one in rounds[name]):.4f}" for key in quality]
        ratios = [
            first["pairs_per_second"] / one["pairs_per_second"]
            for first, one in zip(rounds[names[0]], rounds[name], strict=True)
        ]
        cells.append(f"{statistics.median(ratios):.2f}" + spread(ratios, "{:.2f}"))
        print(f"| {name:16} | " + " | ".join(cells) + " |")


def spread(values, form):
    """Return the lowest and highest value in brackets; empty for a single value."""
    return f" ({form.format(min(values))} to {form.format(max(values))})" if len(values) > 1 else ""


@contextmanager
def other_programs(count):
    """Keep processes busy during the block, like other programs on the machine."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="faq", help=f"{', '.join(DATA_SETS)}, or a csv or jsonl file")
    parser.add_argument("--geometry", default="minilm", choices=GEOMETRIES)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--max_steps", type=int, help="default: an epoch")
    parser.add_argument("--warmup_steps", type=int, default=3, help="untimed first steps")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--busy", type=int, default=0, help="number of other programs that compute meanwhile")
    parser.add_argument("--contenders", nargs="+", default=DEFAULT_CONTENDERS, choices=CONTENDERS)
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda")
    )
    parser.add_argument("--our_flags", default="", help="further flags of train_peft.py, in a string")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--profile", type=Path, help="also write a profile of a few of aisle's steps")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def contend(name, job_file, result_file):
    """Run as a contender: the child's side of `run_contender`."""
    job = json.loads(job_file.read_text())
    figures = CONTENDERS[name](Job(**{**job, "data": DataSet(**job["data"])}))
    result_file.write_text(json.dumps(figures))


def main():
    arguments = flags()
    if arguments.contender:
        contend(arguments.contender, arguments.job, arguments.result)
        return
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        job = job_of(arguments, make_data(arguments.data, folder), make_geometry(arguments.geometry, folder))
        if arguments.geometry != "minilm":  # random weights score at random
            job = replace(job, data=replace(job.data, test_file=None))
        rounds = {name: [] for name in arguments.contenders}
        with other_programs(arguments.busy):
            for _ in range(arguments.rounds):
                for name in rounds:
                    try:
                        rounds[name].append(run_contender(name, job, folder))
                    except ContenderError as error:
                        raise SystemExit(str(error)) from None
                    print(f"{name}: {rounds[name][-1]}", file=sys.stderr, flush=True)
        if arguments.profile:
            arguments.profile.write_text(in_own_process(profile_text, job, scratch))
    print(
        f"{arguments.geometry}, {arguments.data}, {arguments.device}, batch {arguments.batch}, "
        f"{job.steps} steps, the first {job.warmup_steps} not timed, {arguments.rounds} rounds, "
        f"{arguments.busy} other programs, "
        f"{time.perf_counter() - started:.0f} s in all"
    )
    table(rounds, sorted(rounds[arguments.contenders[0]][0]["quality"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    main()
