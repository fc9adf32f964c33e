"""Pooling: reduce a text's token vectors to one vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aisle.errors import ModelError
from aisle.models.modules_file import module_folder, read_json
from aisle.text.token_batches import PackedBatch, PaddedBatch
from aisle.types.choices import PoolingMode

FOLDER = "1_Pooling"
# Names in older files (`pooling_mode_mean_tokens: true`) and in newer files (`pooling_mode: mean`).
SAVED_MODES: dict[str, PoolingMode] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
}


@dataclass(frozen=True)
class Pooling:
    """Module of a tower that reduces a text's token vectors to one vector.

    Args:
        mode: Pooling mode: `mean` of the real tokens (Sentence-BERT, https://arxiv.org/abs/1908.10084), `cls`
            for the first token, or `last` for the last real token (for decoders).
    """

    mode: PoolingMode

    def __call__(self, vectors: torch.Tensor, batch: PaddedBatch | PackedBatch) -> torch.Tensor:
        """Return one vector per text: (texts, dim) float32.

        Args:
            vectors: Token vectors of the batch: (tokens, dim) if it is packed, else (texts, tokens, dim).
            batch: Token batch of the texts.
        """
        if isinstance(batch, PackedBatch):
            return pool_packed(vectors, batch.offsets, self.mode)
        return pool(vectors, batch.attention_mask, self.mode)

    def config(self, *, dim: int) -> dict[str, Any]:
        """Return the module's settings in sentence-transformers' format.

        Args:
            dim: Dimension of a token vector.
        """
        return {
            "word_embedding_dimension": dim,
            "pooling_mode_cls_token": self.mode == "cls",
            "pooling_mode_mean_tokens": self.mode == "mean",
            "pooling_mode_lasttoken": self.mode == "last",
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "include_prompt": True,
        }


def pooling_file(model_dir: Path) -> Path:
    """Return the path of a model's pooling settings; the file may be missing.

    Raises:
        ModelError: `modules.json` is damaged.
    """
    return (module_folder(model_dir, "Pooling") or model_dir / FOLDER) / "config.json"


def saved_pooling(path: Path) -> PoolingMode | None:
    """Read the pooling mode from a file of sentence-transformers; None if the file gives no mode.

    Raises:
        ModelError: The file is damaged, or asks for a pooling that aisle does not support.
    """
    saved = read_json(path)
    modes = [key for key, on in saved.items() if key.startswith("pooling_mode_") and on is True]
    if saved.get("pooling_mode"):
        modes = [str(saved["pooling_mode"])]
    if not modes:
        return None
    if len(modes) > 1 or modes[0] not in SAVED_MODES:
        raise ModelError(
            f"{path}: asks for {' and '.join(modes)}; aisle pools by mean, cls or last. "
            "To use another pooling than in training, give --pooling"
        )
    return SAVED_MODES[modes[0]]


def pool(token_embeddings: torch.Tensor, attention_mask: torch.Tensor, mode: PoolingMode) -> torch.Tensor:
    """Return one vector per padded text, in float32.

    Args:
        token_embeddings: (texts, tokens, dim), padded on the right.
        attention_mask: (texts, tokens), 1 for real tokens and 0 for padding.
        mode: Pooling mode; see `Pooling`.

    Returns:
        (texts, dim) float32.
    """
    token_embeddings = token_embeddings.float()
    if mode == "mean":
        weights = attention_mask.unsqueeze(-1).to(token_embeddings.dtype)
        return (token_embeddings * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
    if mode == "cls":
        return token_embeddings[:, 0]
    last = attention_mask.sum(dim=1) - 1
    return token_embeddings[torch.arange(len(last), device=last.device), last]


def pool_packed(token_embeddings: torch.Tensor, offsets: torch.Tensor, mode: PoolingMode) -> torch.Tensor:
    """Return one vector per packed text, in float32.

    Args:
        token_embeddings: (tokens, dim), texts concatenated.
        offsets: (texts + 1,) start of each text, then the number of tokens. Empty texts come last.
        mode: Pooling mode; see `Pooling`.

    Returns:
        (texts, dim) float32; an empty text's vector has no meaning, but is finite.
    """
    if mode == "mean":
        lengths = offsets.diff().long()
        mean: torch.Tensor = torch.segment_reduce(
            token_embeddings.float(), "mean", lengths=lengths, unsafe=True, initial=0
        )
        return mean
    # An empty text gets the last token's vector, which is not used.
    rows = offsets[:-1].clamp(max=len(token_embeddings) - 1) if mode == "cls" else offsets[1:] - 1
    return token_embeddings[rows.long()].float()
