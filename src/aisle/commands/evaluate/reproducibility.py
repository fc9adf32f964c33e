"""Record how to make the same figures again: command, files with checksums, versions, settings."""

from __future__ import annotations

import dataclasses
import platform
import shlex
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from aisle.commands.evaluate.compare_pairs import pair_files
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.config.load import UNSAVED_FIELDS, saved_form
from aisle.evaluation.document import InputFile, Provenance
from aisle.index.manifest import MANIFEST_FILE
from aisle.io.durable import file_sha256
from aisle.models.run_file import SETTINGS_FILE
from aisle.version import __version__

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "scipy", "hnswlib", "ranx")


def provenance_of(
    settings: EvaluateSettings, *, resolved: Mapping[str, Any], model: str | None
) -> Provenance:
    """Return the provenance of an evaluation.

    Args:
        settings: Settings of the user; secrets are left out.
        resolved: Values of settings that were left open.
        model: Name or folder of the encoder.

    Raises:
        OSError: An input cannot be read any more.
    """
    return Provenance(
        command=command_of(settings),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seed=settings.seed,
        resamples=settings.resamples,
        versions={"aisle": __version__, "python": platform.python_version(), **_versions()},
        configuration={**saved_form(settings), **resolved},
        inputs=tuple(_inputs(settings, model)),
    )


def command_of(settings: EvaluateSettings) -> str:
    """Return the command line that makes the same figures: each flag that is not at its default."""
    words = ["python", "infer_index.py", "evaluate"]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in UNSAVED_FIELDS or value == field.default:
            continue
        words.append(f"--no_{field.name}" if value is False else f"--{field.name}")
        words += _words(value)
    return shlex.join(words)


def _words(value: Any) -> Sequence[str]:
    """Return the value of a flag as it is typed; a switch has none."""
    if isinstance(value, bool):
        return ()
    if isinstance(value, Mapping):
        return (",".join(f"{label}={gain:g}" for label, gain in value.items()),)
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _inputs(settings: EvaluateSettings, model: str | None) -> Iterable[InputFile]:
    """Yield the input files; of an index and a run only the file with the checksums of the others."""
    named = [("queries", settings.queries), *(("judgements", path) for path in settings.qrels or ())]
    named.append(("present engine", settings.run))
    files = [(role, Path(path)) for role, path in named if path is not None]
    files += [("pairs", path) for path in pair_files(settings)]
    if settings.index_dir is not None:
        files.append(("index", Path(settings.index_dir) / MANIFEST_FILE))
    files += [("compared index", Path(folder) / MANIFEST_FILE) for folder in settings.compare]
    if model is not None and (Path(model) / SETTINGS_FILE).is_file():
        files.append(("model", Path(model) / SETTINGS_FILE))
    for role, path in files:
        yield InputFile(role, str(path), path.stat().st_size, file_sha256(path))
