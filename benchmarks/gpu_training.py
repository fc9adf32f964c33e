"""Training and embedding on a GPU compared with other libraries, and with what the chip allows, in one call.

    python benchmarks/gpu_training.py --output_dir runs/gpu                      # everything, within 240 s
    python benchmarks/gpu_training.py --output_dir runs/gpu --sections train --batches 256
    python benchmarks/gpu_training.py --output_dir runs/gpu --contenders aisle "aisle --torch_compile"
    python benchmarks/gpu_training.py --output_dir runs/cpu --device cpu --tiny  # shows that it runs

All contenders share a process, so that every library is imported once. The model has e5-large-v2's shape with
random weights; texts have ESCI's lengths and are cut at 70 tokens; the adapter is LoRA r8 on query, key and
value; the loss is cosine-target. Nothing is downloaded.

Contenders of training: sentence-transformers' trainer with bf16=True; a loop with the settings of PEFT's
example (fp16 autocast, texts padded to 70); aisle's command with default flags besides batch and
precision, and with any flags that follow its name; a minimal step without a library, eager and as a CUDA
graph. Steps are timed after a warm-up, without start, evaluation and saving; aisle's by its own log, a line
for ten steps. A peer stops after 20 steps or `--timed_seconds`. A measurement that takes longer than
`--contender_seconds` fails; aisle's is then that of the steps so far. Peak memory is what torch allocated.
Embedding is in bf16. On a CPU everything computes in float32.

Rewrites gpu_training.json and gpu_training.md in the folder after every measurement, and writes
profile_BATCH.txt. A failure is printed and does not stop the others; what does not fit in `--seconds` is left
out with a note. gpu_flops.py has the formula of the operations.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import torch
from gpu_embedding import embedding_measures
from gpu_flops import embedding_flops, matmul_flops_per_second, training_flops
from gpu_model import make_model
from gpu_report import Report
from minimal_step import minimal_step
from step_profile import profile_steps
from throughput_contenders import (
    log_windows,
    our_figures,
    peft_settings,
    sentence_transformers,
    train_in_this_process,
)
from throughput_data import SHAPES, Job, read_rows

from aisle.training.accelerator import separate_state

SECTIONS = ("matmul", "train", "embed", "profile")
ST, PEFT, EAGER, GRAPH = "sentence-transformers", "peft", "minimal eager", "minimal graph"
CONTENDERS = {
    "cuda": (ST, PEFT, "aisle", "aisle --dropout 0", EAGER, GRAPH),
    "cpu": (ST, PEFT, "aisle", "aisle --dropout 0", EAGER),
}
DTYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}
MOST_ROWS = 16_384
"""Rows of a data set; aisle evaluates once an epoch, and tokenises them all."""
AISLE_PAIRS, MOST_AISLE_STEPS = 24_000, 200
PEER_WARMUP_STEPS, PEER_STEPS = 5, 20
LEARNING_RATE = 5e-4
NEEDED_GIB = {(ST, 1024): 88.6, (PEFT, 1024): 110.4}
"""Peak memory seen on an H200 with e5-large-v2's shape; a smaller GPU skips the run."""
ALARM_AGAIN_SECONDS = 10
RESERVED_SECONDS = {"embed": 35, "profile": 25}
"""Seconds of `--seconds` that earlier sections leave for these."""


class OutOfTime(BaseException):
    """The time limit of a measurement; no library catches it by mistake."""


@contextmanager
def time_limit(seconds):
    """Raise OutOfTime in the block after some seconds, and again if it did not get through."""

    def ring(_number, _frame):
        raise OutOfTime(f"not done after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, ALARM_AGAIN_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def same_environment():
    """Restore the environment after the block: a trainer's variables would change the next one."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


class Bench:
    """A run of the benchmark.

    Args:
        arguments: The flags.
        model: The model with random weights.
        report: The figures so far.
        folder: Folder of scratch files.

    Attributes:
        ends: Time after which the section measures nothing more.
    """

    def __init__(self, arguments, model, report, folder):
        self.arguments, self.model, self.report = arguments, model, report
        self.device, self.folder, self.ends = arguments.device, folder, math.inf

    def attempt(self, entry, measure):
        """Return the entry with the figures of a measurement, or with a note why there are none."""
        left = self.ends - time.perf_counter()
        if left <= 0:
            return entry | {"note": f"not run: --seconds {self.arguments.seconds:.0f} are over"}
        free_memory(self.device)
        held = torch.cuda.memory_allocated() / 2**30 if self.device == "cuda" else 0.0
        started = time.perf_counter()
        try:
            limit = time_limit(min(self.arguments.contender_seconds, left))
            with same_environment(), separate_state(), limit:
                entry = entry | measure()
            entry.pop("peak_memory_gib", None)  # on a CPU it is the whole process's, over all contenders
            if self.device == "cuda":
                entry["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
                entry["memory_at_start_gib"] = held
                entry["reserved_memory_gib"] = torch.cuda.max_memory_reserved() / 2**30
        except OutOfTime as late:
            entry = entry | {"note": str(late)}
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            entry = entry | {"note": reason(error), "traceback": traceback.format_exc()}
        return entry | {"wall_seconds": time.perf_counter() - started}

    def matmul(self):
        """Measure the matrix product."""
        found = self.attempt({}, lambda: {"rate": matmul_flops_per_second(self.device, DTYPE[self.device])})
        self.report.matmul = found.get("rate")

    def train(self):
        """Measure every contender at every batch."""
        sample = self.model.pairs(self.folder, MOST_ROWS)
        queries, titles, _ = read_rows(sample, sample.train_file)
        flops = training_flops(self.model.shape, queries + titles)
        self.report.about["GFLOP per token of training"] = f"{flops / 1e9:.4f}"
        for batch in self.arguments.batches:
            data = self.model.pairs(self.folder, min(MOST_ROWS, sum(self._aisle_steps(batch)) * batch))
            for name in self.arguments.contenders:
                entry = {"batch": batch, "contender": name}
                job = self._job(name, batch, data)
                lacks = lacking_memory(name, batch, self.arguments)
                if lacks:
                    entry["note"] = lacks
                else:
                    entry = self.attempt(entry, lambda job=job, name=name: self._contend(name, job))
                if "tokens_per_second" in entry:
                    entry |= self.report.shares(entry["tokens_per_second"], flops)
                self._add(self.report.train, entry)

    def _aisle_steps(self, batch):
        """Return aisle's warm-up and timed steps, in log windows of ten.

        The warm-up is as long as the timed part, so that hardly a graph is captured in the latter.
        """
        timed = self.arguments.steps or min(MOST_AISLE_STEPS, max(20, AISLE_PAIRS // batch // 10 * 10))
        return max(10, timed // 10 * 10), timed

    def _job(self, name, batch, data):
        """Return the job of a contender."""
        ours = name.split()[0] == "aisle"
        timed = self.arguments.steps or PEER_STEPS
        warmup, timed = self._aisle_steps(batch) if ours else (PEER_WARMUP_STEPS, timed)
        return Job(
            model=self.model.path,
            data=data,
            batch=batch,
            steps=warmup + timed,
            warmup_steps=warmup,
            learning_rate=LEARNING_RATE,
            device=self.device,
            our_flags=name.removeprefix("aisle") if ours else "",
            seconds=self.arguments.timed_seconds,
        )

    def _contend(self, name, job):
        """Train with a contender and return its figures."""
        if name == ST:
            return sentence_transformers(job, bf16=self.device == "cuda")
        if name == PEFT:
            return peft_settings(job)
        if name in (EAGER, GRAPH):
            return minimal_step(job, self.model.shape, graph=name == GRAPH)
        return aisle(job)

    def embed(self):
        """Measure the ways to embed titles."""
        titles = self.model.titles(self.arguments.titles)
        flops = embedding_flops(self.model.shape, titles)
        chosen = {name.split()[0] for name in self.arguments.contenders}
        for name, measure in embedding_measures(self.model, titles, self.device).items():
            if name.split()[0] not in chosen:
                continue
            found = self.attempt({"contender": name}, lambda measure=measure: {"ways": measure()})
            for way, figures in found.pop("ways", {name: {}}).items():
                entry = found | {"contender": way} | figures
                if figures:
                    entry |= self.report.shares(figures["tokens_per_second"], flops)
                    first = (self.report.embed or [entry])[0]
                    if "texts_per_second" in first:
                        entry["ratio"] = entry["texts_per_second"] / first["texts_per_second"]
                self._add(self.report.embed, entry)

    def profile(self):
        """Profile aisle's steps with default flags."""
        for batch in self.arguments.profile_batches:
            data = self.model.pairs(self.folder, min(MOST_ROWS, sum(self._aisle_steps(batch)) * batch))
            job = self._job("aisle", batch, data)
            entry = {"batch": batch, "contender": "aisle"}
            self._add(self.report.profile, self.attempt(entry, lambda job=job: self._profiled(job)))

    def _profiled(self, job):
        with tempfile.TemporaryDirectory() as folder:
            summary, tables = profile_steps(job, folder)
        (self.arguments.output_dir / f"profile_{job.batch}.txt").write_text(tables)
        return summary

    def _add(self, entries, entry):
        entries.append(entry)
        self.report.write()
        shown = {name: value for name, value in entry.items() if name != "traceback"}
        print(shown, file=sys.stderr, flush=True)


def aisle(job):
    """Train with aisle in this process; after the time limit, the figures are those of the steps so far."""
    with tempfile.TemporaryDirectory() as folder:
        stopped = {}
        try:
            train_in_this_process(job, folder)
        except OutOfTime as late:
            if not log_windows(f"{folder}/run", job.warmup_steps):
                raise
            stopped = {"note": f"stopped: {late}"}
        return our_figures(job, folder) | stopped


def lacking_memory(name, batch, arguments):
    """Return why a contender cannot run on this GPU, or None."""
    needed = NEEDED_GIB.get((name, batch))
    if needed is None or arguments.device == "cpu" or arguments.tiny:
        return None
    there = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"not run: needs {needed} GiB, the GPU has {there:.1f}" if there < needed else None


def reason(error):
    """Return the short reason of a failure."""
    if "out of memory" in str(error).lower():
        return "out of memory"
    return f"failed: {type(error).__name__}: {(str(error).splitlines() or [''])[-1][:200]}"


def free_memory(device):
    """Give back what earlier measurements left, so that peaks are comparable."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def machine(device):
    chip = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return f"{chip}, {platform.machine()}, torch {torch.__version__}, Python {platform.python_version()}"


def libraries():
    names = ("sentence-transformers", "transformers", "peft", "accelerate")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def flags():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="a tiny model and little data, for a CPU")
    parser.add_argument("--sections", nargs="+", default=SECTIONS, choices=SECTIONS)
    parser.add_argument("--contenders", nargs="+", help='see above; "aisle FLAGS" has any flags')
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--profile_batches", type=int, nargs="+")
    parser.add_argument("--steps", type=int, help="timed steps; default 20, for aisle 20 to 200")
    parser.add_argument("--titles", type=int, help="titles to embed; default 30,000")
    parser.add_argument("--timed_seconds", type=float, default=3, help="a peer stops after so long")
    parser.add_argument("--contender_seconds", type=float, default=30, help="time limit of a measurement")
    parser.add_argument("--seconds", type=float, default=240, help="time limit of the whole run")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU; give --device cpu")
    known = CONTENDERS["cuda"]
    arguments.contenders = arguments.contenders or CONTENDERS[arguments.device]
    for name in arguments.contenders:
        if name not in known and name.split()[:1] != ["aisle"]:
            parser.error(f'--contenders {name}: there are {", ".join(known)} and "aisle FLAGS"')
    small = arguments.tiny
    arguments.batches = arguments.batches or ([8, 16] if small else [64, 256, 1024])
    arguments.profile_batches = arguments.profile_batches or ([8] if small else [64, 256])
    arguments.steps = arguments.steps or (10 if small else None)
    arguments.titles = arguments.titles or (300 if small else 30_000)
    return arguments


def main():
    started = time.perf_counter()
    arguments = flags()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    shape = "tiny" if arguments.tiny else "bert_large"
    about = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": machine(arguments.device),
        "libraries": libraries(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "shape": str(SHAPES[shape]),
        "compute type": str(DTYPE[arguments.device]).removeprefix("torch."),
    }
    report = Report(arguments.output_dir, about)
    with tempfile.TemporaryDirectory() as scratch:
        model = make_model(shape, scratch, arguments.device)
        bench = Bench(arguments, model, report, scratch)
        for number, section in enumerate(arguments.sections, start=1):
            later = sum(RESERVED_SECONDS.get(name, 0) for name in arguments.sections[number:])
            bench.ends = started + arguments.seconds - later
            try:
                getattr(bench, section)()
            except Exception:
                traceback.print_exc()
            about["seconds"] = f"{time.perf_counter() - started:.0f}"
            report.write()
    print(report.markdown())


if __name__ == "__main__":
    main()
