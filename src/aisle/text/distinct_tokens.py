"""Tokens of texts to embed: each distinct text is tokenised once, and embedded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aisle.errors import ModelError
from aisle.text.tokens import Side, TokenizedTexts, tokenize
from aisle.types.sequences import as_sequence


@dataclass(frozen=True)
class DistinctTokens:
    """Tokens of texts; each distinct text is tokenised once.

    Args:
        tokens: Tokens of the distinct texts.
        place: (texts,) index of each text among the distinct texts.
        side: Side of the texts, which selects the tower.
    """

    tokens: TokenizedTexts
    place: np.ndarray
    side: Side

    @property
    def marks(self) -> np.ndarray:
        """Mark of each text, if marks were requested: (texts,) uint8, see `types.text_marks`."""
        marks = self.tokens.marks
        return np.zeros(len(self.place), np.uint8) if marks is None else marks[self.place]

    @property
    def repeats(self) -> np.ndarray:
        """Number of texts that are equal to each distinct text: (distinct texts,) int64."""
        return np.bincount(self.place, minlength=len(self.tokens))

    def in_order(self, embeddings: np.ndarray) -> np.ndarray:
        """Return the embeddings of the texts, given those of the distinct texts."""
        if len(self.place) == len(embeddings):  # every text is distinct, and distinct texts keep their order
            return embeddings
        found: np.ndarray = embeddings[self.place]
        return found


@dataclass(frozen=True)
class DistinctTexts:
    """Texts, and the distinct ones among them.

    Args:
        texts: The distinct texts, in the order of their first occurrence.
        place: (texts,) index of each text among the distinct texts.
    """

    texts: Sequence[str]
    place: np.ndarray

    def tokenize(
        self, tokenizer: Any, *, prompt: str, side: Side, max_length: int, marked: bool = False
    ) -> DistinctTokens:
        """Return the tokens of the texts with their prompt, cut to `max_length`; see `tokens.tokenize`."""
        tokens = tokenize(tokenizer, self.texts, prompt=prompt, max_length=max_length, marked=marked)
        return DistinctTokens(tokens, self.place, side)

    def windows(self, size: int) -> Iterator[tuple[DistinctTexts, np.ndarray]]:
        """Yield at most `size` distinct texts at a time, and the numbers of the texts that equal them."""
        by_place = np.argsort(self.place, kind="stable")
        for start in range(0, len(self.texts), size):
            stop = start + size
            first, last = np.searchsorted(self.place, [start, stop], sorter=by_place)
            numbers = by_place[first:last]
            yield DistinctTexts(self.texts[start:stop], self.place[numbers] - start), numbers


def distinct_texts(texts: Iterable[str]) -> DistinctTexts:
    """Return texts with the distinct ones among them.

    Raises:
        ModelError: `texts` is a single text, or an entry is not a text or not Unicode.
    """
    texts = as_sequence(texts, "texts", ModelError)
    _check_texts(texts)
    places: dict[str, int] = {}
    place = np.fromiter((places.setdefault(text, len(places)) for text in texts), dtype=np.int64)
    return DistinctTexts(list(places), place)


def _check_texts(texts: Sequence[str]) -> None:
    """Refuse entries that are not texts."""
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ModelError(f"texts[{position}] must be a text; found {type(text).__name__} {text!r:.60}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ModelError(
                f"texts[{position}] must be Unicode; found a lone surrogate in {text!r:.60}: "
                "it was probably read in the wrong encoding"
            ) from None
