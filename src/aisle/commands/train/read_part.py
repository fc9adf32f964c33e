"""Read the pairs of one source: find the layout of its rows, parse them, and log what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

from aisle.commands.train.data_settings import DataSettings
from aisle.data.catalog_texts import CatalogTexts
from aisle.data.esci import ESCI_GAINS
from aisle.data.pair_columns import PairColumns, with_teacher_columns
from aisle.data.pairs import Pairs, PairsRead, read_pairs
from aisle.data.rows import Row
from aisle.data.train_formats import row_format

PEEKED_ROWS = 1000
"""Rows that are searched for the first good row, whose columns tell the format."""


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


def named_columns(settings: DataSettings, head: Row | None, *, scored: bool = False) -> PairColumns:
    """Return the columns that the settings name, given the first row; None stands for columns to find.

    Those of a teacher's scores are left out unless they are read (`scored`).
    """
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
        teacher_score=settings.teacher_score_column if scored else None,
        negative_scores=settings.negative_scores_column if scored else None,
    )


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
        scored: Whether to read a teacher's scores.

    Raises:
        DataError: Rows are bad, or no pairs are left.
    """
    head, rows = peek_row(rows)
    columns = named_columns(settings, head, scored=scored)
    if scored:
        columns = with_teacher_columns(columns, head)
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
        + ("" if read.columns.teacher_score is None else f", teacher's score: {read.columns.teacher_score}")
        + ("" if read.columns.negative_scores is None else f", of negatives: {read.columns.negative_scores}")
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
