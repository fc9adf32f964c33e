"""Read and write sentence-transformers' modules.json, which lists a model's modules and their folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisle.errors import ModelError

MODULES_FILE = "modules.json"


@dataclass(frozen=True)
class ListedModule:
    """Entry of modules.json.

    Args:
        kind: Name of the module's class, for example Pooling.
        type: Full name of the class, as written in the file.
        folder: Folder of the module's files.
    """

    kind: str
    type: str
    folder: Path


def listed_modules(model_dir: Path) -> list[ListedModule]:
    """Return the modules that a model's modules.json lists, in order; empty if there is no such file.

    Raises:
        ModelError: `modules.json` is damaged, or names a folder outside the model's folder.
    """
    path = model_dir / MODULES_FILE
    entries = _load(path)
    modules = []
    for entry in entries if isinstance(entries, list) else []:
        if not isinstance(entry, dict):
            continue
        name = str(entry.get("type"))
        folder = (model_dir / str(entry.get("path") or "")).resolve()
        if not folder.is_relative_to(model_dir.resolve()):
            raise ModelError(f"{path}: names the folder {folder} outside the model's folder")
        modules.append(ListedModule(name.rpartition(".")[2], name, folder))
    return modules


def module_folder(model_dir: Path, kind: str) -> Path | None:
    """Return the folder of a model's first module of a kind, or None if it has no module of that kind.

    Raises:
        ModelError: As in `listed_modules`.
    """
    return next((module.folder for module in listed_modules(model_dir) if module.kind == kind), None)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; empty if the file is missing.

    Raises:
        ModelError: The file is not JSON.
    """
    loaded = _load(path)
    return loaded if isinstance(loaded, dict) else {}


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, and its folder if it is missing."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _load(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: is not valid JSON ({error}); restore it") from None
