"""Read judged pairs whose products are those of an index, and split them by query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from aisle.commands.adapt.settings import AdaptSettings
from aisle.data.catalog_texts import ProductIds
from aisle.data.column_aliases import PAIR_PRODUCT, PAIR_PRODUCT_ID
from aisle.data.files import expand_files, iter_rows
from aisle.data.pairs import PairColumns, Pairs, query_key, read_pairs, split_by_query
from aisle.data.rows import Row, find_column
from aisle.data.text_files import TextFormat
from aisle.errors import DataError


@dataclass(frozen=True)
class IndexPairs:
    """Judged pairs of an index.

    Args:
        pairs: The pairs.
        by_id: Whether products and hard negatives are ids; otherwise they are texts.
    """

    pairs: Pairs
    by_id: bool


@dataclass(frozen=True)
class SplitPairs:
    """Judged pairs in three parts that have no query in common.

    Args:
        train: Pairs to train on.
        validation: Pairs that choose the epoch.
        held_out: Pairs that decide whether the adapter is kept.
    """

    train: IndexPairs
    validation: IndexPairs
    held_out: IndexPairs


def read_split_pairs(settings: AdaptSettings, *, log: Callable[[str], None]) -> SplitPairs:
    """Return the pairs of --train_file and --held_out_file.

    Args:
        settings: Settings of the command.
        log: Logs the number of pairs and the columns in use.

    Raises:
        DataError: A file cannot be read, rows are bad, or there are too few queries.
    """
    read = _read(settings.train_file, settings, name="train", log=log)
    pairs, seed = read.pairs, settings.seed
    if settings.held_out_file is None:
        pairs, kept_back = split_by_query(pairs, validation_share=settings.held_out_share, seed=seed)
        held_out = IndexPairs(kept_back, read.by_id)
    else:
        held_out = _read(settings.held_out_file, settings, name="held out", log=log)
        pairs = _without_queries_of(pairs, held_out.pairs, log)
    train, validation = split_by_query(pairs, validation_share=settings.validation_share, seed=seed)
    return SplitPairs(IndexPairs(train, read.by_id), IndexPairs(validation, read.by_id), held_out)


def _without_queries_of(pairs: Pairs, others: Pairs, log: Callable[[str], None]) -> Pairs:
    keys = set(map(query_key, others.queries))
    rows = [row for row, query in enumerate(pairs.queries) if query_key(query) not in keys]
    if len(rows) < len(pairs):
        log(f"{len(pairs) - len(rows):,} training pairs have a held-out query and are left out")
    if not rows:
        raise DataError("--held_out_file: has all queries of --train_file, so that none is left to train on")
    return pairs.select(rows)


def _read(
    files: Sequence[str], settings: AdaptSettings, *, name: str, log: Callable[[str], None]
) -> IndexPairs:
    rows = iter_rows(expand_files(files), text=TextFormat.of(settings.delimiter, settings.encoding))
    head = next((row for row in rows), None)
    by_id = head is not None and _has_only_ids(head, settings)
    read = read_pairs(
        rows if head is None else chain([head], rows),
        columns=PairColumns(
            query=settings.query_column,
            product=settings.product_column,
            label=settings.label_column,
            query_id=settings.query_id_column,
            product_id=settings.product_id_column,
            hard_negatives=settings.hard_negatives_column,
        ),
        label_map=settings.label_map,
        on_bad_row=settings.on_bad_row,
        products=ProductIds() if by_id else None,
    )
    columns = read.columns
    log(
        f"{name}: {len(read.pairs):,} pairs; query: {columns.query}, "
        f"product: {', '.join(filter(None, (columns.product_id, columns.product)))}, "
        f"label: {columns.label or 'none: every pair is a positive'}"
    )
    if read.bad_rows.total:
        log(f"{name}: {read.bad_rows}")
    return IndexPairs(read.pairs, by_id)


def _has_only_ids(head: Row, settings: AdaptSettings) -> bool:
    """Return whether the rows have product ids and no product texts."""
    if head.problem is not None or settings.product_column is not None:
        return False
    has_text = find_column(head, None, PAIR_PRODUCT) is not None
    return not has_text and find_column(head, settings.product_id_column, PAIR_PRODUCT_ID) is not None
