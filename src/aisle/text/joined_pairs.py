"""Tokens of pairs of texts that a model reads together, such as a query and a product in a cross-encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from aisle.text.rust_tokenizers import rust_backend
from aisle.text.tokens import TEXTS_AT_A_TIME, TOKENIZING, TokenizedTexts, offsets_of
from aisle.types.text_marks import CUT

TRUNCATION = "longest_first"
"""Rule for pairs beyond the maximum length, in transformers' name: the longer text loses its last token,
until the pair fits. sentence-transformers' CrossEncoder has the same rule."""


@dataclass(frozen=True)
class PairTokenizer:
    """Tokenizer of joined pairs: both texts in a sequence, with the model's special tokens.

    Args:
        tokenizer: Tokenizer of the model.
        max_length: Maximum length of a pair in tokens, including special tokens.
        typed: Whether the model reads token types, as BERT does; they are then as the tokenizer gives them.
    """

    tokenizer: Any
    max_length: int
    typed: bool

    def tokenize(self, pairs: Sequence[tuple[str, str]]) -> TokenizedTexts:
        """Return the tokens of pairs, with the mark `CUT` on each pair that is longer than `max_length`."""
        parts = list(self._parts(pairs))
        if not parts:
            none = np.empty(0, np.uint8)
            return TokenizedTexts(
                np.empty(0, np.int32), np.zeros(1, np.int64), none, types=none if self.typed else None
            )
        types = [part.types for part in parts if part.types is not None]
        return TokenizedTexts(
            np.concatenate([part.ids for part in parts]),
            offsets_of(np.concatenate([part.lengths() for part in parts])),
            np.concatenate([part.marks for part in parts if part.marks is not None]),
            types=np.concatenate(types) if types else None,
        )

    def lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return the number of tokens of each pair before it is cut."""
        found: list[int] = []
        for start in range(0, len(pairs), TEXTS_AT_A_TIME):
            first, second = _sides(pairs[start : start + TEXTS_AT_A_TIME])
            with TOKENIZING:
                encoded = self.tokenizer(first, second, truncation=False, verbose=False)
            found += map(len, encoded["input_ids"])
        return found

    def _parts(self, pairs: Sequence[tuple[str, str]]) -> Iterator[TokenizedTexts]:
        """Yield the result of `tokenize` in parts of `TEXTS_AT_A_TIME` pairs."""
        for start in range(0, len(pairs), TEXTS_AT_A_TIME):
            with TOKENIZING:
                found, types, cut = self._encode(pairs[start : start + TEXTS_AT_A_TIME])
            ids = [one or [self.tokenizer.pad_token_id] for one in found]
            types = [one or [0] for one in types]
            lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
            total = int(lengths.sum())
            yield TokenizedTexts(
                np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=total),
                offsets_of(lengths),
                CUT * np.array(cut, dtype=np.uint8),
                types=np.fromiter(chain.from_iterable(types), dtype=np.uint8, count=total)
                if self.typed
                else None,
            )

    def _encode(
        self, pairs: Sequence[tuple[str, str]]
    ) -> tuple[list[list[int]], list[list[int]], list[bool]]:
        """Return the token ids and the token types of pairs, and whether each pair was cut.

        A model cannot read an empty sequence. So a pair without any token becomes a padding token, if the
        tokenizer adds no special tokens.
        """
        backend = rust_backend(self.tokenizer)
        # This call also sets the backend's truncation, padding and special tokens.
        first, second = _sides(pairs if backend is None else pairs[:1])
        encoded = self.tokenizer(
            first,
            second,
            truncation=TRUNCATION,
            max_length=self.max_length,
            return_token_type_ids=self.typed,
            verbose=False,
        )
        if backend is None:
            types = encoded["token_type_ids"] if self.typed else []
            whole = self.tokenizer(first, second, truncation=False, verbose=False)["input_ids"]
            return encoded["input_ids"], types, [len(one) > self.max_length for one in whole]
        encodings = backend.encode_batch_fast([tuple(pair) for pair in pairs])
        return (
            [one.ids for one in encodings],
            [one.type_ids for one in encodings] if self.typed else [],
            [bool(one.overflowing) for one in encodings],
        )


def _sides(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return the first texts of pairs, and their second texts."""
    return [first for first, _ in pairs], [second for _, second in pairs]
