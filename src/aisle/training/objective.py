"""The loss of a run, with its temperature, as the training step calls it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from aisle.losses.anchors import Anchors
from aisle.losses.embedding_rows import rows_of
from aisle.losses.parameters import LOWEST_TEMPERATURE, Parameters, Temperature
from aisle.losses.specification import Loss
from aisle.losses.triples import Triples
from aisle.training.batches import PairBatch

SCORES_AT_A_TIME = 1 << 24
"""Cosines of anchors with the batch's texts that are in memory at a time, per direction. For triples, numbers
of their embeddings."""


class Objective(nn.Module):
    """Computes the loss of a batch from the embeddings of its texts, in parts that fit in memory.

    Args:
        loss: Loss of the run.
        parameters: Parameters of the loss; a temperature among them may be learned.
    """

    def __init__(self, loss: Loss, parameters: Parameters) -> None:
        super().__init__()
        self.loss = loss
        self._given = loss.arguments(parameters)
        scale = parameters if isinstance(parameters, Temperature) else None
        self._scales = scale is not None
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(scale.temperature) if scale else 0.0),
            requires_grad=scale is not None and scale.learn_temperature,
        )

    @property
    def temperature(self) -> torch.Tensor:
        """What cosines are divided by; 1 for a loss without a temperature."""
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

        Summed over all parts and processes, they are `batch.weight` times the batch's mean loss.

        Args:
            embeddings: (texts, dim) of the whole batch, unit L2 norm.
            batch: The batch.
        """
        if self.loss.contrasts:
            yield from self._contrast_parts(embeddings, batch)
            return
        # A loss over the batch needs the pairs of all processes, any other only those of this one.
        own = slice(*batch.own)
        taken = slice(None) if self.loss.over_batch else own
        losses = self.loss.function(
            rows_of(embeddings, batch.query_rows)[taken],
            rows_of(embeddings, batch.product_rows)[taken],
            **{name: getattr(batch, name)[taken] for name in self.loss.inputs},
            **self._arguments(),
        )
        yield (losses[own] if self.loss.over_batch else losses).sum()

    def _contrast_parts(self, embeddings: torch.Tensor, batch: PairBatch) -> Iterator[torch.Tensor]:
        contrast = batch.contrast
        assert contrast is not None  # the collator makes it for these losses
        (name,) = self.loss.inputs
        compared: Anchors | Triples = getattr(contrast, name)
        if self.loss.needs_hard_negatives:
            columns = 3 * embeddings.shape[1]
        else:
            columns = len(contrast.queries) + len(contrast.products)
        rows = max(SCORES_AT_A_TIME // columns, 1)
        for start in range(0, len(compared), rows):
            # The embeddings are taken again for each part, whose graph is freed by its backward pass.
            block = compared if rows >= len(compared) else compared.block(start, start + rows)
            yield self.loss.function(
                rows_of(embeddings, contrast.queries),
                rows_of(embeddings, contrast.products),
                **{name: block},
                **self._arguments(),
            ).sum()

    def _arguments(self) -> dict[str, Any]:
        """Return the parameters as the loss function takes them, with the present temperature."""
        return {**self._given, "temperature": self.temperature} if self._scales else self._given
