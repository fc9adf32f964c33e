"""A run's loss: which one, at which temperature, and what a step's mean is taken over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import nn

from aisle.losses import objectives as losses
from aisle.losses.objectives import rows_of
from aisle.training.batches import PairBatch

Loss = Literal["cosine_target", "cosent", "in_batch", "listwise"]
SCORES_AT_A_TIME = 1 << 24
"""Cosines of an in-batch loss that are in memory at a time, per direction."""
LOWEST_TEMPERATURE = 0.01
"""Learned temperatures stay above it, as CLIP's do (https://arxiv.org/abs/2103.00020, section 2.5)."""


class Objective(nn.Module):
    """The loss of a batch from the embeddings of its texts, in parts that fit in memory.

    Args:
        loss: which one.
        temperature: cosines are divided by it; at first, where it is learned.
        learn_temperature: train its logarithm with the model.
        directions: what the in-batch loss holds against what.
    """

    def __init__(
        self,
        loss: Loss,
        *,
        temperature: float,
        learn_temperature: bool,
        directions: Sequence[losses.Direction],
    ) -> None:
        super().__init__()
        self.loss: Loss = loss
        self.directions = tuple(directions)
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(temperature)), requires_grad=learn_temperature
        )

    @property
    def temperature(self) -> torch.Tensor:
        """What cosines are divided by."""
        return self.log_temperature.exp()

    def keep_temperature(self) -> None:
        """Bring a learned temperature back above the lowest one; call after each step."""
        if self.learns:
            with torch.no_grad():
                self.log_temperature.clamp_(min=math.log(LOWEST_TEMPERATURE))

    @property
    def learns(self) -> bool:
        """Whether the temperature is trained."""
        return self.log_temperature.requires_grad

    def parts(self, embeddings: torch.Tensor, batch: PairBatch) -> Iterator[torch.Tensor]:
        """Yield this process's share of the sum of the batch's losses, in parts to be added up.

        Over all parts and processes they come to `batch.weight` times the batch's mean loss.

        Args:
            embeddings: (texts, dim) of the whole batch, unit L2 norm.
            batch: the batch.
        """
        if self.loss == "in_batch":
            yield from self._in_batch_parts(embeddings, batch)
            return
        start, stop = batch.own
        queries, products = rows_of(embeddings, batch.query_rows), rows_of(embeddings, batch.product_rows)
        assert batch.relevance is not None  # settings that need labels are refused without them
        if self.loss == "cosine_target":
            found = losses.cosine_target(
                queries[start:stop], products[start:stop], batch.relevance[start:stop]
            )
            yield found.sum()
        elif self.loss == "cosent":
            found = losses.cosent(queries, products, batch.relevance, temperature=self.temperature)
            yield found[start:stop].sum()
        else:
            found = losses.listwise(
                queries, products, batch.relevance, batch.query_keys, temperature=self.temperature
            )
            yield found[start:stop].sum()

    def _in_batch_parts(self, embeddings: torch.Tensor, batch: PairBatch) -> Iterator[torch.Tensor]:
        contrast = batch.contrast
        assert contrast is not None  # the collator makes it for this loss
        columns = len(contrast.queries) + len(contrast.products)
        anchors, rows = contrast.anchors, max(SCORES_AT_A_TIME // columns, 1)
        for start in range(0, len(anchors), rows):
            # Taken from the embeddings anew: each part's graph is freed by its backward pass.
            yield losses.in_batch(
                rows_of(embeddings, contrast.queries),
                rows_of(embeddings, contrast.products),
                anchors if rows >= len(anchors) else anchors.block(start, min(start + rows, len(anchors))),
                temperature=self.temperature,
                directions=self.directions,
            ).sum()


def weight_of(loss: Loss, relevance: np.ndarray | None, query_keys: np.ndarray, pairs: int) -> int:
    """Return what the sum of a batch's losses is divided by: pairs, positives, or queries with a positive."""
    if loss == "in_batch":
        return pairs if relevance is None else int((relevance > 0.5).sum())
    if loss == "listwise" and relevance is not None:
        return losses.listwise_weight(relevance, query_keys)
    return pairs
