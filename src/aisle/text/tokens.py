"""Texts as token ids, end to end in one array: no Python list per text, and ready to be memory-mapped."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from aisle.text.marking import marks_of

TEXTS_AT_A_TIME = 1_000
"""Tokenised at a time; a tokenizer's own objects take some hundred times a text's memory, and a query of
another thread waits for them."""
_TOKENIZING = threading.Lock()
"""A tokenizer keeps its truncation as a setting of its own: a call that changes it breaks those under way."""


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of texts, one text after the other.

    Args:
        ids: (tokens,) int32.
        offsets: (texts + 1,) int64, where each text begins; the last is the number of tokens.
        marks: (texts,) uint8, see `types.text_marks`; None where nobody asked for them.
    """

    ids: np.ndarray
    offsets: np.ndarray
    marks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> np.ndarray:
        found: np.ndarray = self.ids[self.offsets[text] : self.offsets[text + 1]]
        return found

    def lengths(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return how many tokens each text has, or each of some: (texts,) int64."""
        if rows is None:
            return np.diff(self.offsets)
        return np.asarray(self.offsets[rows + 1] - self.offsets[rows])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the ids of these texts, one after the other: (tokens of the rows,) int64."""
        lengths = self.lengths(rows)
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        within = np.arange(total) - np.repeat(ends - lengths, lengths)
        return np.asarray(self.ids[np.repeat(self.offsets[rows], lengths) + within], dtype=np.int64)


def tokenize(
    tokenizer: Any, texts: Sequence[str], *, prompt: str, max_length: int, marked: bool = False
) -> TokenizedTexts:
    """Return the token ids of each text with its prompt, special tokens included, cut to `max_length`.

    A text without any token, where the tokenizer adds none of its own, is one padding token: no model can
    read nothing. With `marked`, texts that were cut off or have no known token are marked.
    """
    parts = list(iter_tokenized(tokenizer, texts, prompt=prompt, max_length=max_length, marked=marked))
    if not parts:
        return TokenizedTexts(np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, np.uint8))
    lengths = np.concatenate([part.lengths() for part in parts])
    marks = [part.marks for part in parts if part.marks is not None]
    return TokenizedTexts(
        np.concatenate([part.ids for part in parts]),
        offsets_of(lengths),
        np.concatenate(marks) if marks else None,
    )


def iter_tokenized(
    tokenizer: Any, texts: Sequence[str], *, prompt: str, max_length: int, marked: bool = False
) -> Iterator[TokenizedTexts]:
    """Yield the tokenised texts in parts, as `tokenize` gives them whole."""
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        part = texts[start : start + TEXTS_AT_A_TIME]
        with _TOKENIZING:
            encoded = tokenizer([prompt + text for text in part], truncation=True, max_length=max_length)
        ids = [one or [tokenizer.pad_token_id] for one in encoded["input_ids"]]
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths.sum()))
        marks = None
        if marked:
            with _TOKENIZING:
                marks = marks_of(
                    tokenizer, encoded, part, lengths=lengths, flat=flat, prompt=prompt, max_length=max_length
                )
        yield TokenizedTexts(flat, offsets_of(lengths), marks)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return where each text begins, and the number of tokens in all: (texts + 1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
