"""The compute type of a run on a GPU, and the layout that follows from it."""

import json

import pytest
import torch

import aisle
from aisle.training.accelerator import gpu_computes_bf16, make_accelerator, separate_state
from tests.skip_reasons import NO_BF16

PAIRS = [
    {"query": query, "product": f"{colour} {query}", "relevance": float(colour == "red")}
    for query in ("sofa", "lamp", "bed", "chair", "table")
    for colour in ("red", "blue", "wooden", "steel")
]


@pytest.fixture
def train(tiny_model, tmp_path):
    """Return a function that trains two steps, and returns the contents of config.yaml and metrics.json."""

    def run(**settings):
        folder = tmp_path / "run"
        aisle.train(
            train_data=PAIRS,
            model_name_or_path=str(tiny_model("bert")),
            output_dir=folder,
            use_peft=True,
            max_train_steps=2,
            learning_rate=1e-2,
            **settings,
        )
        return (folder / "config.yaml").read_text(), json.loads((folder / "metrics.json").read_text())

    return run


def test_a_run_takes_bf16_and_packs_texts_with_the_models_dropout(train):
    if not gpu_computes_bf16():
        pytest.skip(NO_BF16)

    config, metrics = train()

    assert "mixed_precision: bf16" in config
    assert (metrics["attention"], metrics["attention_reason"]) == ("packed", None)


def test_a_run_in_float32_pads_texts_and_names_the_remedy(train):
    config, metrics = train(mixed_precision="no")

    assert "mixed_precision: 'no'" in config
    assert metrics["attention"] == "padded"
    assert metrics["attention_reason"].endswith("give --mixed_precision bf16")
    assert (metrics["graphs"], metrics["graphs_reason"]) == ("eager", "texts are padded")


def test_float32_leaves_tf32_off_even_if_the_launch_compiles(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR")

    with separate_state():
        make_accelerator(mixed_precision="no", report_to=None, project_dir=tmp_path)

    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"
