"""Towers of a run, as its `aisle.json` records them, and how each makes an embedding."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["pooling_sentence", "towers_of"]

_POOLING_NAMES = {"mean": "the mean of all tokens", "cls": "the first token", "last": "the last token"}


def towers_of(encoder: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the records of the towers in aisle.json."""
    towers = encoder.get("towers")
    return list(towers) if isinstance(towers, list) else []


def pooling_sentence(encoder: Mapping[str, object]) -> str:
    """Return how an embedding is made of token vectors, for each side if the towers differ in it."""
    # Runs of two towers that were saved before have no pooling of each tower.
    towers = [tower for tower in towers_of(encoder) if "pooling" in tower]
    pooled = [_pooled(tower) for tower in towers] if len(towers) > 1 else [_pooled(encoder)]
    if len(set(pooled)) == 1:
        return f"An embedding is {pooled[0]}"
    query, product = pooled
    return f"An embedding of a query is {query}, and of a product {product}"


def _pooled(tower: Mapping[str, object]) -> str:
    head = ", passed through a head of Dense layers" if tower.get("heads") else ""
    return _POOLING_NAMES[str(tower["pooling"])] + head
