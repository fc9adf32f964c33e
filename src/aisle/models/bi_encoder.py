"""Bi-encoder: a query tower and a product tower, which are the same tower by default."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.tower import Tower
from aisle.text.token_batches import TokenBatch
from aisle.text.tokens import Side


class BiEncoder(nn.Module):
    """Turn token batches of queries and products into embeddings that can be compared.

    Args:
        query_tower: Tower for queries.
        product_tower: Tower for products; None uses the query tower.

    Raises:
        ModelError: The towers' embeddings have different dimensions.
    """

    def __init__(self, query_tower: Tower, product_tower: Tower | None = None) -> None:
        super().__init__()
        self.query_tower = query_tower
        self.product_tower = query_tower if product_tower is None else product_tower
        check_dimensions_agree(self.query_tower.dim, self.product_tower.dim)

    @property
    def separate_sides(self) -> bool:
        """Whether queries and products have separate towers, and so separate batches."""
        return self.query_tower is not self.product_tower

    @property
    def towers(self) -> tuple[Tower, ...]:
        """The distinct towers: query tower and product tower, or the shared tower."""
        return (self.query_tower, self.product_tower) if self.separate_sides else (self.product_tower,)

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens with an embedding in each of the towers."""
        return min(tower.vocabulary_size for tower in self.towers)

    @property
    def backbones(self) -> tuple[nn.Module, ...]:
        """Backbones of the distinct towers."""
        return tuple(tower.backbone for tower in self.towers)

    @property
    def dim(self) -> int:
        """Number of components of an embedding."""
        return self.product_tower.dim

    def tower(self, side: Side) -> Tower:
        """Return the tower of a side."""
        return self.query_tower if side == "query" else self.product_tower

    def why_padded(self, compute_type: torch.dtype, *, max_length: int) -> str | None:
        """Return why a tower must read padded texts; None if all towers read packed texts.

        See `Tower.why_padded`.
        """
        reasons = (tower.why_padded(compute_type, max_length=max_length) for tower in self.towers)
        return next((reason for reason in reasons if reason is not None), None)

    def forward(self, batches: Sequence[TokenBatch]) -> torch.Tensor:
        """Return the embeddings of all texts of all batches, in order: (texts, dim) float32.

        Args:
            batches: Token batches; with separate towers, each batch has a single side.

        Raises:
            ValueError: The towers are separate, and a batch has no side.
        """
        if not self.separate_sides:
            shared: torch.Tensor = self.product_tower(batches)
            return shared
        embedded = []
        for batch in batches:
            if batch.side is None:
                raise ValueError("separate towers need batches of a single side; this batch has no side")
            embedded.append(self.tower(batch.side)([batch]))
        return torch.cat(embedded)


def check_dimensions_agree(query: int, product: int) -> None:
    """Refuse towers whose embeddings cannot be compared.

    Args:
        query: Dimension of the query tower's embeddings.
        product: Dimension of the product tower's embeddings.

    Raises:
        ModelError: The dimensions differ.
    """
    if query != product:
        raise ModelError(
            f"the query tower's embeddings have {query} components, and the product tower's have {product}; "
            "they must have the same number"
        )
