"""Towers on batches of static shape: dummy texts change neither embeddings nor gradients."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aisle.text.static_shapes import static_batch
from aisle.text.token_batches import pack
from tests.packed_towers import (
    EMBEDDING_WEIGHTS,
    LENGTHS,
    ROWS,
    gradients,
    random_texts,
    tower_without_dropout,
)
from tests.tiny_models import ARCHITECTURES

PACKING = [name for name in ARCHITECTURES if name != "mpnet"]


def batches(*, token_id, rows=ROWS, surplus=45):
    """Return the packed texts without dummy texts, and with dummy texts of `surplus` tokens."""
    packed = pack(random_texts(), rows)
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr("aisle.text.static_shapes.token_capacity", lambda tokens: tokens + surplus)
        return packed, static_batch(packed, int(LENGTHS.max()), token_id)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("architecture", PACKING)
def test_dummy_texts_change_neither_embeddings_nor_gradients(tiny_model, architecture, pooling):
    tower = tower_without_dropout(tiny_model(architecture), pooling=pooling)
    packed, static = batches(token_id=1)
    assert static.read_tokens == packed.read_tokens + 45
    assert static.rows > len(static) == len(packed)

    expected, found = tower([packed]), tower([static])

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    expected, found = (gradients(tower, [batch]) for batch in (packed, static))
    largest = max(float(one.abs().max()) for one in expected.values())
    assert largest > 1e-3
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-6 * largest, msg=name)


def test_an_empty_text_has_finite_embeddings_and_no_gradient(tiny_bert):
    tower = tower_without_dropout(tiny_bert)
    _, static = batches(token_id=0)
    whole = tower([replace(static, texts=static.rows)])
    assert torch.isfinite(whole).all()
    weights = torch.zeros_like(whole)
    weights[: len(static)] = EMBEDDING_WEIGHTS
    (whole * weights).sum().backward()
    assert all(torch.isfinite(one.grad).all() for one in tower.parameters() if one.grad is not None)


def test_a_batch_of_one_text_is_rounded_up_too():
    packed, static = batches(token_id=0, rows=np.array([9]), surplus=3)
    assert (packed.read_tokens, static.read_tokens, len(static)) == (1, 4, 1)
    assert static.offsets[:3].tolist() == [0, 1, 4]
    assert static.positions.tolist() == [0, 0, 1, 2]
