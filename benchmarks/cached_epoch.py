"""An epoch of a head on cached vectors, compared with the same steps with the frozen encoder in the loop.

    python benchmarks/cached_epoch.py ../shared/data/cloud_faq/train.jsonl --embedding_cache /tmp/vectors

Trains the recipe `faq_head` twice in this process: the same head, seed, batches and losses. Steps with the
encoder take seconds each, so only the first of an epoch are run. The time of an epoch is the median time of a
step, its batch included, times the number of steps.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

WARMUP_STEPS = 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train_file", help="questions and answers")
    parser.add_argument("--embedding_cache", required=True, help="folder of the vectors, filled if needed")
    parser.add_argument("--encoder_steps", type=int, default=4, help="steps to time with the encoder")
    parser.add_argument("--epochs", type=int, default=3, help="epochs to time on cached vectors")
    given = parser.parse_args()

    from aisle.cli import train_main

    times: dict[str, list[float]] = {}
    losses: dict[str, list[float]] = {}
    for name in ("cached", "encoder"):
        steps = None if name == "cached" else given.encoder_steps + WARMUP_STEPS
        with tempfile.TemporaryDirectory() as folder, timed_steps(name, steps, times, losses):
            flags = {
                "config": "faq_head",
                "train_file": given.train_file,
                "validation_share": 0.1,
                "num_train_epochs": given.epochs,
                "eval_epochs": given.epochs,
                "embedding_cache": given.embedding_cache,
                "output_dir": f"{folder}/run",
            }
            train_main([word for flag, value in flags.items() for word in (f"--{flag}", str(value))])
    shown = len(losses["encoder"])
    np.testing.assert_allclose(losses["encoder"], losses["cached"][:shown], rtol=1e-4)
    step = {name: float(np.median(found[WARMUP_STEPS:])) for name, found in times.items()}
    steps = len(times["cached"]) // given.epochs
    print(
        json.dumps(
            {
                "steps_per_epoch": steps,
                "cached_epoch_s": round(step["cached"] * steps, 3),
                "encoder_epoch_s": round(step["encoder"] * steps, 1),
                "times_faster": round(step["encoder"] / step["cached"]),
            }
        )
    )


class _Enough(BaseException):
    """Enough steps were timed."""


@contextmanager
def timed_steps(name, most, times, losses):
    """Record the time and the loss of each step of a run; with `most` steps, the encoder is in the loop."""
    from aisle.commands.train import trainer_setup
    from aisle.training.loop import Trainer

    encoded, run = trainer_setup.encoded_layout, Trainer.run
    found, seen = times.setdefault(name, []), losses.setdefault(name, [])

    def run_timed(trainer):
        if most is not None:  # batches of tokens, as before the vectors were cached
            trainer.collate = replace(trainer.collate, texts=None, layout=layouts[0])
        kind = type(trainer.step)
        step = kind.__call__
        ended = time.perf_counter()

        def step_and_time(self, *arguments, **options):
            nonlocal ended
            metrics = step(self, *arguments, **options)
            seen.append(float(metrics[0]))
            now = time.perf_counter()
            found.append(now - ended)  # with the wait for the batch
            ended = now
            if len(found) == most:
                raise _Enough
            return metrics

        kind.__call__ = step_and_time
        try:
            run(trainer)
        finally:
            kind.__call__ = step

    layouts: list = []

    def keep_layout(layout):
        layouts.append(layout)
        return encoded(layout)

    trainer_setup.encoded_layout, Trainer.run = keep_layout, run_timed
    try:
        yield
    except _Enough:
        pass
    finally:
        trainer_setup.encoded_layout, Trainer.run = encoded, run


if __name__ == "__main__":
    main()
