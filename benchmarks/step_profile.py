"""A profile of aisle's training steps: kernels, host time, launches and synchronisations of a step."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import replace

from throughput_contenders import train_in_this_process

PROFILED_STEPS = 10
TRACED_STEPS = 2
"""Steps that the profiler traces and forgets: its start slows them down."""
ROWS = 25
LAUNCHES = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
    "cudaMemcpyAsync",
    "cudaMemsetAsync",
)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
READS = ("aten::_local_scalar_dense", "aten::nonzero")
"""Operators that read values from a tensor; of the device's, the host must wait for them."""


@contextmanager
def after_each_step(call):
    """Call a function after each training step during the block."""
    from aisle.training.loop import Trainer

    run = Trainer.run

    def run_and_call(trainer):
        kind = type(trainer.step)
        step = kind.__call__

        def step_and_call(self, *arguments, **options):
            metrics = step(self, *arguments, **options)
            call()
            return metrics

        kind.__call__ = step_and_call
        try:
            run(trainer)
        finally:
            kind.__call__ = step

    Trainer.run = run_and_call
    try:
        yield
    finally:
        Trainer.run = run


def profile_steps(job, folder):
    """Profile a few of aisle's steps after the job's warm-up; return a summary and the profiler's tables."""
    from torch.profiler import ProfilerActivity, profile, schedule

    steps = job.warmup_steps + TRACED_STEPS + PROFILED_STEPS
    # A log line reads values from the device: none falls into the profile.
    job = replace(job, steps=steps, our_flags=f"{job.our_flags} --logging_steps {steps + 1}")
    gpu = job.device == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    skipped = schedule(wait=job.warmup_steps, warmup=TRACED_STEPS, active=PROFILED_STEPS, repeat=1)
    ends = []

    with profile(activities=activities, schedule=skipped) as recorded:

        def step_done():
            ends.append(time.perf_counter())
            recorded.step()

        with after_each_step(step_done):
            train_in_this_process(job, folder)
    events = recorded.key_averages()
    summary = {"batch": job.batch, "flags": job.our_flags, **per_step(events)}
    summary["host_ms"] = (ends[-1] - ends[-1 - PROFILED_STEPS]) / PROFILED_STEPS * 1e3
    orders = [*(["self_device_time_total"] if gpu else []), "self_cpu_time_total"]
    tables = (
        f"{order}\n{events.table(sort_by=order, row_limit=ROWS, max_name_column_width=80)}"
        for order in orders
    )
    lines = (f"{name}: {value}" for name, value in summary.items())
    return summary, "\n".join([*lines, "", *tables])


def per_step(events):
    """Return the device's time, launches and waits of a step."""
    count = {event.key: event.count for event in events}
    device = sum(
        event.self_device_time_total
        for event in events
        if event.device_type.name == "CUDA" and not event.is_user_annotation
    )
    named = {
        "launches": sum(count.get(name, 0) for name in LAUNCHES),
        "waits": sum(count.get(name, 0) for name in WAITS),
        "values_read": sum(count.get(name, 0) for name in READS),
        "copies_to_host": sum(number for name, number in count.items() if name.startswith("Memcpy DtoH")),
    }
    return {
        "device_ms": device / PROFILED_STEPS / 1e3,
        **{name: number / PROFILED_STEPS for name, number in named.items()},
    }


def profile_text(job, folder):
    """Return the profile as text; run it in a separate process."""
    return profile_steps(job, folder)[1]
