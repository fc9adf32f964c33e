"""Evaluate a reranker in training: on the validation pairs, and on the list that will be served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from aisle.commands.train.read_data import TrainingData
from aisle.commands.train.served_list import served_lists
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.text.batch_layout import Layout
from aisle.text.tokens import TokenizedTexts
from aisle.training.score_evaluation import make_score_evaluator
from aisle.training.step import TrainingStep
from aisle.training.tokenized import TokenizedPairs
from aisle.training.validation import embed_texts

SAMPLED_PAIRS = 32
"""Validation pairs to score before and after training, to check that the model changed."""


def reranker_evaluation(
    settings: Any,
    data: TrainingData,
    base: LoadedCrossEncoder,
    validation: TokenizedPairs,
    step: TrainingStep,
    layout: Layout,
    accelerator: Any,
    *,
    log: Callable[[str], None],
) -> tuple[Callable[[], dict[str, Any]], Callable[[], np.ndarray]]:
    """Return functions that evaluate the current model and score a few pairs with it, on all ranks.

    Args:
        settings: Resolved settings of a reranker.
        data: Training and validation pairs.
        base: Model that training starts from.
        validation: Tokenised validation pairs.
        step: Training step, with the model.
        layout: Layout of batches.
        accelerator: Accelerator of the run.
        log: Logs messages for the user.
    """
    unpadded = replace(layout, static_length=None)

    def score(pairs: TokenizedTexts, numbers: np.ndarray) -> torch.Tensor:
        return embed_texts(
            accelerator,
            step.forward.model,
            pairs,
            numbers,
            layout=unpadded,
            max_texts=settings.optim.per_device_eval_batch_size,
        )

    served = served_lists(
        settings.served,
        data.validation,
        base.pair_tokenizer,
        accelerator,
        trust_remote_code=settings.model.trust_remote_code,
        log=log,
    )
    if served is None:
        log("validation: the best evaluation has the highest ROC-AUC of the pairs (no --index_dir)")
    sampled = validation.queries[:SAMPLED_PAIRS]
    return (
        make_score_evaluator(validation, score, served),
        lambda: score(validation.texts, sampled).cpu().numpy(),
    )
