"""Processes that were launched together, and incomplete process groups."""

import pytest
import torch

from aisle.errors import ConfigError
from aisle.models.loading import best_device
from aisle.training.process_group import Processes, check_count, launched_processes, must_use_cpu


def test_a_process_without_a_launcher_is_the_only_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    assert launched_processes() == Processes(index=0, count=1)


def test_an_incomplete_process_group_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")

    with pytest.raises(ConfigError, match="2 processes were launched, but the process group has 1"):
        check_count(1)
    check_count(2)


@pytest.mark.parametrize(
    ("asked", "count", "gpu", "told"),
    [
        ("true", "1", True, True),
        ("0", "1", False, False),
        ("", "2", False, True),
        ("", "2", True, False),
    ],
)
def test_several_processes_without_a_gpu_use_the_cpu(monkeypatch, asked, count, gpu, told):
    monkeypatch.setenv("ACCELERATE_USE_CPU", asked)
    monkeypatch.setenv("WORLD_SIZE", count)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: gpu)

    assert must_use_cpu() is told


def test_training_and_encoders_do_not_use_apples_gpu(monkeypatch):
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda **_: torch.device("mps"))

    assert must_use_cpu()
    assert best_device() == "cpu"
