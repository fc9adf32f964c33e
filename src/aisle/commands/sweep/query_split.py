"""Divide the queries of a sweep: to train on, to choose by, and to measure the winner on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aisle.commands.sweep.input_record import changed_input, input_record, write_record
from aisle.commands.train.data_settings import DataSettings
from aisle.commands.train.loss_settings import needs_teacher_scores
from aisle.commands.train.read_data import read_training_data
from aisle.commands.train.settings import TrainSettings
from aisle.data.pairs import Pairs, check_disjoint, split_by_query
from aisle.errors import ConfigError
from aisle.io.lock import wait_for_lock
from aisle.io.staged_folder import staged_folder
from aisle.sweep.study import LOCK, STUDY

DATA = "data"
PARTS = ("train", "validation", "unseen")
UNSEEN_SEED = 1
"""Added to the seed of the second split, so that it is another than the first."""


@dataclass(frozen=True)
class QuerySplit:
    """The pairs of a sweep on disk.

    Attributes:
        folder: Folder with a parquet file for each part.
        train: Training pairs.
        validation: Pairs of the queries by which trials are compared.
        unseen: Pairs of the queries that take no part in the search.
    """

    folder: Path
    train: Pairs
    validation: Pairs
    unseen: Pairs

    def settings(self, part: str) -> DataSettings:
        """Return how to read the training pairs, with a part as validation pairs."""
        names = self.train.table.column_names
        given = [name for name in ("query_id", "product_id", "hard_negatives", "subgroup") if name in names]
        columns: dict[str, Any] = {f"{name}_column": name for name in given}
        group = next((name for name in ("product_group", "group") if name in names), None)
        if not self.train.texts_of_groups:
            label = "relevance" if self.train.labelled else "none"
            columns |= {"query_column": "query", "product_column": "product", "label_column": label}
        return DataSettings(
            train_file=(str(self.folder / "train.parquet"),),
            validation_file=(str(self.folder / f"{part}.parquet"),),
            train_format="pairs",
            group_column=group,
            **columns,
        )


def split_queries(
    settings: TrainSettings, folder: Path, *, unseen_share: float, log: Callable[[str], None]
) -> QuerySplit:
    """Return the parts of the data; they are written once, and read again by a resumed sweep.

    Raises:
        ConfigError: The folder has trials that were compared on other data.
        AisleError: The data cannot be read, or has too few queries.
    """
    target = folder / DATA
    scored = needs_teacher_scores(settings.objective) and settings.distillation.teacher is None
    record = input_record(
        settings.data, seed=settings.optim.seed, unseen_share=unseen_share, **{"teacher scores": scored}
    )
    lock = wait_for_lock(folder / LOCK)  # another process of the sweep may be reading the data
    try:
        changed = changed_input(record, target) if target.is_dir() else None
        if changed and (folder / STUDY).exists():
            raise ConfigError(
                f"--output_dir {folder}: holds a sweep with other settings: {changed}; its trials were "
                "compared on other data, so give another folder, or the same data and settings"
            )
        if changed:  # an earlier call ended before its first trial
            shutil.rmtree(target)
        if not target.is_dir():
            _write_parts(settings, target, record, unseen_share=unseen_share, scored=scored, log=log)
    finally:
        lock.release()
    split = _opened(target)
    counts = [f"{len(set(pairs.queries)):,} to {use}" for pairs, use in _uses(split)]
    log(f"queries: {', '.join(counts)}")
    shared = check_disjoint(split.train, split.unseen)
    if shared:
        log(
            f"warning: {shared:,} queries to measure the winner on are training queries too, as "
            "--validation_file has them; the figures of the winner will be too high there"
        )
    return split


def _write_parts(
    settings: TrainSettings,
    target: Path,
    record: Mapping[str, str],
    *,
    unseen_share: float,
    scored: bool,
    log: Callable[[str], None],
) -> None:
    """Read the data of the user, and write its parts with the record of the inputs."""
    data = read_training_data(
        settings.data,
        seed=settings.optim.seed,
        token=settings.run.hub_token,
        log=log,
        teacher_scores=scored,
    )
    given = bool(settings.data.validation_file)
    source = data.validation if given else data.train
    rest, unseen = split_by_query(
        source,
        validation_share=0.5 if given else unseen_share,
        seed=settings.optim.seed + UNSEEN_SEED,
    )
    train, validation = (data.train, rest) if given else (rest, data.validation)
    with staged_folder(target) as staging:
        for name, pairs in zip(PARTS, (train, validation, unseen), strict=True):
            pairs.table.to_parquet(str(staging / f"{name}.parquet"))
        write_record(record, staging)
        staging.rename(target)


def _uses(split: QuerySplit) -> list[tuple[Pairs, str]]:
    return [
        (split.train, "train on"),
        (split.validation, "choose by"),
        (split.unseen, "measure the winner on"),
    ]


def _opened(folder: Path) -> QuerySplit:
    import datasets

    tables = [datasets.Dataset.from_parquet(str(folder / f"{name}.parquet")) for name in PARTS]
    return QuerySplit(folder, *map(Pairs, tables))


def with_data(settings: TrainSettings, split: QuerySplit, part: str) -> TrainSettings:
    """Return the settings with the pairs of the sweep in place of those of the user."""
    return replace(settings, data=split.settings(part))
