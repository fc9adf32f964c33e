"""Tokenizers by side: with one tower both sides share a tokenizer, separate towers may have their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aisle.text.tokens import TokenizedTexts, offsets_of, tokenize


@dataclass(frozen=True)
class SideTokenizer:
    """How the texts of one side become tokens.

    Args:
        tokenizer: The tower's tokenizer.
        prompt: Prompt before every text.
        max_length: Longest text in tokens, prompt and special tokens included.
    """

    tokenizer: Any
    prompt: str
    max_length: int

    def prompted(self, texts: Sequence[str]) -> list[str]:
        """Return the texts with their prompt."""
        return [self.prompt + text for text in texts]

    def tokenize_prompted(self, texts: Sequence[str]) -> TokenizedTexts:
        """Return the tokens and marks of texts that already have their prompt."""
        return tokenize(self.tokenizer, texts, prompt="", max_length=self.max_length, marked=True)


@dataclass(frozen=True)
class SideTokenizers:
    """How queries and products become tokens.

    Args:
        query: Tokenizer of queries.
        product: Tokenizer of products.
        separate: Whether separate towers read the sides; otherwise a text on both sides counts once.
    """

    query: SideTokenizer
    product: SideTokenizer
    separate: bool = False


def joined(parts: Sequence[TokenizedTexts]) -> TokenizedTexts:
    """Return tokenised texts one part after the other; all parts have marks, or none."""
    marks = [part.marks for part in parts if part.marks is not None]
    return TokenizedTexts(
        np.concatenate([part.ids for part in parts]),
        offsets_of(np.concatenate([part.lengths() for part in parts])),
        np.concatenate(marks) if marks else None,
    )
