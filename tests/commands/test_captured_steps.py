"""Which runs compute their passes eagerly, and why."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import aisle
from aisle.commands.train import step_setup
from aisle.commands.train.captured_steps import why_eager
from aisle.commands.train.lora_settings import LoraSettings
from aisle.commands.train.outcome import why_eager_on_a_rank
from aisle.commands.train.settings import ModelSettings, OptimSettings, TrainSettings
from aisle.training import distributed
from aisle.training.forward import Forward, with_captured_passes

LORA = TrainSettings(lora=LoraSettings(use_peft=True))
ALL_WEIGHTS = TrainSettings()


def reason(settings=LORA, *, device="cuda", distribution="NO", processes=1, packed=True, wrapper_sums=False):
    accelerator = SimpleNamespace(
        device=torch.device(device),
        distributed_type=SimpleNamespace(value=distribution),
        num_processes=processes,
    )
    return why_eager(settings, accelerator, packed=packed, wrapper_sums=wrapper_sums)


def with_optim(**values):
    return replace(LORA, optim=OptimSettings(**values))


def test_packed_passes_of_a_gpu_are_captured():
    assert reason() is None
    assert reason(ALL_WEIGHTS) is None
    assert reason(distribution="MULTI_GPU", processes=2) is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"device": "cpu"}, "CUDA graphs need an NVIDIA GPU; the device is cpu"),
        ({"packed": False}, "texts are padded"),
        ({"distribution": "FSDP", "wrapper_sums": True}, "FSDP2 gathers weights during a pass"),
        (
            {"settings": ALL_WEIGHTS, "processes": 2, "wrapper_sums": True},
            "DDP sums the gradients of all weights during a pass; --use_peft sums them afterwards",
        ),
        (
            {"processes": 2, "wrapper_sums": True},
            "gloo does not connect the processes, so DDP sums gradients during a pass",
        ),
        ({"settings": with_optim(cuda_graphs=False)}, "--no_cuda_graphs"),
        (
            {"settings": with_optim(torch_compile=True)},
            "--torch_compile compiles layers again during a pass, for other numbers of tokens",
        ),
        (
            {"settings": with_optim(cached_embeddings=True)},
            "--cached_embeddings embeds in sub-batches",
        ),
        (
            {"settings": replace(LORA, model=ModelSettings(gradient_checkpointing=True))},
            "--gradient_checkpointing restores random numbers during a pass",
        ),
    ],
)
def test_the_reason_for_eager_passes_is_the_setting_that_prevents_a_capture(changes, expected):
    assert reason(**changes) == expected


def test_ranks_that_gloo_does_not_connect_leave_the_sum_of_gradients_to_their_wrapper(
    tiny_bert, tmp_path, monkeypatch
):
    """A graph would skip the wrapper's sum, and each rank would train other weights."""
    found = []

    def decide(*given, **known):
        found.append(known["wrapper_sums"])
        return why_eager(*given, **known)

    monkeypatch.setattr(step_setup, "why_eager", decide)
    monkeypatch.setattr(step_setup, "strategy_of", lambda _: "DDP")
    monkeypatch.setattr(step_setup, "_rank_sync", lambda *_: None)
    aisle.train(
        train_data=[
            {"query": f"lamp {n}", "product": f"sofa {n % 3}", "relevance": float(n % 2)} for n in range(24)
        ],
        model_name_or_path=str(tiny_bert),
        output_dir=tmp_path / "run",
        use_peft=True,
        max_train_steps=2,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
    )
    assert found == [True]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["graphs"] == "eager"


def test_a_pass_that_a_wrapper_sums_is_never_captured():
    forward = Forward(SimpleNamespace(), torch.nn.Linear(1, 1), wrapper_sums=True)
    with pytest.raises(ValueError, match="a wrapper sums"):
        with_captured_passes(forward, log=print, record=lambda function, _: function)


def test_a_rank_with_eager_steps_is_the_reason_of_the_run(monkeypatch):
    def trainer(own):
        return SimpleNamespace(
            accelerator=SimpleNamespace(num_processes=2),
            step=SimpleNamespace(forward=SimpleNamespace(why_eager=own)),
        )

    monkeypatch.setattr(distributed, "gather_object", lambda own: [None, *own])
    assert why_eager_on_a_rank(trainer("out of memory")) == "process 1: out of memory"
    assert why_eager_on_a_rank(trainer(None)) is None
    monkeypatch.setattr(distributed, "gather_object", lambda own: [*own, None])
    assert why_eager_on_a_rank(trainer("texts are padded")) == "texts are padded"
