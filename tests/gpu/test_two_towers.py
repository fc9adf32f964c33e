"""Two towers trained on a GPU in bf16, compared with the CPU, and captured steps with eager ones."""

import json

import numpy as np
import pytest

import aisle
from aisle.models.loading import load_encoder
from tests.gpu.test_frozen_encoder import BFLOAT16, pairs
from tests.gpu.test_training import SAME_KERNELS, STEPS

TEXTS = [row["product"] for row in pairs()]


def embedded(folder):
    encoder = load_encoder(folder, device="cpu")
    return encoder.encode_queries(TEXTS), encoder.encode_products(TEXTS)


@pytest.fixture
def train(tiny_model, tmp_path):
    """Return a function that trains two towers in a folder, and returns the folder."""

    def run(name, *, freeze, **settings):
        aisle.train(
            train_data=pairs(),
            model_name_or_path=str(tiny_model("bert")),
            output_dir=tmp_path / name,
            two_towers=True,
            freeze=freeze,
            use_peft=True,
            dropout=0.0,
            per_device_train_batch_size=12,
            validation_share=0.1,
            learning_rate=0.005,
            keep="last",
            **settings,
        )
        return tmp_path / name

    return run


@pytest.mark.parametrize("freeze", [None, "product"])
def test_towers_trained_on_a_gpu_equal_those_of_the_cpu(freeze, train, tiny_model, monkeypatch):
    on_gpu = embedded(train("gpu", freeze=freeze, mixed_precision="bf16", max_train_steps=6))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    on_cpu = embedded(train("cpu", freeze=freeze, mixed_precision="no", max_train_steps=6))

    base = embedded(tiny_model("bert"))
    for found, expected, before, frozen in zip(
        on_gpu, on_cpu, base, (False, freeze == "product"), strict=True
    ):
        moved = np.linalg.norm(expected - before)
        assert (moved < 1e-4) == frozen
        assert np.linalg.norm(found - expected) <= BFLOAT16 * moved + 1e-4


def test_captured_steps_train_the_towers_of_eager_steps(train, tiny_model):
    settings = {"freeze": None, "mixed_precision": "bf16", "max_train_steps": STEPS}
    eager, captured = train("eager", cuda_graphs=False, **settings), train("captured", **settings)

    metrics = [json.loads((run / "metrics.json").read_text()) for run in (eager, captured)]
    assert [one["graphs"] for one in metrics] == ["eager", "captured"]
    assert metrics[0]["captured_batches"] == 0
    assert metrics[1]["captured_batches"] >= STEPS // 2
    for found, expected, before in zip(
        embedded(captured), embedded(eager), embedded(tiny_model("bert")), strict=True
    ):
        moved = np.linalg.norm(expected - before)
        assert moved > 0.1
        assert np.linalg.norm(found - expected) <= SAME_KERNELS * moved


def test_steps_with_a_frozen_tower_are_eager_with_the_reason(train):
    run = train("run", freeze="product", mixed_precision="bf16", max_train_steps=2)
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["graphs"], metrics["graphs_reason"]) == (
        "eager",
        "a tower is frozen, and has no backward pass",
    )
