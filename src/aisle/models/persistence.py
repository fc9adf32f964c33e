"""Save a trained encoder so that PEFT, transformers and sentence-transformers can load it too."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from aisle.errors import ModelError
from aisle.io.durable import apply_umask, sync
from aisle.models.fingerprint import refers_to_code
from aisle.models.heads import HEADS
from aisle.models.model_source import ModelSource
from aisle.models.modules_file import MODULES_FILE, write_json
from aisle.models.pooling import FOLDER as POOLING_FOLDER
from aisle.models.run_file import ROUTER_FILE, SETTINGS_FILE, TOWER_FOLDERS
from aisle.models.tower import Tower
from aisle.models.tower_files import write_tower
from aisle.types.encoder_settings import EncoderSettings

ENCODER_FILES = (
    *("config.json", "model*.safetensors*", "adapter_*", "tokenizer*", "special_tokens_map.json", "vocab*"),
    *(MODULES_FILE, "config_sentence_transformers.json", "sentence_*_config.json", ROUTER_FILE),
    f"{POOLING_FOLDER}/config.json",
    *(f"[0-9]*_{kind}/{name}" for kind in HEADS for name in ("config.json", "model.safetensors")),
)
"""Files that another encoder may have left in a run's folder."""
ADVICE = "free some space, and run the command again"
"""What to do if a run cannot be written."""


def save_encoder(
    run_dir: Path,
    *,
    tower: Tower,
    weights: Mapping[str, torch.Tensor] | None,
    tokenizer: Any,
    settings: EncoderSettings,
    source: ModelSource,
    adapter: bool,
    lineage: Mapping[str, Mapping[str, Any]] | None = None,
    frozen: Mapping[str, torch.Tensor] | None = None,
    more_files: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None,
    advice: str = ADVICE,
) -> str:
    """Write an encoder to a run's folder and return its fingerprint.

    All files are written to a staging folder and then moved, `aisle.json` last. So a run with an `aisle.json`
    is complete.

    Args:
        run_dir: Folder of the run; its other files stay.
        tower: Trained tower, unwrapped, on any device.
        weights: Trained weights to save in place of the tower's current weights; None saves the current ones.
        tokenizer: Tokenizer of the tower.
        settings: Pooling, prompts, maximum length, normalisation.
        source: Base model.
        adapter: Whether the backbone has an adapter; then only the adapter is saved.
        lineage: Records of the models that this model was made from, by their keys in `aisle.json`.
        frozen: Frozen weights to save in place of the tower's, if the tower has only a shard of each.
        more_files: Function that takes the contents of `aisle.json` and returns the texts of more files by
            name. They are written with the encoder.
        advice: What to do if the encoder cannot be written, for the message.

    Raises:
        ModelError: The encoder cannot be written; the folder is unchanged.
    """
    with staged_run(run_dir, advice=advice) as staging:
        description = write_tower(
            staging,
            tower=tower,
            weights=weights,
            tokenizer=tokenizer,
            settings=settings,
            source=source,
            adapter=adapter,
            frozen=frozen,
        )
        finish_run(staging, description, lineage=lineage, more_files=more_files)
    return str(description["fingerprint"])


def finish_run(
    staging: Path,
    description: dict[str, Any],
    *,
    lineage: Mapping[str, Mapping[str, Any]] | None,
    more_files: Callable[[Mapping[str, Any]], Mapping[str, str]] | None,
) -> None:
    """Write `aisle.json` and more files to the staging folder of a run; see `save_encoder`.

    Args:
        staging: Folder with the files of the run.
        description: Contents of `aisle.json`, without the lineage, which is added.
        lineage: As in `save_encoder`.
        more_files: As in `save_encoder`.
    """
    description |= {key: dict(record) for key, record in (lineage or {}).items()}
    for name, text in ({} if more_files is None else more_files(description)).items():
        (staging / name).write_text(text, encoding="utf-8")
    write_json(staging / SETTINGS_FILE, description)


@contextmanager
def staged_run(run_dir: Path, *, advice: str) -> Iterator[Path]:
    """Yield an empty folder for the files of a run; at the end of the block they are moved to the run.

    Args:
        run_dir: Folder of the run.
        advice: As in `save_encoder`.

    Raises:
        ModelError: The files cannot be written; the run's folder is unchanged.
    """
    staging = run_dir / ".saving"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        yield staging
        apply_umask(staging)
        for path in staging.rglob("*"):
            sync(path)
    except Exception as error:
        # tokenizers, safetensors and the file system raise different errors for a full disk.
        free = shutil.disk_usage(run_dir.parent).free
        shutil.rmtree(staging, ignore_errors=True)
        raise ModelError(
            f"{run_dir}: the model cannot be saved ({error}); {free:,} bytes were free on that disk; {advice}"
        ) from error
    _move_in(staging, run_dir)


def _move_in(staging: Path, run_dir: Path) -> None:
    """Move the files to the run's folder, in place of an earlier encoder's.

    The earlier `aisle.json` is removed first, and the new one is moved last.
    """
    (run_dir / SETTINGS_FILE).unlink(missing_ok=True)
    files = [path.relative_to(staging) for path in sorted(staging.rglob("*")) if path.is_file()]
    new = {run_dir / file for file in files}
    _remove_earlier(run_dir, new)
    for name in TOWER_FOLDERS.values():
        if (run_dir / name / SETTINGS_FILE).is_file():  # otherwise it is a folder of the user
            _remove_earlier_tower(run_dir / name, new)
    for file in sorted(files, key=lambda file: file == Path(SETTINGS_FILE)):
        (run_dir / file).parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / file, run_dir / file)
    shutil.rmtree(staging)
    sync(run_dir)


def _remove_earlier(folder: Path, new: AbstractSet[Path]) -> None:
    """Remove the files of an earlier encoder that the new one does not replace."""
    replaced = (*ENCODER_FILES, "*.py") if _has_code(folder) else ENCODER_FILES
    for pattern in replaced:
        for stale in folder.glob(pattern):
            if stale.is_file() and stale not in new:
                stale.unlink()


def _remove_earlier_tower(folder: Path, new: AbstractSet[Path]) -> None:
    """Remove the files of an earlier tower likewise, and the folders that are empty then."""
    (folder / SETTINGS_FILE).unlink()
    _remove_earlier(folder, new)
    for path in (*(path for path in folder.iterdir() if path.is_dir()), folder):
        with suppress(OSError):  # it is not empty
            path.rmdir()


def _has_code(run_dir: Path) -> bool:
    """Return whether the Python files in a folder belong to the encoder there; otherwise they stay."""
    try:
        return refers_to_code(run_dir)
    except ModelError:  # a damaged encoder is replaced too
        return False
