"""The compute type of a run: the flag's, the launch's, or bf16 on a GPU that computes it."""

import sys

import pytest
import torch

from aisle.commands.train.precision_choice import launched_precision, with_precision
from aisle.commands.train.settings import OptimSettings, TrainSettings
from aisle.training import accelerator
from aisle.training.accelerator import gpu_computes_bf16, launch_configuration

SCRIPT = ["train_peft.py", "--use_peft"]
LAUNCH = [sys.executable, "/venv/bin/accelerate", "launch"]
SET_TO_NO = {"ACCELERATE_MIXED_PRECISION": "no"}


@pytest.fixture(autouse=True)
def default_file(monkeypatch, tmp_path):
    """The file that `accelerate config` writes; it does not exist yet."""
    path = tmp_path / "default_config.yaml"
    monkeypatch.setattr(accelerator, "default_config_file", str(path))
    return path


@pytest.mark.parametrize(
    ("flag", "launched", "computes_bf16", "expected"),
    [
        (None, None, True, "bf16"),
        (None, None, False, None),
        ("no", None, True, "no"),
        ("fp16", None, True, "fp16"),
        (None, "no", True, None),
        (None, "fp16", True, None),
        ("no", "bf16", True, "no"),
    ],
)
def test_bf16_is_chosen_only_where_nothing_names_a_type(flag, launched, computes_bf16, expected):
    settings = TrainSettings(optim=OptimSettings(mixed_precision=flag))

    chosen = with_precision(settings, launched=launched, computes_bf16=computes_bf16)

    assert chosen.optim.mixed_precision == expected


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        ([sys.executable, *SCRIPT], {}, None),
        ([sys.executable, *SCRIPT], SET_TO_NO, "no"),
        (["torchrun", *SCRIPT], SET_TO_NO, "no"),
        ([*LAUNCH, *SCRIPT], SET_TO_NO, None),
        ([*LAUNCH, "--mixed_precision", "no", *SCRIPT], SET_TO_NO, "no"),
        ([*LAUNCH, "--mixed-precision=no", *SCRIPT], SET_TO_NO, "no"),
        ([*LAUNCH, *SCRIPT], {"ACCELERATE_MIXED_PRECISION": "BF16"}, "bf16"),
        ([sys.executable, "-m", "accelerate.commands.launch", *SCRIPT], SET_TO_NO, None),
    ],
)
def test_a_launch_names_a_type_by_its_flags_or_its_variable(words, environment, expected):
    assert launched_precision(words, environment) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("mixed_precision: 'no'\n", "no"),
        ("mixed_precision: no\n", "no"),
        ("num_processes: 2\n", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("given", [True, False], ids=["--config_file", "accelerate config"])
def test_a_launch_names_a_type_by_its_configuration(given, content, expected, default_file, tmp_path):
    file = tmp_path / "launch.yaml" if given else default_file
    file.write_text(content)
    words = [*LAUNCH, *(["--config_file", str(file)] if given else []), *SCRIPT]

    assert launched_precision(words, SET_TO_NO) == expected


def test_the_launch_configurations_of_the_repository_name_their_type():
    assert launch_configuration("configs/accelerate/several_gpus.yaml")["mixed_precision"] == "bf16"


def test_a_gpu_that_only_emulates_bf16_does_not_compute_it(monkeypatch):
    monkeypatch.setattr(accelerator, "must_use_cpu", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)

    assert not gpu_computes_bf16()


def test_a_run_on_the_cpu_does_not_take_the_gpus_type(monkeypatch):
    monkeypatch.setattr(accelerator, "must_use_cpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)

    assert not gpu_computes_bf16()
