"""A head on a frozen encoder: trained on a GPU in bf16, from cached vectors, compared with the CPU."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import aisle
from aisle.models.loading import load_encoder

WORDS = ["sofa", "lamp", "red", "blue", "wooden", "bed", "chair", "table", "outdoor", "steel", "garden"]
BFLOAT16 = 0.2
"""bf16 has 8 bits, and AdamW makes steps of equal size of the smallest gradients."""


def pairs():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=size)) + f" {size}" for size in rng.integers(1, 12, 96)]
    return [
        {"query": query, "product": product, "relevance": float(rng.choice([0.0, 0.4, 1.0]))}
        for query, product in zip(texts[:48], texts[48:], strict=True)
    ]


@pytest.mark.parametrize(("head", "rate"), [("skip_connection", 0.3), ("mlp", 0.01)])
def test_a_head_trained_on_a_gpu_from_cached_vectors_equals_that_of_the_cpu(
    head, rate, tiny_model, tmp_path, monkeypatch
):
    def train(name, mixed_precision):
        aisle.train(
            train_data=pairs(),
            model_name_or_path=str(tiny_model("bert")),
            output_dir=tmp_path / name,
            freeze_encoder=True,
            head=head,
            embedding_cache=str(tmp_path / "cache"),
            mixed_precision=mixed_precision,
            max_train_steps=8,
            per_device_train_batch_size=12,
            validation_share=0.1,
            learning_rate=rate,
            keep="last",
        )
        return load_encoder(tmp_path / name, device="cpu").encode_products(
            [row["product"] for row in pairs()]
        )

    on_gpu = train("gpu", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    on_cpu = train("cpu", "no")
    base = load_encoder(tiny_model("bert"), device="cpu").encode_products([row["product"] for row in pairs()])

    moved = np.linalg.norm(on_cpu - base)
    assert moved > 0.05 * np.linalg.norm(base)
    assert np.linalg.norm(on_gpu - on_cpu) < BFLOAT16 * moved
    assert len(list((tmp_path / "cache").glob("*-bf16/*.vectors"))) == 2  # training and validation texts
    frozen = load_file(tmp_path / "gpu" / "model.safetensors")
    for weight, value in load_file(tiny_model("bert") / "model.safetensors").items():
        np.testing.assert_array_equal(frozen[weight], value)
