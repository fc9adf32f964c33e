"""Choose loss, LoRA rank and learning rate from the labels of the training pairs, for `--loss auto`.

The rules are what the recipes for real data have in common (docs/results.md has their figures):

- Few positives: cosent. It was the best loss by validation on walmart_amazon (9% positives) and wdc (26%).
- Otherwise in_batch, as a search ranks products that nobody judged. It was the best of the losses compared on
  groups of offers. On the sample shop, with four relevance levels, cosine_target has the same ROC-AUC, and an
  nDCG@10 of .445 where in_batch has .620. The FAQ has positives only, so nothing else can learn from it.
- Rank 16, also on the feed-forward layers, and a learning rate of 1e-3: in all recipes with 5,000 pairs or
  more. The recipe for ESCI, with 700 pairs, has rank 8 and 5e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aisle.commands.train.settings import TrainSettings
from aisle.data.batching import distinct
from aisle.data.pairs import Pairs, query_key
from aisle.losses.cosine_target import FEW_POSITIVES
from aisle.models.adapters import default_target_modules, linear_layer_names
from aisle.models.loading import LoadedModel

FEW_QUERIES = 4
"""Number of queries with a positive below which a batch has too few other queries' products as negatives."""
MANY_PAIRS = 2000
"""Number of pairs from which a higher rank and learning rate are chosen."""
FEED_FORWARD = "dense"
"""Name of the feed-forward layers in BERT and its relatives, which the recipes adapt."""


@dataclass(frozen=True)
class LabelSummary:
    """What the labels of training pairs look like.

    Attributes:
        pairs: Number of pairs.
        positives: Share of the pairs with a relevance above 0.5; 1 without labels.
        levels: Number of distinct relevance levels; 0 without labels.
        queries: Number of distinct queries.
        answered: Number of distinct queries with a positive.
        grouped: Whether rows are texts with their groups.
    """

    pairs: int
    positives: float
    levels: int
    queries: int
    answered: int
    grouped: bool

    @classmethod
    def of(cls, train: Pairs) -> LabelSummary:
        """Return the summary of training pairs."""
        relevance = train.relevance
        rows = distinct([query_key(query) for query in train.queries]).rows
        positive = np.ones(len(train), bool) if relevance is None else relevance > 0.5
        return cls(
            pairs=len(train),
            positives=train.positive_share(),
            levels=0 if relevance is None else len(np.unique(relevance)),
            queries=len(np.unique(rows)),
            answered=len(np.unique(rows[positive])),
            grouped=train.texts_of_groups,
        )

    def __str__(self) -> str:
        if self.grouped:
            return f"{self.pairs:,} texts with their groups"
        per_query = f"{self.pairs / max(self.queries, 1):.1f} a query"
        if not self.levels:
            return f"{self.pairs:,} pairs without labels, {per_query}"
        levels = f"{self.levels} relevance level{'' if self.levels == 1 else 's'}"
        return f"{self.pairs:,} judged pairs, {per_query}, {levels}, {self.positives:.0%} positives"


@dataclass(frozen=True)
class AutoChoice:
    """The choice of --loss auto, with its reasons.

    Attributes:
        labels: Summary of the labels that it was made from.
        loss: Name of the loss.
        why_loss: Reason for the loss.
        lora_rank: Rank of a LoRA adapter.
        learning_rate: Peak learning rate of a LoRA adapter.
        feed_forward: Whether to adapt the feed-forward layers as well.
        why_rank: Reason for rank, rate and layers.
    """

    labels: LabelSummary
    loss: str
    why_loss: str
    lora_rank: int
    learning_rate: float
    feed_forward: bool
    why_rank: str

    def record(self) -> dict[str, Any]:
        """Return what the run records of the choice."""
        return {"labels": str(self.labels), "loss": self.why_loss, "lora_and_learning_rate": self.why_rank}


def choose(train: Pairs) -> AutoChoice:
    """Return the choice for training pairs."""
    labels = LabelSummary.of(train)
    loss, why_loss = _loss_for(labels)
    if labels.pairs < MANY_PAIRS:
        why = f"there are fewer than {MANY_PAIRS:,} pairs, which more would overfit"
        return AutoChoice(labels, loss, why_loss, 8, 5e-4, feed_forward=False, why_rank=why)
    why = f"there are {MANY_PAIRS:,} pairs or more"
    return AutoChoice(labels, loss, why_loss, 16, 1e-3, feed_forward=True, why_rank=why)


def _loss_for(labels: LabelSummary) -> tuple[str, str]:
    """Return the name of the loss, and the reason for it."""
    if labels.grouped:
        return "in_batch", "texts of other groups are negatives"
    if not labels.levels:
        return "in_batch", "there are no labels, so negatives come from the batch"
    if labels.levels == 1:
        return "in_batch", "all labels are the same, so negatives come from the batch"
    if labels.positives < FEW_POSITIVES:
        return "cosent", f"{labels.positives:.0%} of the pairs are positives, below {FEW_POSITIVES:.0%}"
    if labels.answered < FEW_QUERIES:
        return "cosent", f"{labels.answered} queries have a positive, too few for negatives from the batch"
    kind = "graded" if labels.levels > 2 else "judged"
    why = (
        f"{labels.positives:.0%} of the {kind} pairs are positives, and a search ranks unjudged products too"
    )
    return "in_batch", why


def apply(
    choice: AutoChoice, settings: TrainSettings, base: LoadedModel, *, log: Callable[[str], None]
) -> TrainSettings:
    """Return the settings with the choice in place of what was not given.

    Args:
        choice: The choice.
        settings: Settings with --loss auto.
        base: Base model, whose layers are adapted.
        log: Logs the choice with its reasons.
    """
    log(f"--loss auto: {choice.labels}")
    log(f"--loss auto: {choice.loss}, because {choice.why_loss}")
    settings = replace(settings, objective=replace(settings.objective, loss=choice.loss))
    if not settings.lora.use_peft or base.adapter is not None:
        return settings
    lora = settings.lora
    rank = lora.lora_rank or choice.lora_rank
    targets = lora.lora_target_modules
    if targets is None and choice.feed_forward and FEED_FORWARD in linear_layer_names(base.backbone):
        targets = (*default_target_modules(base.backbone), FEED_FORWARD)
    lora = replace(lora, lora_rank=rank, lora_alpha=lora.lora_alpha or 2 * rank, lora_target_modules=targets)
    rate = settings.optim.learning_rate or choice.learning_rate
    layers = "" if targets is None else f" on {', '.join(targets)}"
    log(
        f"--loss auto: rank {rank}, alpha {lora.lora_alpha}{layers}, learning rate {rate:g}; without these "
        f"flags, {choice.lora_rank} and {choice.learning_rate:g}, because {choice.why_rank}"
    )
    return replace(settings, lora=lora, optim=replace(settings.optim, learning_rate=rate))
