"""Loss of a run, with its temperature and its prefixes, computed in parts that fit in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from aisle.losses.anchors import Anchors
from aisle.losses.embedding_rows import rows_of
from aisle.losses.parameters import LOWEST_TEMPERATURE, Parameters, Temperature
from aisle.losses.positive_sets import PositiveSets
from aisle.losses.scored_lists import ScoredLists
from aisle.losses.specification import Loss
from aisle.losses.triples import Triples
from aisle.training.batches import PairBatch

CLASS_WEIGHTS = "class_weights"
"""Input of a loss that trains a vector for each group."""
SCORES_AT_A_TIME = 1 << 24
"""Most cosines between anchors and the batch's texts in memory at a time, per direction. For triples: most
numbers in their embeddings."""


@dataclass(frozen=True)
class Prefix:
    """Leading components of embeddings.

    Args:
        dim: Number of components; None keeps all.
    """

    dim: int | None

    def of(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the leading components of (rows, dim) embeddings, rescaled to unit norm."""
        if self.dim is None or self.dim == embeddings.shape[1]:
            return embeddings
        return nn.functional.normalize(embeddings[:, : self.dim], dim=1)


WHOLE = Prefix(None)


class Objective(nn.Module):
    """Compute the loss of a batch from the embeddings of its texts, in parts that fit in memory.

    Args:
        loss: Loss of the run.
        parameters: Parameters of the loss; if they include a temperature, it may be learned.
        matryoshka_dims: Numbers of leading components. The loss is then the mean of the losses of these
            prefixes of the embeddings, rescaled to unit norm (https://arxiv.org/abs/2205.13147); empty is the
            loss of whole embeddings.
        class_weights: (groups, dim), first vectors of the groups, for a loss that trains them.
        few_operations: Whether to take the loss's own gradient where it has one (`Loss.gradient`).
    """

    class_weights: nn.Parameter | None

    def __init__(
        self,
        loss: Loss,
        parameters: Parameters,
        matryoshka_dims: Sequence[int] = (),
        class_weights: torch.Tensor | None = None,
        *,
        few_operations: bool = False,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.class_weights = None if class_weights is None else nn.Parameter(class_weights)
        self._gradient = loss.gradient if few_operations and not matryoshka_dims else None
        self._prefixes = [Prefix(dim) for dim in matryoshka_dims] or [WHOLE]
        self._given = loss.arguments(parameters)
        scale = parameters if isinstance(parameters, Temperature) else None
        self._scales = scale is not None
        self.log_temperature = nn.Parameter(
            torch.tensor(math.log(scale.temperature) if scale else 0.0),
            requires_grad=scale is not None and scale.learn_temperature,
        )

    @property
    def temperature(self) -> torch.Tensor:
        """Temperature, by which cosines are divided; 1 for a loss without a temperature."""
        return self.log_temperature.exp()

    def keep_temperature(self) -> None:
        """Raise a learned temperature to the lowest value allowed if it fell below; call after each step."""
        if self.learns:
            with torch.no_grad():
                self.log_temperature.clamp_(min=math.log(LOWEST_TEMPERATURE))

    @property
    def learns(self) -> bool:
        """Whether the temperature is learned."""
        return self.log_temperature.requires_grad

    @property
    def trained(self) -> list[nn.Parameter]:
        """The trained parameters: a learned temperature, and the vectors of the groups."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def gradient(
        self, embeddings: torch.Tensor, batch: PairBatch, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return `scale` times this process's share of the summed loss, and its gradient, without autograd.

        Returns:
            Scalar and (texts, dim); None if the loss has no gradient of its own for this batch.
        """
        contrast = batch.contrast
        if self._gradient is None or self.learns or contrast is None or contrast.anchors is None:
            return None
        given = {**self._given, "temperature": self.temperature.item()}
        found: tuple[torch.Tensor, torch.Tensor] | None = self._gradient(
            embeddings, contrast.queries, contrast.products, contrast.anchors, scale=scale, **given
        )
        return found

    def parts(self, embeddings: torch.Tensor, batch: PairBatch) -> Iterator[torch.Tensor]:
        """Yield this process's share of the batch's summed loss, in parts.

        The sum over all parts and processes is `batch.weight` times the batch's mean loss.

        Args:
            embeddings: (texts, dim) embeddings of the whole batch, unit L2 norm; for a cross-encoder, scores
                of its joined pairs, (texts, 1).
            batch: The batch.
        """
        if self._prefixes == [WHOLE]:
            yield from self._parts(embeddings, batch, WHOLE)
            return
        for prefix in self._prefixes:
            for part in self._parts(embeddings, batch, prefix):
                yield part / len(self._prefixes)

    def _parts(self, embeddings: torch.Tensor, batch: PairBatch, prefix: Prefix) -> Iterator[torch.Tensor]:
        """Yield the parts of the loss of a prefix of the embeddings."""
        if self.loss.contrasts:
            yield from self._contrast_parts(embeddings, batch, prefix)
            return
        # A loss over the whole batch needs the pairs of all processes; other losses need only this
        # process's pairs.
        own = slice(*batch.own)
        taken = slice(None) if self.loss.over_batch else own
        losses = self.loss.function(
            *self._outputs(embeddings, batch, prefix, taken),
            **{name: getattr(batch, name)[taken] for name in self.loss.inputs if name != CLASS_WEIGHTS},
            **self._arguments(),
            **self._class_weights(prefix),
        )
        yield (losses[own] if self.loss.over_batch else losses).sum()

    def _outputs(
        self, embeddings: torch.Tensor, batch: PairBatch, prefix: Prefix, taken: slice
    ) -> list[torch.Tensor]:
        """Return the embeddings of both sides of pairs; for a loss of scores, the scores."""
        if self.loss.reads == "scores":  # a joined pair is a single text, so both its rows are the same
            return [rows_of(embeddings, batch.query_rows)[taken, 0]]
        sides = (batch.query_rows, batch.product_rows)
        return [prefix.of(rows_of(embeddings, rows)[taken]) for rows in sides]

    def _contrast_parts(
        self, embeddings: torch.Tensor, batch: PairBatch, prefix: Prefix
    ) -> Iterator[torch.Tensor]:
        contrast = batch.contrast
        assert contrast is not None  # the collator always sets it for these losses
        (name,) = self.loss.inputs
        compared: Anchors | Triples | PositiveSets | ScoredLists = getattr(contrast, name)
        if self.loss.needs_hard_negatives:
            columns = 3 * embeddings.shape[1]
        else:
            columns = len(contrast.queries) + len(contrast.products)
        rows = max(SCORES_AT_A_TIME // columns, 1)
        for start in range(0, len(compared), rows):
            # Select the rows again for each part: the backward pass of a part frees its graph.
            block = compared if rows >= len(compared) else compared.block(start, start + rows)
            yield self.loss.function(
                prefix.of(rows_of(embeddings, contrast.queries)),
                prefix.of(rows_of(embeddings, contrast.products)),
                **{name: block},
                **self._arguments(),
            ).sum()

    def _class_weights(self, prefix: Prefix) -> dict[str, torch.Tensor]:
        return {} if self.class_weights is None else {CLASS_WEIGHTS: prefix.of(self.class_weights)}

    def _arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the loss function, with the current temperature."""
        return {**self._given, "temperature": self.temperature} if self._scales else self._given
