"""Record the collectives that a rank calls in training steps, for each case; run it under torchrun.

Usage: rank_calls.py MODEL OUTPUT_DIR
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import distributed

from aisle.models.loading import load_base
from aisle.models.model_source import find_model
from aisle.models.tower import Tower
from aisle.types.encoder_settings import Overrides
from tests.training.conftest import texts_of, tokenized, trainer_of

RECORDED = (
    *("all_reduce", "reduce", "reduce_scatter_tensor", "broadcast", "broadcast_object_list", "barrier"),
    *("all_gather", "all_gather_into_tensor", "all_gather_object", "gather", "scatter", "all_to_all"),
)
ONE_POSITIVE = [0.0, 0.0, 1.0, *[0.0] * 5]
LABELS = [1.0, 0.0, 0.4, 0.0, 1.0, 0.2, 0.7, 0.0]
CASES = {
    "full_batch": {"loss": "in_batch"},
    "rank_without_a_pair": {"loss": "cosine_target", "pairs": 1},
    "rank_without_a_pair_in_batch": {"loss": "in_batch", "pairs": 1, "labels": [1.0]},
    "rank_without_a_text": {"loss": "cosine_target", "pairs": 1, "one_text": True},
    "rank_without_a_positive": {"loss": "in_batch", "labels": ONE_POSITIVE},
    "no_positive_at_all": {"loss": "in_batch", "labels": [0.0] * 8, "learn_temperature": True},
    "learned_temperature": {"loss": "cosent", "learn_temperature": True},
    "learned_temperature_without_a_positive": {
        **{"loss": "in_batch", "labels": ONE_POSITIVE, "learn_temperature": True}
    },
    "learned_temperature_without_a_pair": {"loss": "cosent", "pairs": 1, "learn_temperature": True},
    "cached_embeddings": {"loss": "in_batch", "cached": True, "max_tokens": 16, "accumulation": 2},
    "cached_embeddings_without_a_text": {
        **{"loss": "cosine_target", "pairs": 1, "one_text": True, "cached": True, "max_tokens": 16}
    },
    "accumulation_with_a_short_last_batch": {"loss": "in_batch", "batch_size": 2, "accumulation": 3},
    "out_of_memory_forward": {"loss": "in_batch", "fails_at": 1},
    "out_of_memory_in_the_second_batch": {
        **{"loss": "in_batch", "fails_at": 2, "batch_size": 2, "accumulation": 2}
    },
    "clipping_and_checkpoints": {"loss": "cosent", "max_grad_norm": 0.1, "checkpointing_steps": 1},
    "all_weights": {"loss": "in_batch", "sync": False},
    "all_weights_rank_without_a_text": {
        **{"loss": "cosine_target", "pairs": 1, "one_text": True, "sync": False, "learn_temperature": False}
    },
    "all_weights_cached": {"loss": "cosent", "sync": False, "cached": True, "max_tokens": 16},
}


def recorded(calls):
    """Replace the collectives of torch.distributed with functions that record each call."""
    for name in RECORDED:
        plain = getattr(distributed, name)

        def call(*arguments, name=name, plain=plain, **options):
            shapes = [list(one.shape) for one in arguments if isinstance(one, torch.Tensor)]
            calls.append(
                [name, *shapes, *[str(one) for one in arguments if "ReduceOp" in type(one).__name__]]
            )
            return plain(*arguments, **options)

        setattr(distributed, name, call)


def out_of_memory(at):
    """Make forward pass number `at` on the last rank run out of memory."""
    plain, seen = Tower.forward, []

    def forward(model, batches):
        seen.append(1)
        if len(seen) == at and os.environ["RANK"] == "1":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(model, batches)

    Tower.forward = forward
    return plain


def main(model, output_dir):
    """Take two steps in each case, and write this rank's calls."""
    base = load_base(find_model(model), overrides=Overrides(max_length=16))
    calls, by_case = [], {}
    for name, case in CASES.items():
        settings = {"pairs": 8, "labels": None, "one_text": False, "sync": True, "fails_at": 0, **case}
        count = settings.pop("pairs")
        labels = settings.pop("labels") or LABELS[:count]
        queries, products = texts_of(count, seed=5), texts_of(count, seed=6)
        pairs = tokenized(base.tokenizer, queries, queries if settings.pop("one_text") else products, labels)
        fails_at = settings.pop("fails_at")
        trainer = trainer_of(base, pairs, **{"batch_size": 4, "total_steps": 2, **settings})
        trainer.checkpoints_dir = Path(output_dir) / name
        plain = out_of_memory(fails_at)
        if not by_case:
            recorded(calls)
        calls.clear()
        trainer.run()
        by_case[name] = list(calls)
        Tower.forward = plain
    Path(output_dir, f"rank_{os.environ['RANK']}.json").write_text(json.dumps(by_case), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
