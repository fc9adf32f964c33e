"""The loss `cosine_target`: the cosine of a pair should equal its relevance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aisle.losses.embedding_rows import pair_cosines
from aisle.losses.specification import Loss

if TYPE_CHECKING:
    import numpy as np
    import torch

FEW_POSITIVES = 0.3
"""With a lower share of positives the loss saturates early: on walmart_amazon (.09) and wdc (.26), cosent is
far better by validation (docs/results.md)."""
MANY_POSITIVES = 0.9
"""With a higher share of positives, hardly any pair is a judged negative to learn from."""


def cosine_target(
    query_embeddings: torch.Tensor, product_embeddings: torch.Tensor, relevance: torch.Tensor
) -> torch.Tensor:
    """Return (y (1 - cos) + max(0, (1 - y) cos))^2 for each pair.

    The loss draws a relevant pair to cosine 1, and an irrelevant pair to cosine 0 or below.

    Args:
        query_embeddings: (pairs, dim), unit L2 norm.
        product_embeddings: (pairs, dim), unit L2 norm.
        relevance: (pairs,) in [0, 1].

    Returns:
        (pairs,) losses.
    """
    cosine = pair_cosines(query_embeddings, product_embeddings)
    pull = relevance * (1 - cosine)
    push = ((1 - relevance) * cosine).clamp(min=0)
    return (pull + push) ** 2


def _hint(relevance: np.ndarray) -> str | None:
    """Return advice if another loss is likely to suit the labels better, or None."""
    if relevance.min() == relevance.max():
        return (
            f"warning: the relevance of every training pair is {relevance.max():g}, so that cosine_target "
            "draws all texts together and nothing apart; --loss in_batch takes negatives from the batch"
        )
    share = float((relevance > 0.5).mean())
    if share < FEW_POSITIVES:
        return (
            f"hint: {share:.0%} of the training pairs are positives; --loss cosent ranks them above the "
            "others and usually suits such data far better than cosine_target"
        )
    if share > MANY_POSITIVES:
        return (
            f"hint: {share:.0%} of the training pairs are positives, so there are few judged negatives; "
            "--loss in_batch takes negatives from the batch"
        )
    return None


LOSS = Loss(
    name="cosine_target",
    function=cosine_target,
    help="trains the cosine of query and product to equal the judged relevance",
    source=(
        "the loss of PEFT's semantic-search example, "
        "https://huggingface.co/docs/peft/v0.6.2/task_guides/semantic-similarity-lora"
    ),
    inputs=("relevance",),
    default_for="labelled",
    hint=_hint,
)
