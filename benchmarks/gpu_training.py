"""Training speed on a GPU compared with other libraries, and the share of the chip's matrix rate.

    python benchmarks/gpu_training.py --output_dir runs/gpu
    python benchmarks/gpu_training.py --output_dir runs/gpu --batches 256 --profile
    python benchmarks/gpu_training.py --output_dir runs/cpu --device cpu --geometry tiny --batches 8 --steps 3

Needs no network. The contenders of train_throughput.py run in separate processes: aisle and
sentence-transformers in bf16 (fp32 on CPU), and the settings of PEFT's example (fp16; fp32 on CPU), on the
shape of e5-large-v2 with random weights and texts as long as ESCI's. Rewrites gpu_training.json and
gpu_training.md after every run; the table lists runs that did not fit in memory or in `--budget_seconds`.

Floating-point operations per real token of LoRA training, from the model's shape:

    4 N + 6 A + 12 L h s

N: frozen weights outside the embeddings; 2 N forward and 2 N backward, because only activations get gradients
(counted for the first layer's inputs too, which need no gradients: half a percent too much in 24 layers).
A: the adapter's weights; their gradients take another 2 A.
L layers of width h: attention is 4 h per pair of tokens and layer forward (scores and weighted sum), twice
that backward; s is the mean of the texts' squared lengths over their mean length. 2 operations per weight,
token and pass, after https://arxiv.org/abs/2001.08361, section 2.1. Padding does not count.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from throughput_contenders import LORA_RANK, profile
from throughput_data import (
    GEOMETRIES,
    MAX_LENGTH,
    SPECIAL_TOKENS,
    Job,
    in_own_process,
    make_data,
    make_geometry,
    read_rows,
)
from train_throughput import ContenderError, run_contender

CONTENDERS = {"cuda": ("aisle", "st_bf16", "peft_settings"), "cpu": ("aisle", "st", "peft_settings")}
COMPUTE_TYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}
MATRIX_SIZE = {"cuda": 8192, "cpu": 1024}
MATRIX_ROUNDS = 30
LORA_MODULES = 3
COLUMNS = (
    ("pairs/s", "pairs_per_second", "{:,.1f}"),
    ("tokens/s", "tokens_per_second", "{:,.0f}"),
    ("TFLOP/s", "tflops", "{:.2f}"),
    ("of matmul", "share_of_matmul", "{:.1%}"),
    ("padding", "padding_share", "{:.1%}"),
    ("peak GiB", "peak_memory_gib", "{:.2f}"),
    ("final loss", "final_loss", "{:.4f}"),
    ("timed steps", "timed_steps", "{:d}"),
    ("ours over it", "ratio", "{:.2f}"),
)


def matmul_flops_per_second(device):
    """Return the median rate of large square matrix products, in the compute type of training."""
    size, seconds = MATRIX_SIZE[device], []
    left, right = (torch.randn(size, size, device=device).to(COMPUTE_TYPE[device]) for _ in range(2))
    for _ in range(MATRIX_ROUNDS):
        started = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[MATRIX_ROUNDS // 3 :])


def flops_per_token(model, texts):
    """Return the operations per real token of LoRA training by the formula above; words are tokens."""
    shape = json.loads((Path(model) / "config.json").read_text())
    layers, width, inner = (
        shape[f"{name}"] for name in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    lengths = [min(len(text.split()) + SPECIAL_TOKENS, MAX_LENGTH) for text in texts]
    seen = sum(length**2 for length in lengths) / sum(lengths)
    frozen = layers * (4 * width**2 + 2 * width * inner)
    adapter = layers * LORA_MODULES * 2 * width * LORA_RANK
    return 4 * frozen + 6 * adapter + 12 * layers * width * seen


def machine(device):
    chip = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{chip}, {platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}"


def measure(name, job, report, folder, *, timeout):
    """Run a contender and return its figures and shares, or the reason that it failed."""
    entry = {"batch": job.batch, "contender": name}
    if timeout <= 0:
        return {**entry, "failed": "not run: --budget_seconds is spent"}
    try:
        figures = run_contender(name, job, folder, timeout=timeout)
    except ContenderError as error:
        short = "out of memory" if "out of memory" in str(error).lower() else str(error).splitlines()[-1]
        return {**entry, "failed": short, "log": str(error)}
    flops = figures["tokens_per_second"] * report["flops_per_token"]
    share = flops / report["matmul_flops_per_second"]
    return {**entry, **figures, "tflops": flops / 1e12, "share_of_matmul": share}


def with_ratios(runs):
    """Return the runs with aisle's speed relative to each contender at the same batch."""
    ours = {run["batch"]: run.get("pairs_per_second") for run in runs if run["contender"] == "aisle"}
    return [
        {**run, "ratio": ours[run["batch"]] / run["pairs_per_second"]}
        if ours.get(run["batch"]) and "failed" not in run
        else run
        for run in runs
    ]


def markdown(report):
    lines = [
        f"`{report['command']}`: {report['machine']}; {report['geometry']}, {report['steps']} steps, "
        f"the first {report['warmup_steps']} not timed. Matrix product in {report['compute_type']}: "
        f"{report['matmul_flops_per_second'] / 1e12:.2f} TFLOP/s. "
        f"Per real token of training: {report['flops_per_token'] / 1e9:.4f} GFLOP.",
        "",
        "| batch | contender | " + " | ".join(title for title, _, _ in COLUMNS) + " |",
        "|---|---|" + "---|" * len(COLUMNS),
    ]
    for run in report["runs"]:
        cells = [form.format(run[key]) if key in run else "" for _, key, form in COLUMNS]
        if "failed" in run:
            cells[0] = run["failed"]
        lines.append(f"| {run['batch']} | {run['contender']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(report, output_dir):
    (output_dir / "gpu_training.json").write_text(json.dumps(report, indent=1))
    (output_dir / "gpu_training.md").write_text(markdown(report))


def flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--geometry", default="bert_large", choices=GEOMETRIES)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--steps", type=int, default=30, help="steps in all, including warm-up")
    parser.add_argument("--warmup_steps", type=int, help="untimed first steps; default a sixth, at most 5")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument(
        "--contenders", nargs="+", help="contenders of train_throughput.py to compare with aisle"
    )
    parser.add_argument("--budget_seconds", type=float, default=500, help="time limit of all runs")
    parser.add_argument("--our_flags", default="", help="further flags of train_peft.py, in a string")
    parser.add_argument("--profile", action="store_true", help="also profile aisle's steps at the last batch")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU; give --device cpu")
    if arguments.warmup_steps is None:
        arguments.warmup_steps = min(5, arguments.steps // 3)
    if not 0 <= arguments.warmup_steps < arguments.steps:
        parser.error(f"--warmup_steps {arguments.warmup_steps}: must be less than --steps {arguments.steps}")
    return arguments


def main():
    arguments = flags()
    ends = time.perf_counter() + arguments.budget_seconds
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data, model = make_data("esci_lengths", folder), make_geometry(arguments.geometry, folder)
        queries, products, _ = read_rows(data, data.train_file)
        report = {
            "command": " ".join(["python", *sys.argv]),
            "machine": machine(arguments.device),
            "geometry": arguments.geometry,
            "steps": arguments.steps,
            "warmup_steps": arguments.warmup_steps,
            "compute_type": str(COMPUTE_TYPE[arguments.device]).removeprefix("torch."),
            "matmul_flops_per_second": in_own_process(matmul_flops_per_second, arguments.device),
            "flops_per_token": flops_per_token(model, queries + products),
            "runs": [],
        }
        jobs = [
            Job(
                model=model,
                data=data,
                batch=batch,
                steps=arguments.steps,
                warmup_steps=arguments.warmup_steps,
                learning_rate=arguments.learning_rate,
                device=arguments.device,
                our_flags=arguments.our_flags,
            )
            for batch in arguments.batches
        ]
        for job in jobs:
            for name in arguments.contenders or CONTENDERS[arguments.device]:
                left = ends - time.perf_counter()
                report["runs"].append(measure(name, job, report, folder, timeout=left))
                report["runs"] = with_ratios(report["runs"])
                write(report, arguments.output_dir)
                print(report["runs"][-1], file=sys.stderr, flush=True)
        if arguments.profile:
            table = in_own_process(profile, jobs[-1], scratch)
            (arguments.output_dir / "profile.txt").write_text(table)
    print(markdown(report))


if __name__ == "__main__":
    main()
