"""Models to export: tiny towers of many architectures, and pairs of encoders to compare."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from aisle.text.token_batches import PaddedBatch
from tests import tiny_models

MORE = {
    "electra": tiny_models.ABSOLUTE | {"embedding_size": 32},
    "albert": tiny_models.ABSOLUTE | {"embedding_size": 32},
    "deberta-v2": tiny_models.ABSOLUTE
    | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16},
    "t5": {"vocab_size": 30_528, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    | {"pad_token_id": 0},
    "gpt2": {"vocab_size": 30_528, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}
    | {"bos_token_id": 101, "eos_token_id": 102},
}
"""Architectures that train and export, besides those of `tiny_models`."""


def embedded(graph: Path, input_ids: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    return session.run(["embeddings"], {"input_ids": input_ids.numpy()})[0]


def embedded_by_torch(tower, input_ids: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return tower([PaddedBatch(input_ids, torch.ones_like(input_ids))]).numpy()


def random_ids(texts: int, tokens: int, *, seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 20_000, (texts, tokens), generator=torch.Generator().manual_seed(seed))
