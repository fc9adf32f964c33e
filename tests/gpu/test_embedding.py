"""Embedding on a GPU: windows tokenised ahead, results copied asynchronously, a copy of the model in bf16."""

import numpy as np
import pytest
import torch

from aisle.models import encoder as encoder_module
from aisle.models.loading import load_encoder
from tests.gpu.kernel_device import compiled_only

pytestmark = compiled_only
TEXTS = [f"{'red wooden sofa ' * (1 + number % 9)}{number}" for number in range(300)]
TEXTS += [TEXTS[7], "", TEXTS[0]]


@pytest.fixture
def encoders(tiny_model):
    """The same encoder on a CPU and on the GPU."""
    return tuple(load_encoder(tiny_model("bert"), device=device) for device in ("cpu", "cuda"))


def test_bf16_embeddings_are_those_of_float32_in_the_order_of_the_texts(encoders, monkeypatch):
    on_cpu, on_gpu = encoders
    expected = on_cpu.encode_products(TEXTS)
    monkeypatch.setattr(encoder_module, "TEXTS_AT_A_TIME", 7)
    progress = []

    found = on_gpu.encode_products(TEXTS, precision="bf16", max_tokens=400, on_progress=progress.append)

    assert found.dtype == np.float32
    assert (found * expected).sum(axis=1).min() > 0.999
    assert sum(progress) == len(TEXTS)
    np.testing.assert_array_equal(found[300], found[7])
    np.testing.assert_array_equal(found[302], found[0])


@pytest.mark.parametrize("texts", [[], ["sofa"], ["sofa", "sofa"]])
def test_few_texts_have_their_embeddings(texts, encoders):
    expected, found = (
        encoder.encode_products(texts, precision=precision)
        for encoder, precision in zip(encoders, ("fp32", "bf16"), strict=True)
    )

    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_changed_weights_change_the_embeddings(encoders):
    _, encoder = encoders
    before = encoder.encode_products(TEXTS[:9], precision="bf16")
    with torch.no_grad():
        for weight in encoder.model.product_tower.backbone.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    after = encoder.encode_products(TEXTS[:9], precision="bf16")

    expected = encoder.encode_products(TEXTS[:9], precision="fp32")
    assert (after * expected).sum(axis=1).min() > 0.99
    assert (after * before).sum(axis=1).min() < 0.99


def test_launching_a_batch_does_not_wait_for_the_device(encoders, monkeypatch):
    _, encoder = encoders
    tokens = encoder.tokenize_products(TEXTS)
    expected = encoder.encode_tokens(tokens, precision="bf16", max_tokens=400)  # kernels are compiled
    found = []
    torch.cuda.set_sync_debug_mode("error")  # waiting for an event is no synchronisation of the device
    try:
        encoder.encode_parts([tokens], found.append, precision="bf16", max_tokens=400)
    finally:
        torch.cuda.set_sync_debug_mode("default")

    np.testing.assert_array_equal(found[0], expected)
