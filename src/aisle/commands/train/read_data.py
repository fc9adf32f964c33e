"""Read the pairs of a run, check them, and split them into training and validation pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from aisle.commands.train.data_settings import DataSettings
from aisle.data.catalog_join import read_catalog_texts
from aisle.data.catalog_texts import CatalogTexts
from aisle.data.dataset_sources import iter_split, resolve_dataset, splits_of
from aisle.data.esci import ESCI_GAINS, iter_esci_rows
from aisle.data.files import expand_files, iter_rows
from aisle.data.groups import check_groups, check_held_out
from aisle.data.pair_rows import listed_ids
from aisle.data.pairs import (
    PairColumns,
    Pairs,
    PairsRead,
    check_disjoint,
    find_pair_columns,
    read_pairs,
    split_by_query,
)
from aisle.data.rows import Row
from aisle.data.templates import parse_template
from aisle.data.text_files import TextFormat
from aisle.data.train_formats import reads_as, row_format
from aisle.errors import DataError
from aisle.types.columns import ID_COLUMN

SANITY_DATASET = "smangrul/amazon_esci"
SANITY_ROWS = 1024
TEACHER_SCORE = "teacher_score"
PEEKED_ROWS = 1000
"""Rows that are searched for the first good row, whose columns tell the format."""
DEFAULT_TEMPLATE = "{title}"
"""Template of the texts of --catalog if --text_template is not given; the same as for an index."""


@dataclass(frozen=True)
class TrainingData:
    """Training and validation pairs of a run.

    Attributes:
        train: Training pairs.
        validation: Validation pairs.
        joined_titles: Whether texts are a title and a text with [SEP] between them, as in DPR.
    """

    train: Pairs
    validation: Pairs
    joined_titles: bool = False


@dataclass(frozen=True)
class ReadPart:
    """Pairs of a source.

    Attributes:
        pairs: The pairs.
        joined_titles: Whether titles are joined to texts with [SEP].
        positives_only: Whether their format has no labels.
    """

    pairs: Pairs
    joined_titles: bool
    positives_only: bool


Rows = Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class MemoryRows:
    """Rows from the caller's memory, in place of --train_file and --validation_file."""

    train: Rows | None = None
    validation: Rows | None = None


NO_MEMORY = MemoryRows()


def read_training_data(
    settings: DataSettings,
    *,
    seed: int,
    token: str | None,
    log: Callable[[str], None],
    memory: MemoryRows = NO_MEMORY,
    teacher_scores: bool = False,
) -> TrainingData:
    """Return the training and validation pairs of the settings.

    Args:
        settings: Where the pairs are, and how to read their columns and labels.
        seed: Seed of the split if validation pairs are held out.
        token: Hub token for gated and private data sets.
        log: Logs the number of pairs, the columns in use and the rows that were left out.
        memory: Rows from memory.
        teacher_scores: Whether training pairs must have a teacher's scores, for a loss that needs them.

    Raises:
        DataError: A source cannot be read, rows are bad, or no pairs are left.
    """
    train_rows, validation_rows = _row_sources(settings, token, log, memory)
    held_out = _held_out(settings)
    sources = [(train_rows, settings), *([] if validation_rows is None else [(validation_rows, held_out)])]
    products = _catalog_texts(settings, sources, log)
    read = read_part(train_rows(), settings, products, name="train", log=log, scored=teacher_scores)
    train = _start_of(read.pairs) if settings.sanity_test else read.pairs
    if validation_rows is None:
        _check_groups(settings, log, train=train)
        train, validation = split_by_query(train, validation_share=settings.validation_share, seed=seed)
        kind, side = ("texts", "group") if train.texts_of_groups else ("pairs", "query")
        log(f"held out {len(validation):,} {kind} for validation; no {side} is on both sides")
        if train.texts_of_groups:
            check_held_out(train, validation, column=settings.group_column)
        _check_ratings(settings, train, positives_only=read.positives_only)
        _warn_of_subgroups(settings, log, train)
        return TrainingData(train, validation, read.joined_titles)
    head, rows = peek_row(validation_rows())
    held_out = _in_its_format(held_out, head)
    validation = read_part(rows, held_out, products, name="validation", log=log).pairs
    if train.texts_of_groups != validation.texts_of_groups:
        grouped, other = ("train", "validation") if train.texts_of_groups else ("validation", "train")
        raise DataError(
            f"--group_column {settings.group_column}: the {grouped} rows are texts with their groups, and "
            f"the {other} rows have a query and a product; give both in the same form"
        )
    if settings.sanity_test:
        validation = _start_of(validation)
    _check_groups(settings, log, train=train, validation=validation)
    _check_ratings(settings, train, validation, positives_only=read.positives_only)
    # Triples and the like have positives only, whichever pairs choose the best evaluation.
    if train.labelled != validation.labelled and not (read.positives_only and validation.labelled):
        labelled, other = ("train", "validation") if train.labelled else ("validation", "train")
        raise DataError(
            f"the {labelled} pairs have labels and the {other} pairs have none; give both or neither"
        )
    shared = check_disjoint(train, validation)
    if shared:
        log(
            f"warning: {shared:,} validation queries are training queries too; "
            "the validation figures will be too high"
        )
    _warn_of_subgroups(settings, log, train)
    return TrainingData(train, validation, read.joined_titles)


def _check_groups(settings: DataSettings, log: Callable[[str], None], **parts: Pairs) -> None:
    """Check texts with their groups, by the name of the part; log what was found."""
    for name, pairs in parts.items():
        note = check_groups(pairs, name=name, column=settings.group_column) if pairs.texts_of_groups else None
        if note is not None:
            log(note)


def _warn_of_subgroups(settings: DataSettings, log: Callable[[str], None], train: Pairs) -> None:
    subgroups = train.subgroups
    if subgroups is not None and len(set(subgroups)) == 1:
        log(
            f"warning: --subgroup_column {settings.subgroup_column}: all training pairs are of the subgroup "
            f"{subgroups[0]!r}, so only products judged wrong are negatives"
        )


def _held_out(settings: DataSettings) -> DataSettings:
    """Return how to read validation pairs, which may lack the columns that only training needs."""
    return replace(settings, hard_negatives_column=None, subgroup_column=None)


def _in_its_format(settings: DataSettings, head: Row | None) -> DataSettings:
    """Return the settings for validation pairs, which may be other pairs than triples.

    Args:
        settings: Settings of the validation pairs.
        head: First good row of the validation data.
    """
    if settings.train_format not in ("triples", "nli") or head is None:
        return settings
    if reads_as(head, settings.train_format, wanted=named_columns(settings, head)):
        return settings
    there = head.values
    return replace(
        settings,
        train_format="auto",
        query_column=settings.query_column if settings.query_column in there else None,
        product_column=settings.product_column if settings.product_column in there else None,
        label_column=settings.label_column if settings.label_column in there else None,
    )


def _check_ratings(settings: DataSettings, *parts: Pairs, positives_only: bool) -> None:
    if any(pairs.labelled for pairs in parts):
        return
    if settings.label_max is not None:
        raise DataError("--label_max: the data has no label column; name it with --label_column")
    if settings.label_map is not None and positives_only:
        raise DataError(
            "--label_map: the training pairs are all positives, in the format that the log names; leave it "
            "out, or give --train_format pairs"
        )


def _start_of(pairs: Pairs) -> Pairs:
    return pairs.select(range(min(SANITY_ROWS, len(pairs))))


def _row_sources(
    settings: DataSettings, token: str | None, log: Callable[[str], None], memory: MemoryRows
) -> tuple[Rows, Rows | None]:
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


def named_columns(settings: DataSettings, head: Row | None) -> PairColumns:
    """Return the columns that the settings name, given the first row; None stands for columns to find."""
    product_id = settings.product_id_column
    if product_id is None and head is not None and settings.id_column in head.values:
        product_id = settings.id_column
    return PairColumns(
        query=settings.query_column,
        product=settings.product_column,
        label=settings.label_column,
        query_id=settings.query_id_column,
        product_id=product_id,
        hard_negatives=settings.hard_negatives_column,
        group=settings.group_column,
        subgroup=settings.subgroup_column,
    )


def _catalog_texts(
    settings: DataSettings, sources: Sequence[tuple[Rows, DataSettings]], log: Callable[[str], None]
) -> CatalogTexts | None:
    """Return the texts of the products that the pairs name by id, or None without --catalog."""
    if not settings.catalog:
        return None
    template = settings.text_template or DEFAULT_TEMPLATE
    parse_template(template)  # reports a mistake in the template before the pairs are read
    files = expand_files(settings.catalog)
    wanted: set[str] = set()
    for rows, how in sources:
        columns = None
        for row in rows():
            if row.problem is None:
                columns = columns or find_pair_columns(row, named_columns(how, row), by_id=True)
                wanted.update(listed_ids(row.values, columns))
    products = read_catalog_texts(
        iter_rows(files, text=TextFormat.of(settings.delimiter, settings.encoding)),
        wanted=wanted,
        judgements="the judgements",
        catalog="the catalogue",
        id_column=settings.id_column or ID_COLUMN,
        text_template=template,
        on_bad_row=settings.on_bad_row,
    )
    log(
        f"catalogue: {products.count:,} products, {len(products.texts):,} of them judged; a product's text "
        f"is {template!r}"
    )
    if products.bad_rows.total:
        log(f"catalogue: {products.bad_rows}")
    return products


def read_part(
    rows: Iterator[Row],
    settings: DataSettings,
    products: CatalogTexts | None,
    *,
    name: str,
    log: Callable[[str], None],
    scored: bool = False,
) -> ReadPart:
    """Return the pairs in rows.

    Args:
        rows: Rows of a source.
        settings: How to read them.
        products: Texts by product id, for rows that name products by id.
        name: Name of the part, for the log.
        log: Logs the number of pairs, the columns in use and the rows that were left out.
        scored: Whether the pairs must have a teacher's scores.

    Raises:
        DataError: Rows are bad, or no pairs are left.
    """
    head, rows = peek_row(rows)
    columns = named_columns(settings, head)
    if scored:
        columns = replace(columns, teacher_score=settings.teacher_score_column or TEACHER_SCORE)
    label_map = settings.label_map
    layout = None
    if settings.esci_dir:
        columns = replace(columns, query="query", product="product_title", label="esci_label")
        label_map = label_map or ESCI_GAINS
    elif head is not None:
        layout = row_format(
            head,
            "pairs" if settings.catalog else settings.train_format,
            wanted=columns,
            text_template=settings.text_template,
            log=log,
        )
    if layout is not None:
        columns, label_map = layout.columns, None
        rows = layout.convert(rows)
    read = read_pairs(
        rows,
        columns=columns,
        label_map=label_map,
        on_bad_row=settings.on_bad_row,
        products=products,
        most_hard_negatives=settings.hard_negatives_per_pair,
        label_max=None if layout else settings.label_max,
    )
    titles = layout is not None and layout.joins_titles
    if read.columns.texts_of_groups:
        log(f"{name}: {len(read.pairs):,} texts; text: {read.columns.query}, group: {read.columns.group}")
        return ReadPart(_noted(read, name, log), titles, positives_only=False)
    label = read.columns.label or "none: every pair is a positive"
    hard = read.columns.hard_negatives
    product = read.columns.product if products is None else f"the catalogue's by {read.columns.product_id}"
    log(
        f"{name}: {len(read.pairs):,} pairs"
        + (f" of {layout.description}" if layout else "")
        + f"; query: {read.columns.query}, product: {product}, label: {label}"
        + ("" if hard is None else f", hard negatives: {hard}")
        + (f", teacher's score: {read.columns.teacher_score}" if scored else "")
        + ("" if read.columns.group is None else f", group of the product: {read.columns.group}")
        + ("" if read.columns.subgroup is None else f", subgroup: {read.columns.subgroup}")
    )
    return ReadPart(_noted(read, name, log), titles, positives_only=layout is not None)


def _noted(read: PairsRead, name: str, log: Callable[[str], None]) -> Pairs:
    """Log columns and rows that were left out; return the pairs."""
    if read.unread_numbers:
        log(f"{name}: these columns of numbers are not read: {', '.join(read.unread_numbers)}")
    if read.bad_rows.total:
        log(f"{name}: {read.bad_rows}")
    return read.pairs


def peek_row(rows: Iterator[Row]) -> tuple[Row | None, Iterator[Row]]:
    """Return the first good row, and all rows; None if none of the first rows is good."""
    peeked: list[Row] = []
    for row in islice(rows, PEEKED_ROWS):
        peeked.append(row)
        if row.problem is None:
            return row, chain(peeked, rows)
    return None, chain(peeked, rows)
