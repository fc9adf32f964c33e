"""Whether the files and folders that a command names are there, before anything heavy is imported for it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from aisle.commands.index_settings import BuildSettings, EvaluateSettings
from aisle.commands.maintain_settings import UpsertSettings
from aisle.commands.tool_settings import AverageSettings
from aisle.commands.train.settings import TrainSettings
from aisle.data.dataset_sources import looks_local
from aisle.data.files import expand_files
from aisle.errors import DataError, IndexIntegrityError, ModelError

__all__ = ["average_inputs", "build_inputs", "evaluate_inputs", "train_inputs", "upsert_inputs"]


def build_inputs(settings: BuildSettings) -> None:
    """Raise unless the catalogue, the tuning files and a model given as a folder are there."""
    expand_files(settings.catalog or ())
    _data_sets(settings.pairs or ())
    _files(settings.tune_queries, settings.tune_qrels)
    _models(settings.model, settings.base_model)


def evaluate_inputs(settings: EvaluateSettings) -> None:
    """Raise unless queries, judgements, pairs, indexes and models given as folders are there."""
    _files(settings.queries, *(settings.qrels or ()))
    _data_sets(settings.pairs or ())
    _indexes(*(() if settings.index_dir is None else (settings.index_dir,)), *settings.compare)
    named = settings.base_model_row
    _models(settings.model, settings.base_model, None if named in {"auto", "none"} else named)


def upsert_inputs(settings: UpsertSettings) -> None:
    """Raise unless the index and the catalogue are there."""
    _indexes(settings.index_dir)
    expand_files(settings.catalog)
    _models(settings.model, settings.base_model)


def train_inputs(settings: TrainSettings) -> None:
    """Raise unless data and a base model given as files or folders are there."""
    data = settings.data
    named = (*([data.dataset_name] if data.dataset_name else []), *(data.train_file or ()))
    _data_sets((*named, *(data.validation_file or ())))
    _models(settings.model.model_name_or_path)


def average_inputs(settings: AverageSettings) -> None:
    """Raise unless runs given as folders are there."""
    _models(*settings.runs)


def _files(*names: str | None) -> None:
    for name in names:
        if name is not None and not Path(name).expanduser().exists():
            raise DataError(f"{name}: there is no such file")


def _data_sets(names: Iterable[str]) -> None:
    """Refuse a name that is not there and that cannot be a data set on the Hub."""
    expand_files(name for name in names if looks_local(name) and not Path(name).expanduser().exists())


def _indexes(*folders: str) -> None:
    for folder in folders:
        if not Path(folder).expanduser().is_dir():
            raise IndexIntegrityError(
                f"{folder}: must be an index directory, found none; build the index first"
            )


def _models(*names: str | None) -> None:
    """Refuse a name that is no folder and that cannot be a model on the Hub."""
    for name in names:
        if name is None or Path(name).expanduser().exists():
            continue
        if name.count("/") > 1 or name.startswith((".", "/", "~")):
            raise ModelError(f"{name}: there is no such folder, and it is not a Hub id (owner/name)")
