"""Checkpoints: write to a hidden folder, add checksums, then rename, so that a partial one is never found."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from aisle.errors import CheckpointError
from aisle.io.durable import apply_umask, file_sha256, sync
from aisle.training.distributed import wait_for_all
from aisle.training.trained_weights import read_trained_weights

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
DIGEST = "sha256"
"""Key of the manifest's own checksum. Checkpoints of earlier versions do not have it, and are still read."""
BEST_FILE = "best.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files match their checksums.

    Args:
        path: Folder of the checkpoint.
        step: Optimiser steps taken before it was written.
        identity: Model, data and batch settings that a run must share to resume from it.
    """

    path: Path
    step: int
    identity: Mapping[str, Any]

    def best_weights(self, trained: Collection[str]) -> dict[str, torch.Tensor] | None:
        """Return the trained weights of the best evaluation so far, or None before the first.

        Args:
            trained: Names of the weights that the run trains.

        Raises:
            CheckpointError: The names of the weights in the file differ.
        """
        file = self.path / BEST_FILE
        return read_trained_weights(file, trained) if file.is_file() else None


def save_checkpoint(
    accelerator: Any,
    checkpoints_dir: Path,
    *,
    step: int,
    identity: Mapping[str, Any],
    best_weights: Mapping[str, torch.Tensor] | None,
) -> Path:
    """Write a checkpoint of everything registered with the accelerator; call on all ranks.

    The folder gets its final name once every file and checksum is on disk. A run that is killed while
    writing, or fills the disk, keeps its earlier checkpoints.

    Args:
        accelerator: The run's `Accelerator`, with the model, optimiser, scaler, random states and other
            registered objects.
        checkpoints_dir: Folder of the run's checkpoints.
        step: Optimiser steps so far.
        identity: Model, data and batch settings that a run must share to resume from it.
        best_weights: Trained weights of the best evaluation so far.

    Raises:
        CheckpointError: The checkpoint cannot be written.
    """
    target = checkpoints_dir / f"step_{step:08d}"
    staging = checkpoints_dir / f".{target.name}.writing"
    if accelerator.is_main_process:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    wait_for_all(accelerator)
    try:
        accelerator.save_state(str(staging))
        wait_for_all(accelerator)
        if accelerator.is_main_process:
            if best_weights is not None:
                save_file(dict(best_weights), staging / BEST_FILE)
            apply_umask(staging)
            _seal(staging, step=step, identity=identity)
            if target.exists():
                _hide(target)
            os.replace(staging, target)
            sync(checkpoints_dir)
            _remove([_hidden(target)])
    except Exception as error:
        # torch, safetensors and the file system raise different errors for a full disk.
        free = shutil.disk_usage(checkpoints_dir).free
        if accelerator.is_main_process:
            shutil.rmtree(staging, ignore_errors=True)
        raise CheckpointError(
            f"{target}: cannot be written ({error}); {free:,} bytes were free on that disk. Earlier "
            "checkpoints are whole: free some space, and resume with --resume_from_checkpoint latest"
        ) from error
    wait_for_all(accelerator)
    return target


def prune_checkpoints(checkpoints_dir: Path, *, keep: int) -> list[Path]:
    """Remove the oldest checkpoints and return their former paths; call on the main rank only.

    The newest whole checkpoint always stays, even if `keep` damaged ones are newer. Each folder gets a hidden
    name before its files are removed, so that a killed run leaves no half-removed checkpoint. Hidden
    folders that killed runs left behind while writing or removing are removed too.

    Args:
        checkpoints_dir: Folder of the run's checkpoints; nothing may be writing a checkpoint there now.
        keep: Number of newest checkpoints to keep, at least 1.

    Raises:
        CheckpointError: A checkpoint cannot be renamed.
    """
    found = _newest_first(checkpoints_dir)
    doomed = found[keep:]
    if doomed:
        newest_whole = next((path for path in found if _is_whole(path)), None)
        doomed = [path for path in doomed if path != newest_whole]
    try:
        hidden = [_hide(path) for path in doomed]
        if hidden:
            sync(checkpoints_dir)
    except OSError as error:
        raise CheckpointError(
            f"{checkpoints_dir}: old checkpoints cannot be removed ({error}); make the folder writable, or "
            "leave out --checkpoints_to_keep"
        ) from None
    _remove([*hidden, *checkpoints_dir.glob(".step_*.writing"), *checkpoints_dir.glob(".step_*.removing")])
    return doomed


def find_checkpoint(run_dir: Path, wanted: str) -> tuple[Checkpoint, list[str]]:
    """Return the checkpoint to resume from, and the errors of newer, damaged checkpoints.

    Args:
        run_dir: Folder of the run.
        wanted: Folder of a checkpoint, or `latest`.

    Raises:
        CheckpointError: There is no whole checkpoint, or the wanted checkpoint is damaged.
    """
    if wanted != "latest":
        return read_checkpoint(Path(wanted)), []
    problems: list[str] = []
    for path in _newest_first(run_dir / "checkpoints"):
        try:
            return read_checkpoint(path), problems
        except CheckpointError as error:
            problems.append(str(error))
    found = "\n".join(["", *problems])
    raise CheckpointError(
        f"--resume_from_checkpoint latest: {run_dir / 'checkpoints'} holds no whole checkpoint; "
        f"start without the flag, and write checkpoints with --checkpointing_steps{found}"
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """Return a checkpoint after checking every file against its checksum.

    Raises:
        CheckpointError: The checkpoint is missing or of another format, or a file is missing or altered.
    """
    manifest_file = path / MANIFEST
    if not manifest_file.is_file():
        raise CheckpointError(f"{path}: is not a whole checkpoint; it has no {MANIFEST}")
    try:
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        version, files = manifest["format_version"], dict(manifest["files"])
        checkpoint = Checkpoint(path=path, step=int(manifest["step"]), identity=dict(manifest["identity"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{manifest_file}: is damaged ({error})") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: has format {version}; this version of aisle reads {FORMAT_VERSION}")
    found = _digest(manifest)
    if manifest.get(DIGEST, found) != found:
        raise CheckpointError(
            f"{manifest_file}: is altered; SHA-256 must be {manifest[DIGEST]}, found {found}"
        )
    for name, expected in files.items():
        if not (path / name).is_file():
            raise CheckpointError(f"{path / name}: is missing")
        found = file_sha256(path / name)
        if found != expected:
            raise CheckpointError(f"{path / name}: is altered; SHA-256 must be {expected}, found {found}")
    return checkpoint


def check_identity(checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Refuse to resume if the model, the data or the batches differ from the checkpoint's.

    Raises:
        CheckpointError: They differ; the message gives every difference with both values.
    """
    differing = [
        f"{name} was {checkpoint.identity.get(name)!r} and is now {value!r}"
        for name, value in identity.items()
        if checkpoint.identity.get(name) != value
    ]
    if differing:
        raise CheckpointError(
            f"{checkpoint.path}: belongs to another run: {'; '.join(differing)}. "
            "Resume with the settings of that run, or start a new one"
        )


def _newest_first(checkpoints_dir: Path) -> list[Path]:
    """Return all folders named like a checkpoint, newest first, whole or damaged."""
    steps = {path: path.name.removeprefix("step_") for path in checkpoints_dir.glob("step_*")}
    return sorted((path for path in steps if steps[path].isdecimal()), key=lambda path: -int(steps[path]))


def _is_whole(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.removing")


def _hide(path: Path) -> Path:
    """Rename a checkpoint to a hidden name, and return the new path."""
    hidden = _hidden(path)
    _remove([hidden])
    os.replace(path, hidden)
    return hidden


def _remove(folders: list[Path]) -> None:
    """Remove hidden folders. A file that cannot be removed only takes up space, so errors are ignored."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _seal(folder: Path, *, step: int, identity: Mapping[str, Any]) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sync(path)
            files[str(path.relative_to(folder))] = file_sha256(path)
    manifest = {"format_version": FORMAT_VERSION, "step": step, "identity": dict(identity), "files": files}
    manifest[DIGEST] = _digest(manifest)
    manifest_file = folder / MANIFEST
    manifest_file.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    sync(manifest_file)
    sync(folder)


def _digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest, leaving out the checksum itself."""
    content = {name: value for name, value in manifest.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
