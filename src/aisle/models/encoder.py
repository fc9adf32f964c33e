"""The encoder: a backbone with its pooling, prompts and maximum length, in one piece."""

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
from aisle.models.int8_tower import int8_tower
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower, autocast
from aisle.text.token_batches import device_layout
from aisle.text.tokens import TokenizedTexts, tokenize
from aisle.types.encoder_protocol import Precision
from aisle.types.sequences import as_sequence

Made = TypeVar("Made")

INT8_TOKENS = 4096
"""Padded tokens at a time: a tenth faster than 1,024, whose products are cut up more; 8,192 are slower."""


@dataclass(frozen=True)
class EncoderSettings:
    """What has to be known to use an encoder besides its weights.

    Args:
        pooling: how token vectors become one.
        query_prompt: put before every query.
        product_prompt: put before every product.
        max_length: longest text in tokens, prompt and special tokens included.
        normalize: whether embeddings have unit L2 norm.
    """

    pooling: Pooling
    query_prompt: str
    product_prompt: str
    max_length: int
    normalize: bool = True


@dataclass(frozen=True)
class DistinctTokens:
    """The tokens of texts, each distinct one once.

    Args:
        tokens: of the distinct texts.
        place: (texts,) which of them each text is.
    """

    tokens: TokenizedTexts
    place: np.ndarray

    @property
    def marks(self) -> np.ndarray:
        """Mark of each text, where they were asked for: (texts,) uint8, see `types.text_marks`."""
        marks = self.tokens.marks
        return np.zeros(len(self.place), np.uint8) if marks is None else marks[self.place]


@dataclass(frozen=True)
class TorchEncoder:
    """Turns queries and products into embeddings; threads may share it.

    Args:
        embedder: the model, on its device.
        tokenizer: the model's own.
        settings: pooling, prompts, maximum length.
        fingerprint: hash of all that decides an embedding; None before the encoder was saved.
        name: what messages call it.
        revision: commit of the Hub repository that it was loaded from, if it was.
        dimensions: components of an embedding that are kept; None keeps all.
        note: what was taken of it because nobody says otherwise, to be printed.
    """

    embedder: Tower
    tokenizer: Any
    settings: EncoderSettings
    fingerprint: str | None
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
        """Where the model computes."""
        return next(self.embedder.parameters()).device

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        backbone: Any = self.embedder.backbone
        return int(self.dimensions or backbone.config.hidden_size)

    @property
    def query_fingerprint(self) -> str | None:
        """Fingerprint of the tower that reads queries: `fingerprint`, as one tower reads both sides."""
        return self.fingerprint

    def encode_queries(self, queries: Iterable[str], **options: Any) -> np.ndarray:
        """Return the embeddings of queries; see `encode_texts` for the options.

        Returns:
            (queries, dim) float32, unit L2 norm.
        """
        return self.encode_texts(queries, prompt=self.settings.query_prompt, **options)

    def encode_products(self, products: Iterable[str], **options: Any) -> np.ndarray:
        """Return the embeddings of products; see `encode_texts` for the options.

        Returns:
            (products, dim) float32, unit L2 norm.
        """
        return self.encode_texts(products, prompt=self.settings.product_prompt, **options)

    def encode_texts(
        self,
        texts: Iterable[str],
        *,
        prompt: str,
        max_tokens: int | None = None,
        precision: Precision = "fp32",
        on_progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return the embeddings of texts, in their order; a text that occurs again is encoded once.

        Args:
            texts: any number of texts, of an iterator too; longer ones than the maximum length are cut off.
            prompt: put before every text.
            max_tokens: padded tokens encoded at a time.
            precision: compute type; the embeddings are float32 all the same. int8 is for CPUs; its copy of
                the model is made on first use, from the weights of then.
            on_progress: called with the number of texts that are done, as they are done.

        Returns:
            (texts, dim) float32, unit L2 norm.

        Raises:
            ModelError: `texts` is one text, or an entry is not a text or not Unicode; or the device does
                not compute in int8; or the model is in training mode.
        """
        return self.encode_tokens(
            self.tokenize(texts, prompt=prompt),
            max_tokens=max_tokens,
            precision=precision,
            on_progress=on_progress,
        )

    def tokenize(self, texts: Iterable[str], *, prompt: str, marked: bool = False) -> DistinctTokens:
        """Return the tokens of texts, of one that occurs again only once; a thread may do that meanwhile.

        Raises:
            ModelError: `texts` is one text, or an entry is not a text or not Unicode.
        """
        texts = as_sequence(texts, "texts", ModelError)
        _check_texts(texts)
        places: dict[str, int] = {}
        place = np.fromiter((places.setdefault(text, len(places)) for text in texts), dtype=np.int64)
        options: dict[str, Any] = {"max_length": self.settings.max_length, "marked": marked}
        tokens = tokenize(self.tokenizer, list(places), prompt=prompt, **options)
        return DistinctTokens(tokens, place)

    def tokenize_products(self, products: Iterable[str], *, marked: bool = False) -> DistinctTokens:
        """Return the tokens of products, with the products' prompt; see `tokenize`."""
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
        if self.embedder.training:
            # To switch it over here would switch it over under the threads that train it.
            raise ModelError(f"{self.name}: is in training mode, with dropout; call embedder.eval() before")
        tokens, place = texts.tokens, texts.place
        distinct = len(tokens.lengths())
        repeats = np.bincount(place, minlength=distinct)
        embeddings = np.empty((distinct, self.dim), dtype=np.float32)
        device = self.device
        layout = device_layout(
            device,
            # One text, a query's usual case, has no padding: whether it could be packed is not worth asking.
            packed=distinct > 1 and self._packs("fp32" if precision == "int8" else precision),
            pad_token_id=self.tokenizer.pad_token_id,
            max_tokens=max_tokens or (INT8_TOKENS if precision == "int8" else None),
        )
        embedder = self._int8_embedder() if precision == "int8" else self.embedder
        with torch.inference_mode(), autocast(device, precision):
            for rows in layout.rows(tokens.lengths()):
                batch = layout.batch(tokens, rows).to(device)
                with self._turn():
                    found = embedder([batch]).float()
                embeddings[rows] = self._cut(found).cpu().numpy()
                if on_progress is not None:
                    on_progress(int(repeats[rows].sum()))
        in_order: np.ndarray = embeddings[place]
        return in_order

    def truncated(self, dimensions: int | None) -> TorchEncoder:
        """Return the encoder that gives the first `dimensions` components, at unit norm again.

        For encoders that were trained so (Matryoshka, https://arxiv.org/abs/2205.13147); others lose much.

        Raises:
            ModelError: the encoder has fewer, or gives no unit vectors.
        """
        if dimensions is None:
            return self
        if not 1 <= dimensions <= self.dim or not self.settings.normalize:
            raise ModelError(
                f"--dimensions {dimensions}: {self.name} has {self.dim}, and it must give unit vectors"
            )
        return replace(self, dimensions=dimensions)

    def _cut(self, embeddings: torch.Tensor) -> torch.Tensor:
        if self.dimensions is None:
            return embeddings
        return nn.functional.normalize(embeddings[:, : self.dimensions], dim=1)

    def _int8_embedder(self) -> Tower:
        """Return the copy of the model in int8; it is made once."""
        return self._once("int8", lambda: int8_tower(self.embedder, max_length=self.settings.max_length))

    def _packs(self, precision: Precision) -> bool:
        """Return whether texts are packed; tried out once for each compute type."""

        def try_out() -> bool:
            with self._turn():
                return self.embedder.packs(precision, max_length=self.settings.max_length)

        return self._once(f"packs {precision}", try_out)

    def _once(self, name: str, make: Callable[[], Made]) -> Made:
        """Return what `make` returns the first time, whichever thread asks first."""
        if name not in self._made:
            with _MAKING:
                if name not in self._made:
                    self._made[name] = make()
        made: Made = self._made[name]
        return made

    def _turn(self) -> AbstractContextManager[object]:
        """Return what a forward pass waits for: nothing, unless the model changes itself in the pass."""
        return _PASSING if self.embedder.changes_itself else nullcontext()


# Of all encoders: an encoder with a lock of its own could be neither copied nor sent to a process.
_MAKING, _PASSING = threading.Lock(), threading.Lock()


def _check_texts(texts: Sequence[str]) -> None:
    """Refuse what is no text."""
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ModelError(f"texts[{position}] must be a text; found {type(text).__name__} {text!r:.60}")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ModelError(
                f"texts[{position}] must be Unicode; found a lone surrogate in {text!r:.60}: "
                "it was read with another encoding than it was written with"
            ) from None
