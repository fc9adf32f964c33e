"""Read the pairs of a run, check them, and split them into training and validation pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from aisle.commands.train.click_labels import judge_by_clicks
from aisle.commands.train.data_settings import DataSettings
from aisle.commands.train.read_part import named_columns, peek_row, read_part
from aisle.commands.train.row_sources import NO_MEMORY, MemoryRows, Rows, row_sources
from aisle.data.catalog_join import read_catalog_texts
from aisle.data.catalog_texts import CatalogTexts
from aisle.data.files import expand_files, iter_rows
from aisle.data.groups import check_groups, check_held_out
from aisle.data.pair_cells import listed_ids
from aisle.data.pairs import Pairs, check_disjoint, find_pair_columns, split_by_query
from aisle.data.rows import Row
from aisle.data.templates import parse_template
from aisle.data.text_files import TextFormat
from aisle.data.train_formats import reads_as
from aisle.errors import DataError
from aisle.types.columns import ID_COLUMN

SANITY_ROWS = 1024
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


def read_training_data(
    settings: DataSettings,
    *,
    seed: int,
    token: str | None,
    log: Callable[[str], None],
    memory: MemoryRows = NO_MEMORY,
    teacher_scores: bool = False,
    reads_labels: bool = True,
) -> TrainingData:
    """Return the training and validation pairs of the settings.

    Args:
        settings: Where the pairs are, and how to read their columns and labels.
        seed: Seed of the split if validation pairs are held out.
        token: Hub token for gated and private data sets.
        log: Logs the number of pairs, the columns in use and the rows that were left out.
        memory: Rows from memory.
        teacher_scores: Whether to read a teacher's scores of the training pairs, for a loss that needs them.
        reads_labels: Whether the loss may read labels; if not, only validation pairs need any.

    Raises:
        DataError: A source cannot be read, rows are bad, or no pairs are left.
    """
    judged = judge_by_clicks(settings, *row_sources(settings, token, log, memory), log=log)
    train_rows, validation_rows, settings = judged.train, judged.validation, judged.settings
    held_out = _held_out(judged.held_out)
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
    needs_none = validation.labelled and (read.positives_only or not reads_labels)
    if train.labelled != validation.labelled and not needs_none:
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
