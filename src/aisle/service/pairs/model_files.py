"""Notice that a served model was replaced in its folder, such as by another export or training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeAlias

__all__ = ["FilesState", "ModelFiles", "files_state"]

PATTERNS = (
    *("aisle.json", "bundle.json", "*config*.json", "modules.json", "*.safetensors*", "*.bin", "*.py"),
    *("*.onnx", "*.onnx.data", "tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model"),
)
"""Files from which a bundle, a run, an adapter or a base model is loaded."""
CHECKPOINTS = "checkpoint*"
"""Folders of a run with states of its training, which are not served."""

FilesState: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Path, bytes, time of change and inode of each file, in the order of the paths."""


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model when it was loaded.

    Args:
        folders: Folders of the model; Hub ids are ignored, because their files in the cache never change.
        state: State of the files in them.
    """

    folders: tuple[str, ...] = ()
    state: FilesState = ()

    @staticmethod
    def of(folders: Iterable[str | None]) -> ModelFiles:
        """Return the files of folders as they are now.

        Args:
            folders: Folders, Hub ids and None.
        """
        given = tuple(folder for folder in folders if folder is not None)
        return ModelFiles(given, files_state(given))

    @property
    def changed(self) -> bool:
        """Whether a file was written, replaced, added or removed since."""
        return files_state(self.folders) != self.state


def files_state(folders: Iterable[str]) -> FilesState:
    """Return the state of a model's files, from the directories alone: no file is read."""
    found = []
    for folder in folders:
        place = Path(folder).expanduser()
        for path in (*place.glob("*"), *place.glob("*/*")):
            below = path.parent.name if path.parent != place else ""
            if not fnmatch(below, CHECKPOINTS) and any(fnmatch(path.name, name) for name in PATTERNS):
                try:
                    status = path.stat()
                except OSError:  # removed meanwhile, or a folder that may not be read
                    continue
                found.append((str(path), status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(sorted(found))
