import os

import pytest
import torch

from aisle.training import cpu_threads
from aisle.training.cpu_threads import use_cpu_threads

VARIABLES = ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE", "ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")


@pytest.fixture(autouse=True)
def _eight_quiet_processors(monkeypatch):
    before = torch.get_num_threads()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu_threads, "available_processors", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.2, 0.2, 0.2))
    yield
    torch.set_num_threads(before)


def test_a_single_process_uses_every_available_processor():
    line = use_cpu_threads()
    assert torch.get_num_threads() == 8
    assert line == (
        "CPU threads: 8 in each process, for 8 processors (an equal share; --threads N sets another number)"
    )


def test_processes_on_a_machine_share_its_processors(monkeypatch):
    use_cpu_threads(processes=3)
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # of 16 processes on eight machines
    use_cpu_threads(processes=16)
    assert torch.get_num_threads() == 4


def test_the_flag_overrides_everything(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    line = use_cpu_threads(3, processes=4)
    assert torch.get_num_threads() == 3
    assert "(--threads)" in line
    assert "4 processes here have more threads than there are processors" in line


def test_the_users_omp_num_threads_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    assert "CPU threads: 1 in each process, for 8 processors (OMP_NUM_THREADS)" in use_cpu_threads()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("launcher", ["ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"])
def test_the_single_thread_set_by_launchers_is_not_taken_for_the_users_choice(monkeypatch, launcher):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(launcher, "x")
    use_cpu_threads(processes=2)
    assert torch.get_num_threads() == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # --num_cpu_threads_per_process 3
    torch.set_num_threads(3)
    use_cpu_threads(processes=2)
    assert torch.get_num_threads() == 3


def test_a_busy_machine_is_reported_and_does_not_change_the_number(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (6.5, 1.0, 1.0))
    line = use_cpu_threads()
    assert "other programs are busy on this machine (load 6.5)" in line
    assert torch.get_num_threads() == 8
