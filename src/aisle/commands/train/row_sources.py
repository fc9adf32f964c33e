"""Find the rows of the training and validation data: files, memory, the ESCI release or data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from aisle.commands.train.data_settings import DataSettings
from aisle.data.dataset_sources import iter_split, resolve_dataset, splits_of
from aisle.data.esci import iter_esci_rows
from aisle.data.files import expand_files, iter_rows
from aisle.data.rows import Row
from aisle.data.text_files import TextFormat
from aisle.errors import DataError

SANITY_DATASET = "smangrul/amazon_esci"

Rows = Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class MemoryRows:
    """Rows from the caller's memory, in place of --train_file and --validation_file."""

    train: Rows | None = None
    validation: Rows | None = None


NO_MEMORY = MemoryRows()


def row_sources(
    settings: DataSettings, token: str | None, log: Callable[[str], None], memory: MemoryRows
) -> tuple[Rows, Rows | None]:
    """Return the training rows and the validation rows; None if no validation rows are given.

    Args:
        settings: Where the rows are.
        token: Hub token for gated and private data sets.
        log: Logs files of a folder that are left out.
        memory: Rows from memory.

    Raises:
        DataError: A source does not exist, or has no training data.
    """
    text = TextFormat.of(settings.delimiter, settings.encoding)
    if settings.train_file:
        train = memory.train or _file_rows(settings.train_file, text)
        if not settings.validation_file:
            return train, None
        return train, memory.validation or _file_rows(settings.validation_file, text)
    if settings.esci_dir:
        folder, locale, version = Path(settings.esci_dir), settings.esci_locale, settings.esci_version
        # The release's test split is for the final figures, so validation is held out from its train split.
        return lambda: iter_esci_rows(folder, split="train", locale=locale, version=version), None
    train, held_out = _data_set_rows(settings, text, token, log)
    if settings.validation_file:
        return train, memory.validation or _file_rows(settings.validation_file, text)
    return train, held_out


def _data_set_rows(
    settings: DataSettings, text: TextFormat, token: str | None, log: Callable[[str], None]
) -> tuple[Rows, Rows | None]:
    """Return the rows of the train and validation splits of --dataset_name, in the order of the names."""
    revision = settings.dataset_revision
    parts: dict[str, list[Rows]] = {"train": [], "validation": []}
    for name in settings.dataset_name or (SANITY_DATASET,):
        source = resolve_dataset(name, config=settings.dataset_config_name)
        splits = splits_of(source, revision=revision, token=token)
        if source.ignored:
            log(f"left out, because their names contain no split: {', '.join(map(str, source.ignored))}")
        if "train" not in splits:
            raise DataError(f"{source.name}: has no train split; its splits are {', '.join(splits.values())}")
        for split, rows in parts.items():
            if split in splits:
                rows.append(
                    partial(iter_split, source, splits[split], revision=revision, token=token, text=text)
                )
    train, held_out = (partial(_all_rows, rows) if rows else None for rows in parts.values())
    assert train is not None  # each data set has a train split
    return train, held_out


def _all_rows(sources: Sequence[Rows]) -> Iterator[Row]:
    return chain.from_iterable(rows() for rows in sources)


def _file_rows(names: Sequence[str], text: TextFormat) -> Rows:
    files = expand_files(names)
    return lambda: iter_rows(files, text=text)
