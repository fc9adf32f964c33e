"""Options of the training of a query adapter."""

from __future__ import annotations

from dataclasses import dataclass

from aisle.types.choices import AdapterKind

__all__ = ["AdapterOptions"]


@dataclass(frozen=True)
class AdapterOptions:
    """How a query adapter is trained.

    Args:
        kind: Function of query embeddings, or lora for the query tower.
        size: Rank of low_rank and lora, size of the hidden layer of mlp; linear does not use it.
        epochs: Most passes over the training queries; the best on the validation queries is kept.
        patience: Epochs without a better validation figure after which training stops; None trains all
            epochs.
        batch_queries: Queries of a step.
        learning_rate: Highest learning rate; it falls to 0 along a cosine.
        weight_decay: Decay of the weights towards the identity.
        temperature: Number by which cosines are divided.
        negatives: Products that a batch is contrasted with, drawn from the whole index.
        hard_negatives: Further products per query, drawn from the best products of a search.
        seed: Seed of the first weights and of all draws.
    """

    kind: AdapterKind = "linear"
    size: int = 32
    epochs: int = 20
    patience: int | None = None
    batch_queries: int = 128
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    temperature: float = 0.05
    negatives: int = 1024
    hard_negatives: int = 32
    seed: int = 0
