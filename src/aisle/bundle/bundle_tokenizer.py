"""A bundle's `tokenizer.json`, read by the `tokenizers` library, for `text.tokens.tokenize`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aisle.bundle.bundle_record import BundledTokenizer
from aisle.errors import ModelError
from aisle.text.tokens import TokenizedTexts, offsets_of

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

__all__ = ["BundleTokenizer", "load_tokenizer_file"]


class Tokens(dict[str, Any]):
    """Token ids under `input_ids`, as transformers returns them, with the encodings that they come from."""

    def __init__(self, ids: Any, encodings: Sequence[Encoding]) -> None:
        super().__init__(input_ids=ids)
        self.encodings = encodings


class BundleTokenizer:
    """Tokenizer that cuts texts to a maximum length, which never changes: threads need no turns.

    It is called as transformers' tokenizers are, and gives the same tokens.

    Args:
        backend: Tokenizer of the file.
        record: Settings that the file leaves out.
        max_length: Maximum length of a text in tokens.
    """

    def __init__(self, backend: Tokenizer, record: BundledTokenizer, *, max_length: int) -> None:
        backend.no_padding()
        backend.enable_truncation(max_length, direction=record.truncation_side)
        self._backend = backend
        self.pad_token_id = record.pad_token_id
        self.unk_token_id = record.unk_token_id

    def __call__(
        self, texts: str | Sequence[str], *, add_special_tokens: bool = True, **_options: object
    ) -> Tokens:
        """Return the token ids of a text, or of each text of a list, cut to the maximum length."""
        if isinstance(texts, str):
            encoding = self._backend.encode(texts, add_special_tokens=add_special_tokens)
            return Tokens(encoding.ids, [encoding])
        if len(texts) == 1:  # without the threads of a batch
            encodings = [self._backend.encode(texts[0], add_special_tokens=add_special_tokens)]
        else:
            encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)
        return Tokens([encoding.ids for encoding in encodings], encodings)

    def pairs(self, pairs: Sequence[tuple[str, str]], *, typed: bool) -> TokenizedTexts:
        """Return the tokens of joined pairs, cut as `PairTokenizer` cuts them.

        Args:
            pairs: Pairs of texts.
            typed: Whether to return token types.
        """
        encodings = self._backend.encode_batch_fast([tuple(pair) for pair in pairs])
        ids = [one.ids or [self.pad_token_id] for one in encodings]
        types = [one.type_ids or [0] for one in encodings]
        return TokenizedTexts(
            np.fromiter(chain.from_iterable(ids), np.int32),
            offsets_of(np.fromiter(map(len, ids), np.int64)),
            types=np.fromiter(chain.from_iterable(types), np.uint8) if typed else None,
        )

    def pair_lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Return the number of tokens of each pair before it is cut."""
        return [len(one.ids) for one in self._uncut.encode_batch_fast([tuple(pair) for pair in pairs])]

    @cached_property
    def _uncut(self) -> Tokenizer:
        """A second tokenizer, because switching off truncation would affect other threads."""
        uncut = type(self._backend).from_str(self._backend.to_str())
        uncut.no_truncation()
        return uncut

    @property
    def vocabulary_size(self) -> int:
        """Number of tokens."""
        return int(self._backend.get_vocab_size())

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, with special tokens."""
        return self._backend.decode(list(ids), skip_special_tokens=False)


def load_tokenizer_file(path: Path, record: BundledTokenizer, *, max_length: int) -> BundleTokenizer:
    """Load a `tokenizer.json`.

    Raises:
        ModelError: The file cannot be read, or this version of `tokenizers` does not know its format.
    """
    from tokenizers import Tokenizer

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read: {error}; export the run again") from None
    try:
        backend = Tokenizer.from_str(text)
    except Exception as error:  # the library raises no narrower class
        raise ModelError(
            f"{path}: is not a tokenizer of the installed version of tokenizers: {error!s:.200}; "
            "upgrade tokenizers, or export the run again"
        ) from None
    return BundleTokenizer(backend, record, max_length=max_length)
