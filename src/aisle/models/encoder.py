"""Encoder that runs on torch: a bi-encoder with its tokenizer, prompts and maximum length."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.bi_encoder import BiEncoder
from aisle.models.int8_tower import int8_tower
from aisle.models.tower import Tower, autocast
from aisle.text.batch_layout import device_layout
from aisle.text.tokens import Side, TokenizedTexts, tokenize
from aisle.types.choices import PoolingMode
from aisle.types.encoder_protocol import Precision
from aisle.types.sequences import as_sequence

Made = TypeVar("Made")

INT8_TOKENS = 4096
"""Padded tokens at a time in int8: a tenth faster than 1,024, with larger products; 8,192 is slower."""


@dataclass(frozen=True)
class EncoderSettings:
    """Settings that determine an embedding, in addition to the weights.

    Args:
        pooling: Pooling of a text's token vectors into one vector.
        query_prompt: Prompt before every query.
        product_prompt: Prompt before every product.
        max_length: Maximum length of a text in tokens, including prompt and special tokens.
        normalize: Whether embeddings have unit L2 norm.
    """

    pooling: PoolingMode
    query_prompt: str
    product_prompt: str
    max_length: int
    normalize: bool = True


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


@dataclass(frozen=True)
class TorchEncoder:
    """Turn queries and products into embeddings with torch; any number of threads may share it.

    Args:
        model: Query tower and product tower, on their device.
        tokenizer: Tokenizer of the towers.
        settings: Pooling, prompts, maximum length.
        fingerprint: Hash of everything that determines a product's embedding; None before it was saved.
        query_fingerprint: Hash of everything that determines a query's embedding; the same with one tower.
        name: Name of the model in messages.
        revision: Commit of the Hub repository that it was loaded from; None for other models.
        dimensions: Number of leading components of an embedding to keep; None keeps all.
        note: Assumption about the model that its files leave open, to print; None without.
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
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        settings, fingerprint = self.settings, (self.fingerprint or "none yet")[:12]
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
            precision: Compute type; embeddings are always float32. int8 is for CPUs; its copy of the model
                is made on first use, from the weights at that time.
            on_progress: Function called with the number of texts that were encoded since the last call.

        Returns:
            (texts, dim) float32, unit L2 norm.

        Raises:
            ModelError: `texts` is a single text, an entry is not a text or not Unicode, the device does not
                compute in int8, or the model is in training mode.
        """
        return self.encode_tokens(
            self.tokenize(texts, prompt=prompt, side=side),
            max_tokens=max_tokens,
            precision=precision,
            on_progress=on_progress,
        )

    def tokenize(
        self, texts: Iterable[str], *, prompt: str, side: Side = "product", marked: bool = False
    ) -> DistinctTokens:
        """Tokenise texts, each distinct text once; safe while another thread encodes.

        Raises:
            ModelError: `texts` is a single text, or an entry is not a text or not Unicode.
        """
        texts = as_sequence(texts, "texts", ModelError)
        _check_texts(texts)
        places: dict[str, int] = {}
        place = np.fromiter((places.setdefault(text, len(places)) for text in texts), dtype=np.int64)
        options: dict[str, Any] = {"max_length": self.settings.max_length, "marked": marked}
        tokens = tokenize(self.tokenizer, list(places), prompt=prompt, **options)
        return DistinctTokens(tokens, place, side)

    def tokenize_products(self, products: Iterable[str], *, marked: bool = False) -> DistinctTokens:
        """Tokenise products with the products' prompt; see `tokenize`."""
        return self.tokenize(products, prompt=self.settings.product_prompt, marked=marked)

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
        if self.model.training:
            # Switching to evaluation mode here would affect threads that train the model.
            raise ModelError(f"{self.name}: is in training mode, with dropout; call model.eval() first")
        tokens, place, side = texts.tokens, texts.place, texts.side
        distinct = len(tokens.lengths())
        repeats = np.bincount(place, minlength=distinct)
        embeddings = np.empty((distinct, self.dim), dtype=np.float32)
        device = self.device
        layout = device_layout(
            device,
            # A single text, such as a query, has no padding, so packing would save nothing.
            packed=distinct > 1 and self.why_padded(side, precision) is None,
            pad_token_id=self.tokenizer.pad_token_id,
            max_tokens=max_tokens or (INT8_TOKENS if precision == "int8" else None),
        )
        tower = self._int8_tower(side) if precision == "int8" else self.model.tower(side)
        with torch.inference_mode(), autocast(device, precision):
            for rows in layout.rows(tokens.lengths()):
                batch = layout.batch(tokens, rows).to(device)
                with self._turn(side):
                    found = tower([batch]).float()
                embeddings[rows] = self._cut(found).cpu().numpy()
                if on_progress is not None:
                    on_progress(int(repeats[rows].sum()))
        in_order: np.ndarray = embeddings[place]
        return in_order

    def why_padded(self, side: Side, precision: Precision) -> str | None:
        """Return why texts of a side are padded; None if they are packed. Each compute type is tried once."""
        compute_type = torch.bfloat16 if precision == "bf16" else torch.float32

        def check() -> str | None:
            with self._turn(side):
                return self.model.tower(side).why_padded(compute_type, max_length=self.settings.max_length)

        return self._once(f"why padded {self._tower_name(side)} {compute_type}", check)

    def truncated(self, dimensions: int | None) -> TorchEncoder:
        """Return an encoder that keeps the first `dimensions` components, rescaled to unit norm.

        This is for encoders trained for it (Matryoshka, https://arxiv.org/abs/2205.13147); others lose much
        quality.

        Raises:
            ModelError: The encoder has fewer components, or its embeddings are not unit vectors.
        """
        if dimensions is None:
            return self
        if not 1 <= dimensions <= self.dim or not self.settings.normalize:
            raise ModelError(
                f"--dimensions {dimensions}: {self.name} has {self.dim} dimensions, and its embeddings must "
                "be unit vectors"
            )
        return replace(self, dimensions=dimensions)

    def _cut(self, embeddings: torch.Tensor) -> torch.Tensor:
        if self.dimensions is None:
            return embeddings
        return nn.functional.normalize(embeddings[:, : self.dimensions], dim=1)

    def _int8_tower(self, side: Side) -> Tower:
        """Return the int8 copy of a side's tower, which is made once."""
        tower = self.model.tower(side)
        return self._once(
            f"int8 {self._tower_name(side)}",
            lambda: int8_tower(tower, max_length=self.settings.max_length),
        )

    def _tower_name(self, side: Side) -> str:
        return side if self.model.separate_sides else "shared"

    def _once(self, name: str, make: Callable[[], Made]) -> Made:
        """Return the cached result of `make` under a name; the first call, in any thread, makes it."""
        if name not in self._made:
            with _MAKING:
                if name not in self._made:
                    self._made[name] = make()
        made: Made = self._made[name]
        return made

    def _turn(self, side: Side) -> AbstractContextManager[object]:
        """Return the lock for a forward pass if the tower changes its state in it, else no lock."""
        return _PASSING if self.model.tower(side).changes_itself else nullcontext()


# All encoders share the locks: an encoder with its own lock could not be copied or sent to a process.
_MAKING, _PASSING = threading.Lock(), threading.Lock()


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
