"""Pairs of a query and a product, with a relevance if they are judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aisle.data.catalog_texts import ProductTexts
from aisle.data.digests import text_digest
from aisle.data.pair_columns import PairColumns, find_pair_columns
from aisle.data.pair_rows import PairParser
from aisle.data.pair_shapes import find_shape
from aisle.data.rows import BadRowLog, BadRows, OnBadRow, Problem, Row, require_columns
from aisle.data.unread_numbers import NO_LABELS, unread_numbers
from aisle.errors import DataError
from aisle.io.arrow_writer import Spool

if TYPE_CHECKING:
    import datasets
    import numpy.typing as npt

PEEKED_ROWS = 1000
"""Rows that are searched for columns of numbers if there is no label column."""

__all__ = [
    "PairColumns",
    "Pairs",
    "PairsRead",
    "check_disjoint",
    "find_pair_columns",
    "query_key",
    "read_pairs",
    "split_by_query",
]


@dataclass(frozen=True)
class Pairs:
    """Pairs on disk, memory-mapped.

    Attributes:
        table: Columns `query` and `product` (string), and if the data has them: `relevance` (float32 in
            [0, 1]), `query_id` and `product_id` (string), `hard_negatives` (list of string: products that are
            wrong for the query), `product_group` (string or null: products of a group are alike), `subgroup`
            (string). In rows of a text with its group, `query` and `product` are that text, and `group`
            (string) is its group.
    """

    table: datasets.Dataset

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labelled(self) -> bool:
        """Whether the pairs are judged; if not, every pair is a positive."""
        return "relevance" in self.table.column_names

    @property
    def graded(self) -> bool:
        """Whether some relevance is neither 0 nor 1."""
        relevance = self.relevance
        return relevance is not None and not bool(np.isin(relevance, (0, 1)).all())

    def positive_share(self, *, above: float = 0.5) -> float:
        """Return the share of pairs with a relevance above `above`, in [0, 1]; 1 for unlabelled pairs."""
        relevance = self.relevance
        return 1.0 if relevance is None else float((relevance > np.float32(above)).mean())

    def select(self, indices: Sequence[int] | npt.NDArray[np.integer]) -> Pairs:
        """Return the pairs at `indices`, in that order; nothing is copied."""
        return Pairs(self.table.select(indices))

    @property
    def texts_of_groups(self) -> bool:
        """Whether a row is a text with its group, in place of a query with a product."""
        return "group" in self.table.column_names

    @property
    def groups(self) -> list[str]:
        """The group of each row's text; only in rows of a text with its group."""
        return self._values("group")

    @property
    def product_groups(self) -> list[str | None] | None:
        """The group of each pair's product, None for a product without a group; None if there are none."""
        return self._values("product_group") if "product_group" in self.table.column_names else None

    @property
    def subgroups(self) -> list[str] | None:
        """The subgroup of each pair; None if the data has none."""
        return self._values("subgroup") if "subgroup" in self.table.column_names else None

    @property
    def queries(self) -> list[str]:
        """The query of each pair."""
        return self._values("query")

    @property
    def products(self) -> list[str]:
        """The product of each pair."""
        return self._values("product")

    @property
    def query_ids(self) -> list[str] | None:
        """The query id of each pair, or the group of each text; None if the data has none."""
        if self.texts_of_groups:
            return self.groups
        return self._values("query_id") if "query_id" in self.table.column_names else None

    @property
    def product_ids(self) -> list[str] | None:
        """The product id of each pair, or the group of each text; None if the data has none."""
        if self.texts_of_groups:
            return self.groups
        return self._values("product_id") if "product_id" in self.table.column_names else None

    @property
    def relevance(self) -> npt.NDArray[np.float32] | None:
        """The relevance of each pair, (pairs,) float32 in [0, 1]; None for unlabelled pairs."""
        if not self.labelled:
            return None
        return self._numbers("relevance")

    @property
    def hard_negatives(self) -> list[list[str]] | None:
        """The products that are wrong for the query of each pair, any number; None if the data has none."""
        return self._values("hard_negatives") if "hard_negatives" in self.table.column_names else None

    @property
    def has_hard_negatives(self) -> bool:
        """Whether some pair has a hard negative."""
        if "hard_negatives" not in self.table.column_names:
            return False
        column = self.table.select_columns("hard_negatives").with_format("arrow")[:]["hard_negatives"]
        return any(len(chunk.flatten()) for chunk in column.chunks)

    @property
    def teacher_scores(self) -> npt.NDArray[np.float32] | None:
        """The teacher's score of each pair, (pairs,) float32; None where they were not read."""
        return self._numbers("teacher_score") if "teacher_score" in self.table.column_names else None

    @property
    def negative_teacher_scores(self) -> list[list[float]] | None:
        """The teacher's scores of each pair's hard negatives; None where they were not read."""
        name = "negative_teacher_scores"
        return self._values(name) if name in self.table.column_names else None

    def _numbers(self, name: str) -> npt.NDArray[np.float32]:
        column = self.table.select_columns(name).with_format("arrow")[:][name]
        return np.asarray(column.to_numpy(), dtype=np.float32)

    def _values(self, column: str) -> list[Any]:
        values: list[Any] = self.table.select_columns(column).with_format("arrow")[:][column].to_pylist()
        return values


@dataclass(frozen=True)
class PairsRead:
    """Pairs, the report of bad rows, and the columns that were read.

    Attributes:
        pairs: Pairs; a row can make several.
        bad_rows: Report of the rows that were left out, counted in pairs if rows make several.
        columns: Columns as found.
        unread_numbers: Columns of numbers that are not read, if there is no label column.
    """

    pairs: Pairs
    bad_rows: BadRows
    columns: PairColumns
    unread_numbers: tuple[str, ...] = ()


def read_pairs(
    rows: Iterable[Row],
    *,
    columns: PairColumns,
    label_map: Mapping[str, float] | None,
    on_bad_row: OnBadRow,
    products: ProductTexts | None = None,
    most_hard_negatives: int | None = None,
    label_max: float | None = None,
    cache_dir: Path | None = None,
) -> PairsRead:
    """Read pairs from rows and write them to disk in batches, so that memory stays flat.

    Texts are kept exactly. A row is bad if a text is null, blank, not text or not valid Unicode, if its label
    is not in the map (without a map: not a number in [0, 1]), if an id is missing, or if its hard negatives
    are not a list of texts or contain its own product.

    Args:
        rows: Rows of one or more sources, all with the same columns.
        columns: Columns to read.
        label_map: Label to relevance in [0, 1]; None if the labels are numbers.
        on_bad_row: What to do with bad rows.
        products: Texts by product id, for rows that name products by id; None if the rows have the texts.
        most_hard_negatives: Hard negatives of a pair to keep, the first of its list; None keeps all.
        label_max: Highest label, by which labels are divided; None if they are in [0, 1] already.
        cache_dir: Folder for the Arrow file, which the caller removes; None needs no removal.

    Raises:
        DataError: A column is missing, labels are words without a map, a column of numbers may be the
            relevance, no good row is left, there are bad rows and `on_bad_row` is `error`, or the disk is
            full.
    """
    log = BadRowLog()
    head, rest = log.first_good(rows, on_bad_row)
    found = find_pair_columns(head, columns, by_id=products is not None)
    shape = find_shape(head, found, unlabelled=columns.label == NO_LABELS)
    unread: tuple[str, ...] = ()
    if shape.columns.label is None and columns.label is None:
        peeked = list(islice(rest, PEEKED_ROWS))
        rest = chain(peeked, rest)
        read = [name for name in vars(shape.columns).values() if name is not None]
        good = [row for row in peeked if row.problem is None]
        unread = unread_numbers(good, read=[*read, *shape.negatives])
    parser = PairParser(
        shape.columns,
        label_map,
        products,
        most_hard_negatives=most_hard_negatives,
        label_max=label_max or 1,
    )
    source = None
    with Spool(cache_dir, parser.schema) as spool:
        for row in chain.from_iterable(map(shape.pairs, rest)):
            if row.problem is not None:
                log.add(row, row.problem)
                continue
            if row.source != source:
                require_columns(row, parser.roles.values())
                source = row.source
            pair = parser.parse(row.values)
            if isinstance(pair, Problem):
                log.add(row, pair)
            else:
                spool.add(pair)
        parser.labels.refuse_unusable(read=spool.count + log.total)
        report = log.settle(on_bad_row, good=spool.count)
        table = spool.finish()
    return PairsRead(Pairs(table), report, parser.columns, unread)


def query_key(query: str) -> str:
    """Return the text without case and surplus white space; queries with equal keys are the same query."""
    return " ".join(query.casefold().split())


def split_by_query(pairs: Pairs, *, validation_share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Return training and validation pairs that have no query in common.

    Queries are the same if they share a text (`query_key`) or an id, directly or through other queries. A
    hash of the seed and the text decides which queries are for validation, so the split depends on neither
    the order of rows nor the platform.

    Args:
        pairs: Pairs to split; both parts keep the order of rows.
        validation_share: Share of the distinct queries, in (0, 1); each part gets at least one query. Rows of
            a text with its group are split by group, and each part gets at least two groups: the ranking of
            a single group's texts is always right.
        seed: Seed of the hash; each seed is a different split.

    Raises:
        DataError: The share is out of range, or there are fewer than two distinct queries (four groups).
    """
    if not 0 < validation_share < 1:
        raise DataError(
            f"--validation_share is {validation_share}; it must be a share of the queries, between 0 and 1."
        )
    groups = _query_groups([query_key(query) for query in pairs.queries], pairs.query_ids)
    names = set(groups)
    least = 2 if pairs.texts_of_groups else 1
    if len(names) < 2 * least and pairs.texts_of_groups:
        raise DataError(
            f"--group_column: the rows have {len(names)} groups (groups that share a text, in any case, "
            "count as a single group), and a split needs four: two for validation and two for training. Give "
            "--validation_file, with at least two groups."
        )
    if len(names) < 2:
        raise DataError(
            "The pairs have a single distinct query; a split needs two. Give validation pairs instead."
        )
    count = min(max(round(validation_share * len(names)), least), len(names) - least)
    ordered = sorted(names, key=lambda name: text_digest(f"{seed}\0{name}"))
    chosen = set(ordered[:count])
    train = [index for index, group in enumerate(groups) if group not in chosen]
    validation = [index for index, group in enumerate(groups) if group in chosen]
    return pairs.select(train), pairs.select(validation)


def _query_groups(keys: Sequence[str], ids: Sequence[str] | None) -> list[str]:
    """Return the group of each pair: the smallest key among queries that share a text or an id."""
    if ids is None:
        return list(keys)
    from aisle.data.negatives import equality_keys  # imports SciPy

    groups = equality_keys(keys, ids).tolist()
    smallest: dict[int, str] = {}
    for group, key in zip(groups, keys, strict=True):
        smallest[group] = min(key, smallest.get(group, key))
    return [smallest[group] for group in groups]


def check_disjoint(train: Pairs, validation: Pairs) -> int:
    """Return the number of distinct queries (by `query_key`) that are in both parts; it should be 0."""
    return len(set(map(query_key, train.queries)) & set(map(query_key, validation.queries)))
