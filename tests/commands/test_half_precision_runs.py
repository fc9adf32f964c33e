"""Runs that compute in half precision without autocast, as on a GPU, and the reason that others print."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.numpy import load_file

from aisle.cli import train_main
from aisle.commands.train import step_setup
from aisle.commands.train.settings import OptimSettings, TrainSettings
from aisle.commands.train.trained_tower import fuse_on_gpu, model_to_train
from aisle.models.pooling import Pooling
from aisle.models.prepare_model import cast_frozen
from aisle.models.tower import Tower
from tests.models.test_half_precision import lora
from tests.models.test_prepare_model import backbone_of

PLAIN = TrainSettings()
COMPILED = TrainSettings(optim=OptimSettings(torch_compile=True))


@pytest.fixture
def train(tiny_bert, judged_csv, tmp_path, monkeypatch):
    """Return a function that trains in bf16 as on a GPU, and returns the bytes of the adapter."""
    towers = []

    def as_on_a_gpu(settings, base, accelerator, *, log):
        tower = model_to_train(settings, base, accelerator, log=log)
        assert fuse_on_gpu(tower, settings, accelerator) is None
        towers.append(tower)
        return tower

    monkeypatch.setattr(step_setup, "model_to_train", as_on_a_gpu)

    def run(name, *flags):
        given = ["--use_peft", "--model_name_or_path", tiny_bert, "--train_file", judged_csv]
        given += ["--mixed_precision", "bf16", "--max_length", 16, "--per_device_train_batch_size", 8]
        given += ["--validation_share", 0.2, "--learning_rate", 0.001, "--output_dir", tmp_path / name]
        assert train_main([*map(str, given), *map(str, flags)]) == 0
        assert towers[-1].compute_type == torch.bfloat16
        return (tmp_path / name / "adapter_model.safetensors").read_bytes()

    return run


def test_a_resumed_run_ends_in_the_bytes_of_an_uninterrupted_one(train, tmp_path):
    flags = ("--max_train_steps", 4, "--eval_steps", 1, "--checkpointing_steps", 2, "--keep", "last")
    whole = train("whole", *flags)
    checkpoint = tmp_path / "whole" / "checkpoints" / "step_00000002"
    assert train("resumed", *flags, "--resume_from_checkpoint", checkpoint) == whole
    weights = load_file(tmp_path / "whole" / "adapter_model.safetensors")
    assert {one.dtype.name for one in weights.values()} == {"float32"}


def test_checkpointed_activations_do_not_change_a_run(train):
    steps = ("--max_train_steps", 2)
    assert train("checkpointed", "--gradient_checkpointing", *steps) == train("plain", *steps)


def reason(make, *, settings=PLAIN, precision="bf16", distribution="NO"):
    accelerator = SimpleNamespace(
        mixed_precision=precision, distributed_type=SimpleNamespace(value=distribution), num_processes=1
    )
    backbone = make(backbone_of("bert", 0.0))
    cast_frozen(backbone, torch.bfloat16)
    return fuse_on_gpu(Tower(backbone, Pooling("mean")), settings, accelerator)


def plain(backbone):
    return lora(backbone)


def with_dropout(backbone):
    return lora(backbone, lora_dropout=0.1)


def with_dora(backbone):
    return lora(backbone, use_dora=True)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (plain, {}, None),
        (plain, {"precision": "no"}, None),
        (plain, {"settings": COMPILED}, "--torch_compile compiles PEFT's own layers; leave it out"),
        (plain, {"distribution": "FSDP"}, "FSDP2 shards their frozen weights"),
        (with_dropout, {}, "--lora_dropout 0 fuses them"),
        (with_dropout, {"precision": "no"}, "--lora_dropout 0 fuses them"),
        (with_dora, {}, "DoRA needs the norm of every adapted weight"),
        (with_dora, {"precision": "no"}, "DoRA needs the norm of every adapted weight"),
    ],
)
def test_the_reason_for_layers_that_are_not_fused(make, options, expected):
    found = reason(make, **options)
    assert found == expected if expected is None else expected in found
