"""Encoder that runs on torch: a bi-encoder with its tokenizer, prompts and maximum length."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.bi_encoder import BiEncoder
from aisle.models.device_queue import DeviceQueue
from aisle.models.tower import autocast
from aisle.models.tower_copies import TowerCopies
from aisle.system.prefetch import prefetched
from aisle.text.batch_layout import device_layout
from aisle.text.distinct_tokens import DistinctTexts, DistinctTokens, distinct_texts
from aisle.text.tokens import SIDES, Side
from aisle.types.encoder_protocol import Precision, int8_needs_bundle
from aisle.types.encoder_settings import EncoderSettings, check_dimensions

TEXTS_AT_A_TIME = 2048
"""Texts to tokenise at a time while a GPU embeds those before: about as many as it computes at a time."""


@dataclass(frozen=True)
class TorchEncoder:
    """Turn queries and products into embeddings with torch; any number of threads may share it.

    Args:
        model: Query tower and product tower, on their device.
        tokenizer: Tokenizer of the product tower.
        settings: Pooling and maximum length of the product tower; prompts of both sides.
        fingerprint: Hash of everything that determines a product's embedding; None before it was saved.
        query_fingerprint: Hash of everything that determines a query's embedding; the same with one tower.
        name: Name of the model in messages.
        revision: Commit of the Hub repository that it was loaded from; None for other models.
        dimensions: Number of leading components of an embedding to keep; None keeps all.
        note: Assumption about the model that its files leave open, to print; None without.
        query_tokenizer: Tokenizer of the query tower; None if it is the product tower's.
        query_max_length: Maximum length of a query in tokens; None if it is that of a product.

    Attributes:
        copies: Towers in each number type, and why a GPU computes in a slower way.
    """

    model: BiEncoder
    tokenizer: Any
    settings: EncoderSettings
    fingerprint: str | None
    query_fingerprint: str | None
    name: str
    revision: str | None = None
    dimensions: int | None = None
    note: str | None = None
    query_tokenizer: Any = None
    query_max_length: int | None = None
    copies: TowerCopies = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lengths = {side: self.max_length_of(side) for side in SIDES}
        copies = TowerCopies(self.model, max_lengths=lengths)
        object.__setattr__(self, "copies", copies)

    def __repr__(self) -> str:
        settings, fingerprint = self.settings, (self.fingerprint or "none yet")[:12]
        if self.model.separate_sides:
            fingerprint += f", query tower {(self.query_fingerprint or 'none yet')[:12]}"
        prompts = (
            f"query_prompt {settings.query_prompt[:30]!r}, product_prompt {settings.product_prompt[:30]!r}"
        )
        return (
            f"TorchEncoder({self.name[-60:]}, {self.dim} dim, {settings.pooling} pooling, "
            f"max_length {settings.max_length},\n  {prompts},\n"
            f"  on {self.device}, fingerprint {fingerprint})"
        )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.model.parameters()).device

    @property
    def dim(self) -> int:
        """Number of components of an embedding."""
        return self.dimensions or self.model.dim

    def tokenizer_of(self, side: Side) -> Any:
        """Return the tokenizer of a side."""
        return self.tokenizer if side == "product" or self.query_tokenizer is None else self.query_tokenizer

    def max_length_of(self, side: Side) -> int:
        """Return the maximum length of a text of a side, in tokens."""
        if side == "product" or self.query_max_length is None:
            return self.settings.max_length
        return self.query_max_length

    def encode_queries(self, queries: Iterable[str], **options: Any) -> np.ndarray:
        """Return the embeddings of queries; see `encode_texts` for the options.

        Returns:
            (queries, dim) float32, unit L2 norm.
        """
        return self.encode_texts(queries, prompt=self.settings.query_prompt, side="query", **options)

    def encode_products(self, products: Iterable[str], **options: Any) -> np.ndarray:
        """Return the embeddings of products; see `encode_texts` for the options.

        Returns:
            (products, dim) float32, unit L2 norm.
        """
        return self.encode_texts(products, prompt=self.settings.product_prompt, side="product", **options)

    def encode_texts(
        self,
        texts: Iterable[str],
        *,
        prompt: str,
        side: Side = "product",
        max_tokens: int | None = None,
        precision: Precision = "fp32",
        on_progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return the embeddings of texts, in the order given; a text that occurs twice is encoded once.

        Args:
            texts: Any iterable of texts; texts beyond the maximum length are cut off.
            prompt: Prompt before every text.
            side: Side of the texts, which selects the tower; with one tower it makes no difference.
            max_tokens: Most padded tokens to encode at a time.
            precision: Compute type, fp32 or bf16; embeddings are always float32.
            on_progress: Function called with the number of texts that were encoded since the last call.

        Returns:
            (texts, dim) float32, unit L2 norm.

        Raises:
            ModelError: `texts` is a single text, an entry is not a text or not Unicode, the precision is
                int8, which needs a bundle, or the model is in training mode.
        """
        options: dict[str, Any] = {
            "max_tokens": max_tokens,
            "precision": precision,
            "on_progress": on_progress,
        }
        distinct = distinct_texts(texts)
        size = self.texts_at_a_time
        if size is None or len(distinct.texts) <= size:
            return self.encode_tokens(self._tokenize(distinct, prompt, side), **options)
        embeddings = np.empty((len(distinct.place), self.dim), dtype=np.float32)
        numbers: deque[np.ndarray] = deque()

        def tokenize_window(window: tuple[DistinctTexts, np.ndarray]) -> DistinctTokens:
            numbers.append(window[1])
            return self._tokenize(window[0], prompt, side)

        def take(found: np.ndarray) -> None:
            embeddings[numbers.popleft()] = found

        with closing(prefetched(distinct.windows(size), tokenize_window)) as windows:
            self.encode_parts((tokens for _, tokens in windows), take, **options)
        return embeddings

    @property
    def texts_at_a_time(self) -> int | None:
        """Number of texts to tokenise while the device embeds those before; None if it computes on a CPU.

        There the tokenizer and the model share processors, and a batch has less padding the more texts there
        are to sort by length.
        """
        return TEXTS_AT_A_TIME if self.device.type == "cuda" else None

    def tokenize(
        self, texts: Iterable[str], *, prompt: str, side: Side = "product", marked: bool = False
    ) -> DistinctTokens:
        """Tokenise texts, each distinct text once; safe while another thread encodes.

        Raises:
            ModelError: `texts` is a single text, or an entry is not a text or not Unicode.
        """
        return self._tokenize(distinct_texts(texts), prompt, side, marked=marked)

    def tokenize_products(self, products: Iterable[str], *, marked: bool = False) -> DistinctTokens:
        """Tokenise products with the products' prompt; see `tokenize`."""
        return self.tokenize(products, prompt=self.settings.product_prompt, marked=marked)

    def _tokenize(
        self, distinct: DistinctTexts, prompt: str, side: Side, *, marked: bool = False
    ) -> DistinctTokens:
        return distinct.tokenize(
            self.tokenizer_of(side),
            prompt=prompt,
            side=side,
            max_length=self.max_length_of(side),
            marked=marked,
        )

    def encode_tokens(
        self,
        texts: DistinctTokens,
        *,
        max_tokens: int | None = None,
        precision: Precision = "fp32",
        on_progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return the embeddings of tokenised texts; see `encode_texts` for the options.

        Returns:
            (texts, dim) float32, unit L2 norm.
        """
        found: list[np.ndarray] = []
        self.encode_parts(
            [texts], found.append, max_tokens=max_tokens, precision=precision, on_progress=on_progress
        )
        return found[0]

    def encode_parts(
        self,
        parts: Iterable[DistinctTokens],
        take: Callable[[np.ndarray], None],
        *,
        max_tokens: int | None = None,
        precision: Precision = "fp32",
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Embed parts of tokenised texts, and pass the embeddings of each part to `take`, in order.

        A GPU computes the last batches of a part while the host prepares the next part.

        Args:
            parts: Tokenised texts; the next part is drawn before the embeddings of the last are complete.
            take: Function called with the embeddings of each part, (texts, dim) float32, unit L2 norm.
            max_tokens: Most padded tokens to encode at a time.
            precision: Compute type; see `encode_texts`.
            on_progress: Function called with the number of texts that were encoded since the last call.
        """
        if precision == "int8":
            raise ModelError(int8_needs_bundle(self.name, flag="precision"))
        if self.model.training:
            # Switching to evaluation mode here would affect threads that train the model.
            raise ModelError(f"{self.name}: is in training mode, with dropout; call model.eval() first")
        queue = DeviceQueue(self.device)
        for texts in parts:
            self._add_to(queue, texts, take, max_tokens, precision, on_progress)
        queue.drain()

    def _add_to(
        self,
        queue: DeviceQueue,
        texts: DistinctTokens,
        take: Callable[[np.ndarray], None],
        max_tokens: int | None,
        precision: Precision,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        """Start to embed texts; the queue passes their embeddings on once they are complete."""
        tokens, side, device = texts.tokens, texts.side, self.device
        lengths, repeats = tokens.lengths(), texts.repeats
        embeddings = np.empty((len(lengths), self.dim), dtype=np.float32)
        layout = device_layout(
            device,
            # A single text, such as a query, has no padding, so packing would save nothing.
            packed=len(lengths) > 1 and self.copies.why_padded(side, precision) is None,
            pad_token_id=self.tokenizer_of(side).pad_token_id,
            max_tokens=max_tokens,
        )
        batches = layout.rows(lengths)

        def store(rows: np.ndarray, last: bool, found: np.ndarray) -> None:
            embeddings[rows] = found
            if on_progress is not None:
                on_progress(int(repeats[rows].sum()))
            if last:
                take(texts.in_order(embeddings))

        if not batches:
            queue.drain()
            take(embeddings)
        tower = self.copies.tower(side, precision)
        with torch.inference_mode(), autocast(device, precision):
            for number, rows in enumerate(batches, start=1):
                batch = layout.batch(tokens, rows).to(device)
                with self.copies.turn(side):
                    found = tower([batch]).float()
                queue.add(self._cut(found), partial(store, rows, number == len(batches)))

    def truncated(self, dimensions: int | None) -> TorchEncoder:
        """Return an encoder that keeps the first `dimensions` components, rescaled to unit norm.

        This is for encoders trained for it (Matryoshka, https://arxiv.org/abs/2205.13147); others lose much
        quality.

        Raises:
            ModelError: The encoder has fewer components, or its embeddings are not unit vectors.
        """
        if dimensions is None:
            return self
        check_dimensions(dimensions, self.dim, self.settings, name=self.name)
        return replace(self, dimensions=dimensions)

    def _cut(self, embeddings: torch.Tensor) -> torch.Tensor:
        if self.dimensions is None:
            return embeddings
        return nn.functional.normalize(embeddings[:, : self.dimensions], dim=1)
