"""Train what embeds the queries of an index, against the vectors of its products.

That is a query adapter on cached embeddings of queries, or the query tower itself (`tower_training`). No
product is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from aisle.errors import TrainingError
from aisle.index.query_adapter import QueryAdapter
from aisle.index.search_index import SearchIndex
from aisle.training.adapter_contrasts import Batch, Contrasts, batch_loss
from aisle.training.adapter_measure import ndcg_of_searches
from aisle.training.adapter_modules import AdapterModule, make_module, trained_adapter
from aisle.training.adapter_queries import AdapterQueries
from aisle.types.adapter_options import AdapterOptions

__all__ = ["QueryModel", "train_adapter", "train_queries"]

Embeddings = npt.NDArray[np.float32]
State = TypeVar("State", covariant=True)


class QueryModel(Protocol[State]):
    """What embeds queries, with weights to train."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights to train."""

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the embeddings of a batch's queries, (queries, dim), of any norm and with gradients."""

    def validation_embeddings(self) -> Embeddings | None:
        """Return the embeddings of the validation queries, (queries, dim), unit L2 norm.

        None if a norm is beyond the range of numbers.
        """

    def state(self) -> State:
        """Return a copy of what is trained, as it is now."""


def train_queries(
    index: SearchIndex,
    model: QueryModel[State],
    queries: AdapterQueries,
    embeddings: Embeddings,
    *,
    validation: AdapterQueries,
    validation_embeddings: Embeddings,
    options: AdapterOptions,
    log: Callable[[str], None],
) -> State | None:
    """Train, and return the state after the epoch with the best nDCG@10 on validation queries.

    For a query with the judged products j, of gain y_j, the loss is the cross-entropy

        - sum over j of y_j / (sum of y) log( exp(cos_j / t) / sum over k of exp(cos_k / t) )

    where k runs over the judged products, hard negatives of the query, and products that are drawn from the
    whole index for each step.

    Args:
        index: The index, which does not change.
        model: What embeds the queries.
        queries: Training queries.
        embeddings: Their embeddings by the base encoder, (queries, dim), unit L2 norm.
        validation: Queries that choose the epoch.
        validation_embeddings: Their embeddings by the base encoder, (queries, dim).
        options: How it is trained.
        log: Logs messages for the user.

    Returns:
        The state, or None if no epoch is better than the base encoder.

    Raises:
        TrainingError: The weights have grown beyond the range of numbers.
    """
    rng = np.random.default_rng(options.seed)
    contrasts = Contrasts.of(index, queries, embeddings, options, rng)
    optimizer = torch.optim.AdamW(
        model.parameters(), options.learning_rate, weight_decay=options.weight_decay
    )
    steps = options.epochs * -(-len(queries) // options.batch_queries)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    base = best = float(ndcg_of_searches(index, validation, validation_embeddings).mean())
    chosen, chosen_epoch = None, 0
    for epoch in range(1, options.epochs + 1):
        losses = []
        for batch in contrasts.batches(rng):
            optimizer.zero_grad(set_to_none=True)
            embedded = model.embed(batch)
            loss: Any = batch_loss(embedded, batch.to(embedded.device), temperature=options.temperature)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        found = model.validation_embeddings()
        if found is None or not np.isfinite(losses).all():
            raise TrainingError(
                f"epoch {epoch}: the adapter's weights have grown beyond the range of numbers, with loss "
                f"{losses[-1]}; give a --learning_rate below {options.learning_rate}"
            )
        figure = float(ndcg_of_searches(index, validation, found).mean())
        log(f"epoch {epoch}: loss {np.mean(losses):.4f}, validation nDCG@10 {figure:.4f} (was {base:.4f})")
        if figure > best:
            best, chosen, chosen_epoch = figure, model.state(), epoch
        elif options.patience is not None and epoch - chosen_epoch >= options.patience:
            break
    return chosen


def train_adapter(
    index: SearchIndex,
    queries: AdapterQueries,
    embeddings: Embeddings,
    *,
    validation: AdapterQueries,
    validation_embeddings: Embeddings,
    options: AdapterOptions,
    log: Callable[[str], None],
) -> QueryAdapter | None:
    """Train a query adapter on cached embeddings; the arguments are those of `train_queries`.

    Returns:
        The adapter, or None if none is better than the base encoder.
    """
    torch.manual_seed(options.seed)
    return train_queries(
        index,
        _Adapted(make_module(options, index.dim), options, validation_embeddings),
        queries,
        embeddings,
        validation=validation,
        validation_embeddings=validation_embeddings,
        options=options,
        log=log,
    )


@dataclass(frozen=True, eq=False)
class _Adapted:
    """Embeddings of the base encoder with an adapter on top.

    Args:
        module: The adapter.
        options: Its kind.
        validation: Embeddings of the validation queries by the base encoder.
    """

    module: AdapterModule
    options: AdapterOptions
    validation: Embeddings

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the weights of the adapter."""
        return self.module.parameters()

    def embed(self, batch: Batch) -> torch.Tensor:
        """Return the adapted embeddings of a batch's queries."""
        embedded: torch.Tensor = self.module(batch.queries)
        return embedded

    def validation_embeddings(self) -> Embeddings | None:
        """Return the adapted embeddings of the validation queries; None if a norm is not finite."""
        with torch.no_grad():
            squares = self.module(torch.from_numpy(self.validation)).square().sum(dim=1)
        return self.state().apply(self.validation) if bool(torch.isfinite(squares).all()) else None

    def state(self) -> QueryAdapter:
        """Return the adapter as it is now."""
        return trained_adapter(self.module, self.options)
