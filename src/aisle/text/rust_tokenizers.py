"""Read token ids from a tokenizer's Rust backend, without transformers' lists and objects for each text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

METHODS = (
    "__call__",
    "_encode_plus",
    "_batch_encode_plus",
    "_convert_encoding",
    "set_truncation_and_padding",
)
"""Methods between a call of a tokenizer and its backend. A tokenizer that overrides one may do anything."""
MODULES = {f"transformers.tokenization_utils_{name}" for name in ("base", "tokenizers")}
"""Modules of transformers that define the methods."""


def encode(
    tokenizer: Any, texts: Sequence[str], *, max_length: int
) -> tuple[list[list[int]], Sequence[Any] | None]:
    """Return the token ids of texts, cut to `max_length`, and the backend's encoding of each text.

    The ids are those of `tokenizer(texts, truncation=True, max_length=max_length)`, which also makes lists of
    masks and types, and the place of every token in its text. The backend tokenises on all processors, but
    Python makes these lists on one: MiniLM's tokenizer took 12 microseconds there for a title of 25 tokens,
    and now takes 4.

    Truncation is state of the tokenizer, so threads must take turns.

    Returns:
        The token ids, and the encodings; None instead of the encodings for tokenizers without Rust.
    """
    backend = rust_backend(tokenizer) if len(texts) > 1 else None
    # This call also sets the backend's truncation, padding and special tokens.
    encoded = tokenizer(texts if backend is None else texts[:1], truncation=True, max_length=max_length)
    if backend is None:
        return encoded["input_ids"], getattr(encoded, "encodings", None)
    encodings = backend.encode_batch_fast(texts)
    return [encoding.ids for encoding in encodings], encodings


def rust_backend(tokenizer: Any) -> Any:
    """Return the backend if a tokenizer returns its tokens unchanged; None if it must be called itself."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "encode_batch_fast"):
        return None
    for name in METHODS:
        owner = next((kind for kind in type(tokenizer).__mro__ if name in vars(kind)), None)
        if owner is not None and owner.__module__ not in MODULES:
            return None
    return backend
