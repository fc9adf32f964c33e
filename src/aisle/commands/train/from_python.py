"""`aisle.train`: the command `train` as a function, for notebooks and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from aisle.commands.named_inputs import check_data_sets, check_models
from aisle.commands.train.data_settings import MEMORY, is_in_memory
from aisle.commands.train.settings import TrainSettings, problems_of
from aisle.config.load import settings_of_call
from aisle.data.memory_rows import memory_rows, splits_in_memory
from aisle.errors import ConfigError, DataError
from aisle.extras import require_extra
from aisle.system.processors import limit_spinning

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from aisle.commands.train.finished_run import FinishedRun

    Paths: TypeAlias = str | Path | Sequence[str | Path]
    TrainingRows: TypeAlias = (
        Paths | Sequence[Mapping[str, Any]] | pd.DataFrame | datasets.Dataset | datasets.DatasetDict
    )

CALLER = "aisle.train"
COMMAND_LINE_ONLY = ("json",)


def train(
    *,
    output_dir: str | Path,
    train_data: TrainingRows | None = None,
    validation_data: TrainingRows | None = None,
    **settings: Any,
) -> FinishedRun:
    """Fine-tune an embedding model on judged pairs and return the finished run.

    The same settings and pairs give the same weights as `aisle train`, to the byte. A notebook
    shows a progress bar, other programs get log lines on stderr, and nothing is printed on stdout. An
    interrupt (Ctrl-C, or the notebook's stop button) stops the run after the current step and writes a
    checkpoint.

    Args:
        output_dir: Folder of the run.
        train_data: The pairs: a list of dicts (column to value), a pandas DataFrame, a `datasets.Dataset` or
            `DatasetDict` (its train and validation splits), or paths of files. None if
            `dataset_name` or `esci_dir` names the pairs.
        validation_data: Validation pairs in the same forms; None holds out a share of the training queries.
        settings: Every other setting of `aisle train`, by the flag's name: `model_name_or_path="..."`,
            `use_peft=True`, `loss="in_batch"`. `config` names a YAML file, or a recipe such as "faq".

    Raises:
        ConfigError: A setting is unknown or not valid, or settings cannot be combined; all are named at once.
        DataError: Rows are bad (each is named by its number), or no pairs are left.
        TrainingStopped: The run was interrupted; the same call with `resume_from_checkpoint="latest"`
            resumes it.
        AisleError: The model or the folder cannot be used, or training failed.
    """
    limit_spinning()
    require_extra("train")
    for name in COMMAND_LINE_ONLY:
        if name in settings:
            raise ConfigError(f"{CALLER}: {name} is for the command line only; leave it out")
    splits = splits_in_memory(train_data)
    if splits is not None:
        train_data, validation_data = _from_splits(splits, validation_data)
    given = {
        **settings,
        "output_dir": output_dir,
        **_named("train", train_data, settings),
        **_named("validation", validation_data, settings),
    }
    resolved = settings_of_call(TrainSettings, given, caller=CALLER)
    problems = problems_of(resolved)
    if problems:
        raise ConfigError("\n".join(problems))
    _check_files(resolved, train_data, validation_data)

    # These import torch, which takes seconds; mistakes in the settings are reported before that.
    from aisle.commands.train.row_sources import MemoryRows
    from aisle.commands.train.run import train_and_push
    from aisle.training.accelerator import separate_state

    data = {"train_data": train_data, "validation_data": validation_data}
    train_rows, validation_rows = (
        None if _are_paths(rows) else memory_rows(rows, name=name) for name, rows in data.items()
    )
    with separate_state():
        return train_and_push(resolved, memory=MemoryRows(train_rows, validation_rows), from_python=True)


def _from_splits(splits: Mapping[str, Any], validation_data: Any) -> tuple[Any, Any]:
    """Return the training and validation pairs of a `DatasetDict`."""
    if "train" not in splits:
        raise DataError(f"train_data: has no split train; its splits are {', '.join(splits)}")
    return splits["train"], splits.get("validation") if validation_data is None else validation_data


def _named(split: str, data: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the setting `train_file` or `validation_file` for data: names of files, or the mark `MEMORY`."""
    setting = f"{split}_file"
    if data is None:
        return {}
    if settings.get(setting) is not None:
        raise ConfigError(f"{CALLER}: {split}_data and {setting}: give one of them")
    if _are_paths(data):
        return {setting: [data] if isinstance(data, str | Path) else list(data)}
    return {setting: [MEMORY]}


def _are_paths(data: object) -> bool:
    """Return whether data are paths of files; None means no data, and counts as paths."""
    if data is None or isinstance(data, str | Path):
        return True
    return isinstance(data, Sequence) and len(data) > 0 and all(isinstance(item, str | Path) for item in data)


def _check_files(settings: TrainSettings, train_data: Any, validation_data: Any) -> None:
    """Refuse files that do not exist, and a configuration of pairs from memory if this call has none."""
    files = {}
    for split, data in (("train", train_data), ("validation", validation_data)):
        names = getattr(settings.data, f"{split}_file")
        if is_in_memory(names) and _are_paths(data):
            raise ConfigError(
                f"{CALLER}: the {split} pairs of {settings.config} were in memory; give them as {split}_data"
            )
        files[split] = () if names is None or is_in_memory(names) else names
    check_data_sets((*(settings.data.dataset_name or ()), *files["train"], *files["validation"]))
    check_models(settings.model.model_name_or_path)
