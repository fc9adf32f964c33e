"""The pairs of a run: read, checked, split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from aisle.config.training import DataSettings
from aisle.data.esci import ESCI_GAINS, iter_esci_rows
from aisle.data.files import expand_files, iter_rows
from aisle.data.pairs import PairColumns, Pairs, check_disjoint, read_pairs, split_by_query
from aisle.data.rows import Row
from aisle.data.sources import iter_split, resolve_dataset, split_names
from aisle.errors import DataError

SANITY_DATASET = "smangrul/amazon_esci"
SANITY_ROWS = 1024


@dataclass(frozen=True)
class TrainingData:
    """The pairs of a run; no query is in both."""

    train: Pairs
    validation: Pairs


def read_training_data(
    settings: DataSettings, *, seed: int, token: str | None, say: Callable[[str], None]
) -> TrainingData:
    """Return the training and validation pairs that the settings ask for.

    Args:
        settings: where they are, and how their columns and labels are to be read.
        seed: of the split, where validation data is held out.
        token: for gated and private data sets on the Hub.
        say: told what was read, which columns were taken and which rows were left out.

    Raises:
        DataError: a source cannot be read, rows are bad, or no pairs are left.
    """
    train_rows, validation_rows = _row_sources(settings, token, say)
    train = _read(train_rows(), settings, name="train", say=say)
    if settings.sanity_test:
        train = train.select(range(min(SANITY_ROWS, len(train))))
    if validation_rows is None:
        train, validation = split_by_query(train, validation_share=settings.validation_share, seed=seed)
        say(f"held out {len(validation):,} pairs for validation; no query is on both sides")
        return TrainingData(train, validation)
    # Only training needs hard negatives: a file of validation pairs may be without the column named.
    held_out = replace(settings, hard_negatives_column=None)
    validation = _read(validation_rows(), held_out, name="validation", say=say)
    if settings.sanity_test:
        validation = validation.select(range(min(SANITY_ROWS, len(validation))))
    if train.labelled != validation.labelled:
        labelled, other = ("train", "validation") if train.labelled else ("validation", "train")
        raise DataError(
            f"the {labelled} pairs have labels and the {other} pairs have none; give both or neither"
        )
    shared = check_disjoint(train, validation)
    if shared:
        say(
            f"warning: {shared:,} validation queries are training queries too; "
            "the validation figures will flatter"
        )
    return TrainingData(train, validation)


Rows = Callable[[], Iterator[Row]]


def _row_sources(
    settings: DataSettings, token: str | None, say: Callable[[str], None]
) -> tuple[Rows, Rows | None]:
    if settings.train_file:
        files = expand_files(settings.train_file)
        if not settings.validation_file:
            return lambda: iter_rows(files), None
        held_out = expand_files(settings.validation_file)
        return lambda: iter_rows(files), lambda: iter_rows(held_out)
    if settings.esci_dir:
        folder, locale, version = Path(settings.esci_dir), settings.esci_locale, settings.esci_version
        # The release's test split is for the final figures: validation is held out of its train split.
        return lambda: iter_esci_rows(folder, split="train", locale=locale, version=version), None
    source = resolve_dataset(settings.dataset_name or SANITY_DATASET)
    revision = settings.dataset_revision
    splits = split_names(source, revision=revision, token=token)
    if source.ignored:
        say(f"left out, for their names say no split: {', '.join(map(str, source.ignored))}")
    if "train" not in splits:
        raise DataError(f"{source.name}: has no train split; its splits are {', '.join(splits)}")
    if "validation" not in splits:
        return lambda: iter_split(source, "train", revision=revision, token=token), None
    return (
        lambda: iter_split(source, "train", revision=revision, token=token),
        lambda: iter_split(source, "validation", revision=revision, token=token),
    )


def _read(rows: Iterator[Row], settings: DataSettings, *, name: str, say: Callable[[str], None]) -> Pairs:
    columns = PairColumns(
        query=settings.query_column,
        product=settings.product_column,
        label=settings.label_column,
        query_id=settings.query_id_column,
        product_id=settings.product_id_column,
        hard_negatives=settings.hard_negatives_column,
    )
    label_map = settings.label_map
    if settings.esci_dir:
        columns = replace(columns, query="query", product="product_title", label="esci_label")
        label_map = label_map or ESCI_GAINS
    read = read_pairs(rows, columns=columns, label_map=label_map, on_bad_row=settings.on_bad_row)
    label = read.columns.label or "none: every pair is a positive"
    hard = read.columns.hard_negatives
    say(
        f"{name}: {len(read.pairs):,} pairs; "
        f"query: {read.columns.query}, product: {read.columns.product}, label: {label}"
        + ("" if hard is None else f", hard negatives: {hard}")
    )
    if read.bad_rows.total:
        say(f"{name}: {read.bad_rows}")
    return read.pairs
