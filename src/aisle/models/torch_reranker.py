"""Reranker that runs on torch: a cross-encoder with its tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from aisle.errors import ModelError
from aisle.models.cross_encoder import CrossEncoder
from aisle.models.cross_encoder_loading import load_reranker_run
from aisle.models.loading import best_device
from aisle.models.model_source import find_model
from aisle.text.batch_layout import device_layout
from aisle.text.joined_pairs import PairTokenizer


@dataclass(frozen=True, eq=False)
class TorchReranker:
    """Score pairs of a query and a text with torch; any number of threads may share it.

    Args:
        model: Cross-encoder in evaluation mode, on its device.
        tokenizer: Tokenizer of joined pairs.
        fingerprint: Hash of everything that determines a score.
        name: Name of the model in messages.
    """

    model: CrossEncoder
    tokenizer: PairTokenizer
    fingerprint: str
    name: str
    _passing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def max_length(self) -> int:
        """Maximum length of a pair in tokens; the longer text of a longer pair is cut."""
        return self.tokenizer.max_length

    @cached_property
    def why_padded(self) -> str | None:
        """Why pairs are padded on this device; None if they are packed."""
        return self.model.why_padded(torch.float32, max_length=self.max_length)

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        max_tokens: int | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Return the logit of each pair: (pairs,) float32. A pair that occurs twice is scored once.

        Args:
            pairs: Queries and texts; the longer text of a pair beyond the maximum length is cut.
            max_tokens: Most padded tokens to score at a time.
            on_progress: Function called with the number of pairs that were scored since the last call.

        Raises:
            ModelError: A pair is not two texts.
        """
        places: dict[tuple[str, str], int] = {}
        numbers = [places.setdefault(_checked(pair, row), len(places)) for row, pair in enumerate(pairs)]
        if not numbers:
            return np.empty(0, np.float32)
        repeats = np.bincount(numbers)
        tokens = self.tokenizer.tokenize(list(places))
        device = next(self.model.parameters()).device
        layout = device_layout(
            device,
            # A single pair has no padding, so packing would save nothing.
            packed=len(places) > 1 and self.why_padded is None,
            pad_token_id=self.tokenizer.tokenizer.pad_token_id,
            max_tokens=max_tokens,
        )
        scores = np.empty(len(places), np.float32)
        turn = self._passing if self.model.changes_itself else nullcontext()
        with torch.inference_mode():
            for rows in layout.rows(tokens.lengths()):
                batch = layout.batch(tokens, rows).to(device)
                with turn:
                    scores[rows] = self.model([batch])[:, 0].cpu().numpy()
                if on_progress is not None:
                    on_progress(int(repeats[rows].sum()))
        found: np.ndarray = scores[numbers]
        return found


def load_torch_reranker(
    model: str | Path, *, device: str | None = None, trust_remote_code: bool = False
) -> TorchReranker:
    """Load a reranker: a run of `aisle train-reranker`, or another cross-encoder with one score.

    Args:
        model: Folder or Hub id.
        device: Type of device, `cuda`, `cpu`, ...; None takes the accelerator if the machine has one.
        trust_remote_code: Whether to run Python code from the model's repository.

    Raises:
        ModelError: Files are missing, altered or do not fit together, or the model is no cross-encoder.
    """
    loaded = load_reranker_run(find_model(str(model)), trust_remote_code=trust_remote_code)
    scorer = loaded.cross_encoder().to(device or best_device()).eval()
    return TorchReranker(scorer, loaded.pair_tokenizer, loaded.fingerprint, loaded.source.name)


def _checked(pair: tuple[str, str], row: int) -> tuple[str, str]:
    """Return a pair as a tuple of two texts.

    Raises:
        ModelError: It is not.
    """
    if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
        raise ModelError(f"pairs[{row}] must be a query and a text; found {pair!r:.60}")
    return (pair[0], pair[1])
