"""Embeddings of texts, with the number of their tokens."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aisle.errors import ModelError
from aisle.index.query_adapter import QueryAdapter
from aisle.service.request_errors import RequestError
from aisle.text.tokens import Side
from aisle.types.encoder_protocol import Encoder
from aisle.types.text_marks import CUT

__all__ = ["EmbeddedTexts", "about_tokens", "embed_texts"]

BYTES_PER_TOKEN = 4
"""Bytes of UTF-8 in a token, about: 4 letters of a Latin script, or a character of Chinese."""
AROUND = 2
"""Tokens around a text, such as [CLS] and [SEP]."""


@dataclass(frozen=True)
class EmbedOptions:
    """How texts are embedded.

    Args:
        side: Whether they are queries or products.
        dimensions: Leading components to keep; None keeps all.
        truncate: Whether a text beyond the maximum length is cut; otherwise it is an error.
    """

    side: Side
    dimensions: int | None = None
    truncate: bool = True


@dataclass(frozen=True, eq=False)
class EmbeddedTexts:
    """Embeddings of texts.

    Args:
        embeddings: (texts, dim) float32, unit L2 norm.
        lengths: (texts,) number of tokens in each text, with the prompt.
        model: Name of the model.
    """

    embeddings: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int64]
    model: str

    @property
    def tokens(self) -> int:
        """Number of tokens in all texts."""
        return int(self.lengths.sum())

    def part(self, start: int, end: int) -> EmbeddedTexts:
        """Return the embeddings of some of the texts."""
        return EmbeddedTexts(self.embeddings[start:end], self.lengths[start:end], self.model)

    def as_base64(self) -> list[str]:
        """Return each embedding as base64 of little-endian float32."""
        return [base64.b64encode(row.astype("<f4").tobytes()).decode("ascii") for row in self.embeddings]


def about_tokens(texts: Sequence[str], *, max_length: int | None) -> int:
    """Return about how many tokens texts have, without a tokenizer, to limit the size of a batch.

    Args:
        texts: The texts.
        max_length: Most tokens of a text; None if there is no limit.
    """
    counts = [len(text.encode()) // BYTES_PER_TOKEN + AROUND for text in texts]
    return sum(counts if max_length is None else [min(count, max_length) for count in counts])


def embed_texts(
    encoder: Encoder,
    texts: Sequence[str],
    options: EmbedOptions,
    *,
    model: str,
    adapter: QueryAdapter | None = None,
) -> EmbeddedTexts:
    """Return the embeddings of texts and the number of their tokens.

    Args:
        encoder: An encoder of aisle's, which can count tokens.
        texts: The texts.
        options: How they are embedded.
        model: Name of the model.
        adapter: Query adapter of the index; queries are adapted before components are cut off.

    Raises:
        RequestError: The encoder has fewer components, or a text is too long and must not be cut.
        ModelError: A text is not valid Unicode.
    """
    served: Any = encoder
    try:
        served = served.truncated(options.dimensions)
    except ModelError as error:
        raise RequestError("invalid_request", str(error).removeprefix("--"), field="dimensions") from None
    adapted = adapter is not None and options.side == "query"
    if adapted:
        served = encoder
    settings = served.settings
    prompt = settings.query_prompt if options.side == "query" else settings.product_prompt
    tokens = served.tokenize(texts, prompt=prompt, side=options.side, marked=not options.truncate)
    if not options.truncate:
        long = np.flatnonzero(tokens.marks & CUT)
        if len(long):
            raise RequestError(
                "invalid_request",
                f"text {long[0]}: has more than {settings.max_length} tokens; shorten it, or leave truncate "
                "out",
                field="truncate",
            )
    found: list[npt.NDArray[np.float32]] = []
    served.encode_parts([tokens], found.append)
    embeddings = found[0] if adapter is None or not adapted else _adapted(found[0], adapter, options)
    return EmbeddedTexts(embeddings, tokens.tokens.lengths()[tokens.place], model)


def _adapted(
    embeddings: npt.NDArray[np.float32], adapter: QueryAdapter, options: EmbedOptions
) -> npt.NDArray[np.float32]:
    """Return adapted queries, (queries, dimensions) float32, unit L2 norm."""
    kept = adapter.apply(embeddings)[:, : options.dimensions]
    scaled: npt.NDArray[np.float32] = kept / np.linalg.norm(kept, axis=1, keepdims=True)
    return scaled
