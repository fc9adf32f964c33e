"""train_peft.py for many settings in a single launch, on batches that leave some processes almost empty.

Usage: uneven_batches.py CASES OUTPUT_DIR MODEL JUDGED CLICKED VALIDATION CLICKED_VALIDATION
"""

import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path

from accelerate import Accelerator, PartialState
from accelerate.utils import InitProcessGroupKwargs

from aisle.cli import train_main
from aisle.losses.registry import register
from aisle.training import accelerator
from tests.commands.triplet_loss import TRIPLET

# A process that waits in vain for a collective gives up after this time, and so do all.
LONGEST_WAIT = timedelta(seconds=30)
PAIRS_PER_BATCH = 6
LORA = ("--use_peft", "--learning_rate", "0.01", "--lora_target_modules", "query", "value", "dense")
ALL_WEIGHTS = ("--learning_rate", "0.001")
CACHED = ("--cached_embeddings", "--max_tokens_per_sub_batch", "64")
ACCUMULATED = ("--gradient_accumulation_steps", "2")
LEARNED = ("--learn_temperature",)
CASES = {
    "in_batch": (*LORA, "--loss", "in_batch", *LEARNED),
    "in_batch_one_direction": (
        *(*LORA, "--loss", "in_batch", *LEARNED, "--in_batch_directions", "query_to_product"),
        *("--hard_negatives_column", "hard_negatives", "--group_by_query", *CACHED),
    ),
    "in_batch_clicks": (*LORA, "--loss", "in_batch", *LEARNED, *ACCUMULATED),
    "in_batch_all_weights": (
        *(*ALL_WEIGHTS, "--loss", "in_batch", *LEARNED, *CACHED, *ACCUMULATED),
        *("--hard_negatives_column", "hard_negatives"),
    ),
    "cosent": (*LORA, "--loss", "cosent", *LEARNED, *CACHED),
    "cosent_all_weights": (*ALL_WEIGHTS, "--loss", "cosent", *LEARNED, "--gradient_checkpointing"),
    "listwise": (*LORA, "--loss", "listwise", *LEARNED, "--group_by_query", *ACCUMULATED),
    "triplet_clicks": (
        *(*LORA, "--loss", "own_triplet", "--hard_negatives_column", "hard_negatives", *CACHED, *ACCUMULATED),
    ),
    "circle": (*LORA, "--loss", "circle", *CACHED, *ACCUMULATED),
    "cosine_target": (*LORA, "--loss", "cosine_target", "--early_stopping_patience", "2"),
    "cosine_target_all_weights": (*ALL_WEIGHTS, "--loss", "cosine_target", *CACHED),
}
"""Settings that communicate, and which of the losses they go with; own_triplet is not of this package."""
UNREAD_WEIGHTS = {
    name: (*ALL_WEIGHTS, "--loss", "cosent", *LEARNED, *CACHED, *ACCUMULATED, "--dropout", "0")
    for name in ("longformer", "roformer")
}
"""Models with weights that no embedding reads: nothing is exchanged for them."""


def main(cases, output_dir, model, judged, clicked, judged_validation, clicked_validation):
    """Run all cases, one after the other, until the first that fails."""
    register(TRIPLET)
    processes = int(os.environ["WORLD_SIZE"])
    wait = InitProcessGroupKwargs(timeout=LONGEST_WAIT)
    accelerator.Accelerator = partial(Accelerator, kwargs_handlers=[wait])
    PartialState.destroy_process_group = lambda self, group=None: None  # the next case continues with it
    for name, flags in {"settings": CASES, "models": UNREAD_WEIGHTS}[cases].items():
        clicks = name.endswith("clicks")
        files = (clicked, clicked_validation) if clicks else (judged, judged_validation)
        code = train_main(
            [
                *("--output_dir", str(Path(output_dir) / name), "--model_name_or_path"),
                model if cases == "settings" else str(Path(model) / name),
                *("--train_file", files[0], "--validation_file", files[1], "--dropout", "0"),
                *("--num_train_epochs", "2", "--eval_steps", "1", "--logging_steps", "1", *flags),
                *("--per_device_train_batch_size", str(PAIRS_PER_BATCH // processes)),
                *("--per_device_eval_batch_size", "2", "--product_id_column", "product_id"),
            ]
        )
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
