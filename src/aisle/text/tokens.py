"""Token ids of texts, concatenated in a single array, which can be memory-mapped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np

from aisle.text.marking import marks_of
from aisle.text.rust_tokenizers import encode

Side = Literal["query", "product"]
"""Side of a text in a pair."""
SIDES: tuple[Side, ...] = ("query", "product")
QUERY, PRODUCT = 1, 2
"""Bits for a text's side; a text that is both a query and a product has both bits."""
TEXTS_AT_A_TIME = 1_000
"""Number of texts to tokenise at a time. The tokenizer's objects take about a hundred times the memory of the
texts, and queries in other threads wait until the call ends."""
TOKENIZING = threading.Lock()
"""Lock for calls of tokenizers: truncation is state of the tokenizer, so concurrent calls would conflict."""


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of texts, concatenated.

    Args:
        ids: (tokens,) int32.
        offsets: (texts + 1,) int64, start of each text, then the number of tokens.
        marks: (texts,) uint8, see `types.text_marks`; None if they were not requested.
        sides: (texts,) uint8, the bits `QUERY` and `PRODUCT`; None if the texts have no side.
        vectors: Function from text numbers to a frozen encoder's vectors, (rows, dim) float32, which batches
            have in place of tokens; None without.
        types: (tokens,) uint8, type of each token: 0 in the first text of a joined pair, 1 in the second;
            None if the texts are single, or the model reads no types.
    """

    ids: np.ndarray
    offsets: np.ndarray
    marks: np.ndarray | None = None
    sides: np.ndarray | None = None
    vectors: Callable[[np.ndarray], np.ndarray] | None = None
    types: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, text: int) -> np.ndarray:
        found: np.ndarray = self.ids[self.offsets[text] : self.offsets[text + 1]]
        return found

    def lengths(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the number of tokens in each text, of all texts or of some rows: (texts,) int64."""
        if rows is None:
            return np.diff(self.offsets)
        return np.asarray(self.offsets[rows + 1] - self.offsets[rows])

    def sides_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the side bits of some texts: (rows,) uint8.

        Raises:
            ValueError: The texts have no sides.
        """
        if self.sides is None:
            raise ValueError("separate towers need texts with sides; these texts have no sides")
        return np.asarray(self.sides[rows])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the token ids of some texts, concatenated: (tokens of the rows,) int64."""
        return np.asarray(self.ids[self._places(rows)], dtype=np.int64)

    def take_types(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the token types of some texts, concatenated: (tokens of the rows,) int64; None without."""
        return None if self.types is None else np.asarray(self.types[self._places(rows)], dtype=np.int64)

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Return the place of each token of some texts, in `ids`."""
        lengths = self.lengths(rows)
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        within = np.arange(total) - np.repeat(ends - lengths, lengths)
        return np.asarray(np.repeat(self.offsets[rows], lengths) + within)


def tokenize(
    tokenizer: Any, texts: Sequence[str], *, prompt: str, max_length: int, marked: bool = False
) -> TokenizedTexts:
    """Tokenise texts with their prompt and special tokens, cut to `max_length`.

    A model cannot read an empty text. So a text without any token becomes a single padding token, if the
    tokenizer adds no special tokens. With `marked`, texts that are cut off or have no known token are marked.
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
    """Yield the result of `tokenize` in parts of `TEXTS_AT_A_TIME` texts."""
    for start in range(0, len(texts), TEXTS_AT_A_TIME):
        part = texts[start : start + TEXTS_AT_A_TIME]
        with TOKENIZING:
            found, encodings = encode(tokenizer, [prompt + text for text in part], max_length=max_length)
        ids = [one or [tokenizer.pad_token_id] for one in found]
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths.sum()))
        marks = None
        if marked:
            with TOKENIZING:
                marks = marks_of(
                    tokenizer,
                    encodings,
                    part,
                    lengths=lengths,
                    flat=flat,
                    prompt=prompt,
                    max_length=max_length,
                )
        yield TokenizedTexts(flat, offsets_of(lengths), marks)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return the start of each text, then the total number of tokens: (texts + 1,) int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
