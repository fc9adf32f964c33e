"""Runs that are killed with SIGKILL and resumed, compared with the same run without interruption."""

import json
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from aisle.commands.train import resume as resume_module
from aisle.commands.train import run_identity as run_identity_module
from aisle.commands.train.head_settings import HeadSettings
from aisle.commands.train.settings import RunSettings, TrainSettings
from aisle.config.load import saved_form
from aisle.errors import CheckpointError
from aisle.training.checkpoint import Checkpoint
from tests.commands.conftest import QUERIES, judged_rows, write_rows
from tests.commands.launch import ROOT, start_ranks

HEADER = ["query", "product", "relevance"]
# One process: 15 steps, an epoch ends after every 5th. Two: 9 steps, after every 3rd.
RECIPE = [
    "--use_peft", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2",
    "--num_train_epochs", "3", "--checkpointing_steps", "3", "--eval_steps", "2",
    "--lora_dropout", "0.1", "--learning_rate", "0.005", "--lr_scheduler_type", "cosine",
    "--max_length", "16",
]  # fmt: skip
DRIVER = '''
"""Train, and end at a point that does not depend on the clock: `step N` or `writing N`."""

import os
import runpy
import signal
import sys

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

script, moment, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
save, steps = torch.save, []


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_step(*_):
    steps.append(1)
    if len(steps) == number:
        die()


def die_half_way_through_a_file(content, file, *args, **options):
    save(content, file, *args, **options)
    if f".step_{number:08d}.writing" in str(file):
        os.truncate(file, os.path.getsize(file) // 2)
        die()


if moment == "step":
    register_optimizer_step_post_hook(die_after_step)
else:
    torch.save = die_half_way_through_a_file
sys.argv = [script, *sys.argv[4:]]
runpy.run_path(script, run_name="__main__")
'''


@pytest.fixture(scope="module")
def flags(tiny_bert, tmp_path_factory):
    """Return the command line of the run: it memorises noise, so that its figures rise until the end."""
    rng = random.Random(7)
    rows = [(query, product, rng.randint(0, 1)) for query, product, _ in judged_rows(QUERIES, seed=1)]
    pairs = str(write_rows(tmp_path_factory.mktemp("pairs") / "noise.csv", HEADER, rows))
    return [
        *RECIPE,
        "--model_name_or_path",
        str(tiny_bert),
        "--train_file",
        pairs,
        "--validation_file",
        pairs,
    ]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    path = tmp_path_factory.mktemp("driver") / "driver.py"
    path.write_text(DRIVER, encoding="utf-8")
    return path


def start(run_dir, flags, *, processes=None, script=("train_peft.py",)):
    """Run a training script in new processes and return the result."""
    return start_ranks(processes, *script, *flags, "--output_dir", run_dir, check=False)


def kill(run_dir, flags, driver, moment, *, processes=None):
    """Run until the given point, and check that the run ended there and not earlier."""
    script = (driver, ROOT / "train_peft.py", *moment)
    ended = start(run_dir, flags, processes=processes, script=script)
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-3000:]
    assert not (run_dir / "metrics.json").exists()


def checkpoints(run_dir):
    return {int(path.name.removeprefix("step_")) for path in (run_dir / "checkpoints").glob("step_*")}


def outcome(run_dir):
    """Return the parts of a finished run that an interruption must not change."""
    last = max((run_dir / "checkpoints").glob("step_*"))
    # The rest of a checkpoint contains seconds: its manifest, and the run's state.
    files = [path for kind in ("*.safetensors", "*.bin", "random_states*") for path in last.glob(kind)]
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    return {
        "adapter": (run_dir / "adapter_model.safetensors").read_bytes(),
        "last checkpoint": {path.name: path.read_bytes() for path in files},
        "metrics": {name: metrics[name] for name in ("base", "history", "best", "steps")},
    }


@pytest.fixture(scope="module")
def uninterrupted(flags, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    ended = start(run_dir, flags)
    assert ended.returncode == 0, ended.stderr[-3000:]
    found = outcome(run_dir)
    # If the best evaluation came before the kill, its weights would not show the steps after it.
    assert found["metrics"]["best"]["step"] > 9
    assert len({entry["roc_auc"] for entry in found["metrics"]["history"]}) > 3
    held = {"model.safetensors", "best.safetensors", "optimizer.bin", "random_states_0.pkl"}
    assert set(found["last checkpoint"]) == held
    return found


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        pytest.param(("step", "8"), {3, 6}, id="mid-epoch"),
        pytest.param(("step", "12"), {3, 6, 9}, id="across an epoch's end"),
        pytest.param(("writing", "6"), {3}, id="while a checkpoint is being written"),
    ],
)
def test_a_killed_and_resumed_run_gives_the_bytes_of_an_uninterrupted_run(
    flags, driver, uninterrupted, tmp_path, moment, left
):
    run_dir = tmp_path / "run"
    kill(run_dir, flags, driver, moment)
    assert checkpoints(run_dir) == left
    half_written = list((run_dir / "checkpoints").glob(".step_*.writing"))
    assert bool(half_written) == (moment[0] == "writing")

    resumed = start(run_dir, [*flags, "--resume_from_checkpoint", "latest"])

    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert outcome(run_dir) == uninterrupted
    assert list((run_dir / "checkpoints").glob(".*")) == []


def test_two_killed_and_resumed_processes_give_the_bytes_of_an_uninterrupted_run(flags, driver, tmp_path):
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    kill(killed, flags, driver, ("writing", "6"), processes=2)
    assert checkpoints(killed) == {3}
    assert list((killed / "checkpoints").glob(".step_*.writing")) != []

    for run_dir, more in ((killed, ["--resume_from_checkpoint", "latest"]), (alone, [])):
        ended = start(run_dir, [*flags, *more], processes=2)
        assert ended.returncode == 0, ended.stderr[-3000:]

    assert outcome(killed) == outcome(alone)


def resumable(monkeypatch, *, head):
    """Resume a run with a head from a checkpoint of a version that had no settings for heads."""
    monkeypatch.setattr(run_identity_module, "base_fingerprint", lambda _: "f" * 64)
    accelerator = SimpleNamespace(mixed_precision="no", device=torch.device("cpu"), num_processes=1)

    def identity(settings):
        return run_identity_module.run_identity(
            settings,
            SimpleNamespace(query=None),
            train="t",
            validation="v",
            total_steps=6,
            accelerator=accelerator,
        )

    heads = saved_form(HeadSettings())
    earlier = {name: value for name, value in identity(TrainSettings()).items() if name not in heads}
    checkpoint = Checkpoint(path=Path("step_00000003"), step=3, identity=earlier)
    settings = TrainSettings(head=HeadSettings(head=head))
    return resume_module.check_resumable(checkpoint, identity(settings), settings, Path("run"))


def test_a_checkpoint_from_before_heads_existed_is_resumed_by_a_run_without_a_head(monkeypatch):
    assert resumable(monkeypatch, head="none") is None


def test_a_checkpoint_from_before_heads_existed_is_refused_by_a_run_with_a_head(monkeypatch):
    with pytest.raises(CheckpointError, match="another run: head was 'none' and is now 'gated'"):
        resumable(monkeypatch, head="gated")


def test_a_resumed_run_prints_that_memory_ran_out_before(monkeypatch, tmp_path):
    checkpoint = SimpleNamespace(path=tmp_path / "step_00000005", step=5, best_weights=lambda trained: {})
    monkeypatch.setattr(resume_module, "find_checkpoint", lambda *_: (checkpoint, []))
    monkeypatch.setattr(resume_module, "check_resumable", lambda *_: None)
    state, lines = SimpleNamespace(sub_batch_tokens=None), []
    accelerator = SimpleNamespace(
        load_state=lambda _: setattr(state, "sub_batch_tokens", 4096), is_main_process=False
    )
    trainer = SimpleNamespace(accelerator=accelerator, state=state, identity={})
    settings = TrainSettings(run=RunSettings(resume_from_checkpoint="latest"))

    assert resume_module.resume(settings, tmp_path, trainer, log=lines.append)

    assert lines[-1] == "memory ran out before: batches are encoded in sub-batches of 4,096 tokens"
