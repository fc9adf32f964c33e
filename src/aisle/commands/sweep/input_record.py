"""Record the inputs of a sweep's data, so that a later call does not use the pairs of earlier inputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from aisle.commands.train.data_settings import DataSettings
from aisle.data.files import expand_files
from aisle.io.durable import file_sha256

RECORD = "inputs.json"
CONTENTS = "contents of "


def input_record(settings: DataSettings, **others: object) -> dict[str, str]:
    """Return the settings of the data by name, and the checksum of each input file.

    Args:
        settings: Where the data is, and how to read it.
        others: Other settings that the parts depend on, by name.

    Raises:
        DataError: A file does not exist.
    """
    record = {name: str(value) for name, value in {**asdict(settings), **others}.items()}
    return record | {f"{CONTENTS}{path}": file_sha256(path) for path in _files(settings)}


def _files(settings: DataSettings) -> Iterator[Path]:
    given = (*(settings.train_file or ()), *(settings.validation_file or ()), *(settings.catalog or ()))
    if given:
        yield from map(Path, expand_files(list(given)))
    for name in (*(settings.dataset_name or ()), *filter(None, [settings.esci_dir])):
        path = Path(name)
        yield from [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())


def write_record(record: Mapping[str, str], folder: Path) -> None:
    """Write the record beside the data that was made from it."""
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def changed_input(record: Mapping[str, str], folder: Path) -> str | None:
    """Return how the inputs differ from those of the data in `folder`; None if they are the same."""
    try:
        before = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return "there is no record of its inputs"
    for name in sorted({*before, *record}, key=lambda one: (one.startswith(CONTENTS), one)):
        old, new = before.get(name), record.get(name)
        if old == new:
            continue
        if name.startswith(CONTENTS) and None not in (old, new):
            return f"{name.removeprefix(CONTENTS)} has changed since"
        return f"{name} was {old or 'not set'} and is now {new or 'not set'}"
    return None
