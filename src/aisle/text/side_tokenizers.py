"""Tokenizers of the two sides: a shared tower has one tokenizer, separate towers may have two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aisle.text.tokens import TokenizedTexts, offsets_of, tokenize


@dataclass(frozen=True)
class SideTokenizer:
    """Tokenizer of a side, with its prompt and maximum length.

    Args:
        tokenizer: Tokenizer of the tower.
        prompt: Prompt before every text.
        max_length: Maximum length of a text in tokens, including prompt and special tokens.
    """

    tokenizer: Any
    prompt: str
    max_length: int

    def prompted(self, texts: Sequence[str]) -> list[str]:
        """Return the texts with the prompt before each."""
        return [self.prompt + text for text in texts]

    def tokenize_prompted(self, texts: Sequence[str]) -> TokenizedTexts:
        """Return the tokens and marks of texts that already have their prompt."""
        return tokenize(self.tokenizer, texts, prompt="", max_length=self.max_length, marked=True)


@dataclass(frozen=True)
class SideTokenizers:
    """Tokenizers of queries and products.

    Args:
        query: Tokenizer of queries.
        product: Tokenizer of products.
        separate: Whether the sides have separate towers; otherwise a text on both sides counts once.
    """

    query: SideTokenizer
    product: SideTokenizer
    separate: bool = False


def joined(parts: Sequence[TokenizedTexts]) -> TokenizedTexts:
    """Concatenate parts of tokenised texts; either all parts have marks, or no part has."""
    marks = [part.marks for part in parts if part.marks is not None]
    return TokenizedTexts(
        np.concatenate([part.ids for part in parts]),
        offsets_of(np.concatenate([part.lengths() for part in parts])),
        np.concatenate(marks) if marks else None,
    )
