"""Checks on labels that several losses share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def equal_relevance(relevance: np.ndarray) -> str | None:
    """Return the reason why a loss that ranks by relevance cannot learn from labels, or None."""
    if relevance.min() == relevance.max():
        return f"ranks pairs by their relevance, but every training pair has relevance {relevance.max():g}"
    return None
