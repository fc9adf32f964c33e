"""Two towers trained on a GPU in bf16, compared with the CPU."""

import numpy as np
import pytest

import aisle
from aisle.models.loading import load_encoder
from tests.gpu.test_frozen_encoder import BFLOAT16, pairs

TEXTS = [row["product"] for row in pairs()]


def embedded(folder):
    encoder = load_encoder(folder, device="cpu")
    return encoder.encode_queries(TEXTS), encoder.encode_products(TEXTS)


@pytest.mark.parametrize("freeze", [None, "product"])
def test_towers_trained_on_a_gpu_equal_those_of_the_cpu(freeze, tiny_model, tmp_path, monkeypatch):
    def train(name, mixed_precision):
        aisle.train(
            train_data=pairs(),
            model_name_or_path=str(tiny_model("bert")),
            output_dir=tmp_path / name,
            two_towers=True,
            freeze=freeze,
            use_peft=True,
            dropout=0.0,
            mixed_precision=mixed_precision,
            max_train_steps=6,
            per_device_train_batch_size=12,
            validation_share=0.1,
            learning_rate=0.005,
            keep="last",
        )
        return embedded(tmp_path / name)

    on_gpu = train("gpu", "bf16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    on_cpu = train("cpu", "no")

    base = embedded(tiny_model("bert"))
    for found, expected, before, frozen in zip(
        on_gpu, on_cpu, base, (False, freeze == "product"), strict=True
    ):
        moved = np.linalg.norm(expected - before)
        assert (moved < 1e-4) == frozen
        assert np.linalg.norm(found - expected) <= BFLOAT16 * moved + 1e-4
