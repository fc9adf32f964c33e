"""Marks of texts that a user should know of, a byte each: how many were cut off, how many say nothing."""

from __future__ import annotations

import numpy as np

CUT, UNKNOWN = 1, 2
"""Bits of a mark: longer than the maximum length; without any token that the tokenizer knows."""


def count_marks(marks: np.ndarray) -> dict[str, int]:
    """Return how many texts have each mark, by the names of the manifest.

    Args:
        marks: (texts,) uint8.
    """
    return {
        "truncated_texts": int(np.count_nonzero(marks & CUT)),
        "unknown_texts": int(np.count_nonzero(marks & UNKNOWN)),
    }
