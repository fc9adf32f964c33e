"""Marks of texts that a user should look at, a byte each: cut off, or without a known token."""

from __future__ import annotations

import numpy as np

CUT, UNKNOWN = 1, 2
"""Bits of a mark. CUT: longer than the maximum length. UNKNOWN: the tokenizer knows no token of the text."""


def count_marks(marks: np.ndarray) -> dict[str, int]:
    """Count the texts that have each mark, under the names that the manifest uses.

    Args:
        marks: (texts,) uint8.
    """
    return {
        "truncated_texts": int(np.count_nonzero(marks & CUT)),
        "unknown_texts": int(np.count_nonzero(marks & UNKNOWN)),
    }
