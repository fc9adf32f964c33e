"""Mark texts that were cut off, and texts without a known token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aisle.types.text_marks import CUT, UNKNOWN


def marks_of(
    tokenizer: Any,
    encodings: Sequence[Any] | None,
    texts: Sequence[str],
    *,
    lengths: np.ndarray,
    flat: np.ndarray,
    prompt: str,
    max_length: int,
) -> np.ndarray:
    """Return the mark of each text: (texts,) uint8.

    Only a few texts are tokenised a second time: texts that fill the maximum length, and texts with hardly
    any known token.

    Args:
        tokenizer: Tokenizer that made the tokens.
        encodings: Encoding of each text with its prompt by a Rust backend, cut to `max_length`; None without.
        texts: Texts without the prompt.
        lengths: (texts,) number of tokens in each text.
        flat: (tokens,) token ids of all texts, concatenated.
        prompt: Prompt before every text.
        max_length: Maximum length of a text in tokens.
    """
    marks = np.zeros(len(texts), np.uint8)
    for row in np.flatnonzero(lengths >= max_length).tolist():
        if encodings is not None:
            cut = bool(encodings[row].overflowing)
        else:
            cut = len(tokenizer(prompt + texts[row], verbose=False)["input_ids"]) > max_length
        marks[row] |= CUT * cut
    unknown = tokenizer.unk_token_id
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    unknowns = np.add.reduceat(flat == (-1 if unknown is None else unknown), starts, dtype=np.int64)
    around = len(tokenizer(prompt)["input_ids"])
    # Plus 1, because a space before an unknown token may be a token by itself.
    bare = (lengths - unknowns <= around + 1) & ((unknowns > 0) | (lengths <= around))
    for row in np.flatnonzero(bare).tolist():
        ids = tokenizer(texts[row], add_special_tokens=False, truncation=True, max_length=max_length)
        known = [token for token in ids["input_ids"] if token != unknown]
        marks[row] |= UNKNOWN * (not tokenizer.decode(known).strip())
    return marks
