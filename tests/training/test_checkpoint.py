"""Checkpoints on disk, with an accelerator that writes a small file."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from aisle.errors import CheckpointError
from aisle.training import checkpoint as module
from aisle.training.checkpoint import (
    check_identity,
    find_checkpoint,
    prune_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from aisle.training.trained_weights import register_trained_weights_only


class OneFileAccelerator:
    """Accelerator of a single process that saves its content as a file."""

    is_main_process = True

    def __init__(self, content):
        self.content = content

    def save_state(self, folder):
        with open(os.path.join(folder, "state.bin"), "wb") as file:
            file.write(self.content)

    def wait_for_everyone(self):
        pass


class Killed(BaseException):
    """Exception in place of a SIGKILL, which no code catches."""


@pytest.fixture
def checkpoints(tmp_path):
    """Return a folder with the checkpoints of steps 2, 4, 6 and 8."""
    for step in (2, 4, 6, 8):
        save(tmp_path / "checkpoints", step)
    return tmp_path / "checkpoints"


def save(folder, step, *, content=b"weights", identity=None, best_weights=None):
    return save_checkpoint(
        OneFileAccelerator(content), folder, step=step, identity=identity or {}, best_weights=best_weights
    )


def damage(folder, step):
    (folder / f"step_{step:08d}" / "state.bin").write_bytes(b"weighty")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_read_back_with_its_step_identity_and_best_weights(tmp_path):
    best = {"lora_A": torch.tensor([[1.0, -2.0]])}
    path = save(tmp_path, 12, identity={"seed": 3}, best_weights=best)

    found = read_checkpoint(path)

    assert (found.path, found.step, found.identity) == (tmp_path / "step_00000012", 12, {"seed": 3})
    assert np.array_equal(found.best_weights({"lora_A"})["lora_A"], [[1.0, -2.0]])
    assert (path / "state.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed_from_the_names_of_the_best_weights(tmp_path, prefix):
    path = save(tmp_path, 12, best_weights={f"{prefix}lora_A": torch.ones(1)})

    assert set(read_checkpoint(path).best_weights({"lora_A"})) == {"lora_A"}


def test_best_weights_with_unexpected_names_are_refused(tmp_path):
    found = read_checkpoint(save(tmp_path, 12, best_weights={"odd.lora_A": torch.ones(1)}))

    with pytest.raises(CheckpointError, match=r"best\.safetensors: the names of its weights do not match"):
        found.best_weights({"lora_A"})


class Model(torch.nn.Module):
    """Model with a trained weight and a frozen weight of these names."""

    def __init__(self, trained, frozen="frozen"):
        super().__init__()
        self.register_parameter(trained, torch.nn.Parameter(torch.ones(1)))
        self.register_parameter(frozen, torch.nn.Parameter(torch.ones(1), requires_grad=False))


def test_checkpoints_contain_trained_weights_only_and_refuse_unexpected_names(tmp_path):
    def prepared(model):
        accelerator = Accelerator(cpu=True)
        accelerator.prepare(model)
        register_trained_weights_only(accelerator)
        return accelerator

    prepared(Model("lora_A")).save_state(str(tmp_path))
    assert set(load_file(tmp_path / "model.safetensors")) == {"lora_A"}
    again = Model("lora_A")
    with torch.no_grad():
        again.lora_A.zero_()
    prepared(again).load_state(str(tmp_path))
    assert again.lora_A.item() == 1
    with pytest.raises(CheckpointError, match=r"1 missing \(lora_B for example\) and 1 unknown \(lora_A"):
        prepared(Model("lora_B")).load_state(str(tmp_path))


def test_a_checkpoint_written_again_replaces_the_earlier_checkpoint(tmp_path):
    save(tmp_path, 2, content=b"first")

    path = save(tmp_path, 2, content=b"second")

    assert (path / "state.bin").read_bytes() == b"second"
    assert read_checkpoint(path).step == 2
    assert names(tmp_path) == ["step_00000002"]


def test_the_newest_checkpoints_are_kept_and_the_others_removed(checkpoints):
    removed = prune_checkpoints(checkpoints, keep=2)

    assert sorted(removed) == [checkpoints / "step_00000002", checkpoints / "step_00000004"]
    assert names(checkpoints) == ["step_00000006", "step_00000008"]


@pytest.mark.parametrize("keep", [4, 5, 100])
def test_nothing_is_removed_below_the_number_to_keep(checkpoints, keep):
    assert prune_checkpoints(checkpoints, keep=keep) == []
    assert len(names(checkpoints)) == 4


def test_the_newest_whole_checkpoint_is_kept_when_newer_ones_are_damaged(checkpoints):
    damage(checkpoints, 6)
    (checkpoints / "step_00000008" / "manifest.json").unlink()

    removed = prune_checkpoints(checkpoints, keep=1)

    assert sorted(removed) == [checkpoints / "step_00000002", checkpoints / "step_00000006"]
    assert names(checkpoints) == ["step_00000004", "step_00000008"]
    assert find_checkpoint(checkpoints.parent, "latest")[0].step == 4


def test_checkpoints_are_ordered_by_number_beyond_eight_digits(tmp_path):
    save(tmp_path / "checkpoints", 99_999_999)
    save(tmp_path / "checkpoints", 100_000_000)

    assert find_checkpoint(tmp_path, "latest")[0].step == 100_000_000
    assert prune_checkpoints(tmp_path / "checkpoints", keep=1) == [tmp_path / "checkpoints" / "step_99999999"]


def test_folders_with_other_names_are_neither_removed_nor_resumed_from(checkpoints):
    shutil.copytree(checkpoints / "step_00000008", checkpoints / "step_00000009.bak")
    (checkpoints / "notes").mkdir()

    prune_checkpoints(checkpoints, keep=1)

    assert names(checkpoints) == ["notes", "step_00000008", "step_00000009.bak"]
    assert find_checkpoint(checkpoints.parent, "latest")[0].step == 8


def test_remains_of_killed_runs_are_removed(checkpoints):
    for name in (".step_00000010.writing", ".step_00000001.removing"):
        (checkpoints / name / "deeper").mkdir(parents=True)

    assert prune_checkpoints(checkpoints, keep=4) == []
    assert names(checkpoints) == [f"step_{step:08d}" for step in (2, 4, 6, 8)]


@pytest.mark.parametrize("removals", range(3))
def test_a_run_killed_while_removing_leaves_only_whole_checkpoints(checkpoints, monkeypatch, removals):
    """The removal is killed halfway through its first, second and third folder."""
    rmtree, done = shutil.rmtree, []

    def killed_half_way(path, **options):
        if not os.path.exists(path):
            return
        if len(done) == removals:
            os.remove(os.path.join(path, "manifest.json"))
            raise Killed
        rmtree(path, **options)
        done.append(path)

    monkeypatch.setattr(module.shutil, "rmtree", killed_half_way)
    with pytest.raises(Killed):
        prune_checkpoints(checkpoints, keep=1)
    monkeypatch.undo()

    seen = sorted(checkpoints.glob("step_*"))
    assert seen == [checkpoints / "step_00000008"]
    assert read_checkpoint(seen[0]).step == 8
    prune_checkpoints(checkpoints, keep=1)
    assert names(checkpoints) == ["step_00000008"]


def test_a_run_killed_while_replacing_a_checkpoint_leaves_no_partial_checkpoint(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    save(folder, 2)
    save(folder, 4)
    replace = os.replace

    def killed_before_the_new_one(source, target):
        if str(source).endswith(".writing"):
            raise Killed
        replace(source, target)

    monkeypatch.setattr(module.os, "replace", killed_before_the_new_one)
    with pytest.raises(Killed):
        save(folder, 4, content=b"again")
    monkeypatch.undo()

    found, problems = find_checkpoint(tmp_path, "latest")
    assert (found.step, problems) == (2, [])
    save(folder, 4, content=b"again")
    assert names(folder) == ["step_00000002", "step_00000004"]


def test_a_checkpoint_that_cannot_be_renamed_is_reported_in_one_message(checkpoints, monkeypatch):
    def refuse(source, target):
        raise PermissionError(13, os.strerror(13), str(source))

    monkeypatch.setattr(module.os, "replace", refuse)

    with pytest.raises(CheckpointError, match=r"Permission denied.*--checkpoints_to_keep"):
        prune_checkpoints(checkpoints, keep=1)
    assert len(names(checkpoints)) == 4


def test_latest_skips_damaged_checkpoints_and_reports_them(checkpoints):
    damage(checkpoints, 8)
    (checkpoints / "step_00000006" / "state.bin").unlink()

    found, problems = find_checkpoint(checkpoints.parent, "latest")

    assert found.step == 4
    assert [line.split(": ")[0] for line in problems] == [
        str(checkpoints / "step_00000008" / "state.bin"),
        str(checkpoints / "step_00000006" / "state.bin"),
    ]
    assert "is altered" in problems[0]
    assert "is missing" in problems[1]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (json.dumps({"format_version": 1, "files": {}}), "is damaged"),
        (json.dumps({"format_version": 1, "files": None, "step": 1, "identity": {}}), "is damaged"),
        (json.dumps({"format_version": 1, "files": {}, "step": 1, "identity": None}), "is damaged"),
        (json.dumps({"format_version": 9, "files": {}, "step": 1, "identity": {}}), "has format 9"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(checkpoints, manifest, reason):
    path = checkpoints / "step_00000008"
    (path / "manifest.json").write_text(manifest)

    with pytest.raises(CheckpointError, match=reason):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"step": 9}, id="step"),
        pytest.param({"identity": {"seed": 2}}, id="identity"),
        pytest.param({"files": {}}, id="files"),
    ],
)
def test_latest_skips_a_checkpoint_with_an_altered_manifest(tmp_path, change):
    for step in (2, 4):
        save(tmp_path / "checkpoints", step, identity={"seed": 1})
    file = tmp_path / "checkpoints" / "step_00000004" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    found, (problem,) = find_checkpoint(tmp_path, "latest")

    assert found.step == 2
    assert problem.startswith(f"{file}: is altered")


def test_a_manifest_without_a_checksum_from_an_earlier_version_is_read(checkpoints):
    file = checkpoints / "step_00000008" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    file.write_text(json.dumps(manifest))
    assert read_checkpoint(file.parent).step == 8


def test_resuming_with_other_batches_reports_both_values_of_every_difference(tmp_path):
    was = {"per_device_train_batch_size": 64, "processes": 2, "seed": 1}
    found = read_checkpoint(save(tmp_path, 2, identity=was))
    check_identity(found, was)

    with pytest.raises(CheckpointError) as refused:
        check_identity(found, {**was, "per_device_train_batch_size": 7, "processes": 1})

    message = str(refused.value)
    assert "per_device_train_batch_size was 64 and is now 7; processes was 2 and is now 1" in message
    assert "seed" not in message
