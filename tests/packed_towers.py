"""Towers of tiny models, and the same texts packed and padded, to compare the two."""

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from aisle.models.adapters import attach_lora
from aisle.models.heads import Normalize
from aisle.models.pooling import Pooling
from aisle.models.prepare_model import set_dropout
from aisle.models.tower import Tower
from aisle.text.batch_layout import Layout
from aisle.text.tokens import TokenizedTexts, offsets_of
from tests.tiny_models import CONFIGS

LENGTHS = np.array([40, 25, 25, 12, 12, 12, 7, 3, 1, 1])
"""Longest first, with equal ones, one token alone, and far longer than ModernBERT's window of 8."""
ROWS = np.arange(len(LENGTHS))
VARIANTS = {
    "window of a decoder": ("mistral", {"sliding_window": 8}),
    "grouped key heads": ("qwen3", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}),
    "grouped key heads in a window": (
        "mistral",
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8},
    ),
}
"""Features that the tiny models of every architecture leave out."""
EMBEDDING_WEIGHTS = torch.randn(len(LENGTHS), 32, generator=torch.Generator().manual_seed(3))


def random_texts():
    ids = np.random.default_rng(1).integers(1000, 30_000, size=int(LENGTHS.sum()))
    ids[[3, 4, LENGTHS[0]]] = 1  # the padding token of RoBERTa's family, which counts positions without it
    return TokenizedTexts(ids.astype(np.int32), offsets_of(LENGTHS))


def padded_batches(backbone):
    """Return the texts in padded batches, in their order."""
    texts = random_texts()
    layout = Layout(packed=False, max_tokens=100, group_cost=8, pad_token_id=backbone.config.pad_token_id)
    found = [layout.batch(texts, rows) for rows in layout.rows(LENGTHS)]
    assert len(found) > 1
    assert sum(batch.read_tokens for batch in found) > LENGTHS.sum()
    return found


def tower_without_dropout(folder, *, pooling="mean", adapter=False):
    """Return the tower of a model's folder, as training has it, dropout off."""
    backbone = AutoModel.from_pretrained(folder, dtype=torch.float32)
    set_dropout(backbone, 0.0)
    return Tower(with_lora(backbone) if adapter else backbone, Pooling(pooling), [Normalize()])


def variant_of(name):
    """Return the backbone of a variant, with seeded random weights."""
    architecture, changes = VARIANTS[name]
    config = AutoConfig.for_model(architecture, **(CONFIGS[architecture] | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModel.from_config(config, dtype=torch.float32).eval()


def with_lora(backbone):
    return attach_lora(
        backbone,
        rank=4,
        alpha=8,
        dropout=0.0,
        target_modules=None,
        use_dora=False,
        use_rslora=False,
        base_reference="base",
        base_revision=None,
    )


def gradients(tower, batches):
    """Return the gradients of all trained weights, of a loss that weighs each embedding differently."""
    tower.zero_grad(set_to_none=True)
    embeddings = tower(batches)
    (embeddings * EMBEDDING_WEIGHTS.to(embeddings.device)).sum().backward()
    trained = {name: one for name, one in tower.named_parameters() if one.requires_grad}
    return {name: one.grad.clone() for name, one in trained.items() if one.grad is not None}
