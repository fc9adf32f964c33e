"""Parse a row into a pair: find the columns, and check the values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from aisle.data.catalog_texts import ProductTexts
from aisle.data.column_aliases import (
    GROUPED_TEXT,
    PAIR_HARD_NEGATIVES,
    PAIR_LABEL,
    PAIR_PRODUCT,
    PAIR_PRODUCT_ID,
    PAIR_QUERY,
    PAIR_QUERY_ID,
    SENTENCE_PAIR_LABEL,
)
from aisle.data.labels import LabelReader
from aisle.data.rows import Problem, Row, find_column, id_text, is_unicode, require_columns, text_problem
from aisle.data.unread_numbers import NO_LABELS
from aisle.errors import DataError

__all__ = ["PairColumns", "PairParser", "find_pair_columns", "find_product_columns", "listed_ids"]


@dataclass(frozen=True)
class PairColumns:
    """Columns of a pair; None means: find the column by its usual names.

    In the result of `find_pair_columns`, None means that the data lacks the column.
    """

    query: str | None = None
    """Text of the query; found: query, question, search_term, anchor, sentence1."""
    product: str | None = None
    """Text of the product; found: product, product_title, title, positive, pos (which may be a list),
    sentence2."""
    label: str | None = None
    """Relevance; found: relevance, relevance_label, label, esci_label, and score beside sentence1 and
    sentence2. Without it all pairs are positives."""
    query_id: str | None = None
    """Id of the query; found: query_id."""
    product_id: str | None = None
    """Id of the product; found: product_id."""
    hard_negatives: str | None = None
    """List of products that are wrong for the query; found: hard_negatives, negatives, neg, or collected from
    the columns negative, negative_1, negative_2 and so on."""
    teacher_score: str | None = None
    """Score of the pair by another model, a finite number. Not read unless named."""
    group: str | None = None
    """Group of the product: products of a group are alike, such as the variants of a product. If there is no
    second column of texts, group of the text. Not read unless named."""
    subgroup: str | None = None
    """Subgroup of the pair: texts of other subgroups are negatives. Not read unless named."""

    @property
    def texts_of_groups(self) -> bool:
        """Whether a row is a text with its group, in place of a query with a product."""
        return self.group is not None and self.query is not None and self.query == self.product

    def __str__(self) -> str:
        named = {
            "query": self.query,
            "product": self.product,
            "relevance": self.label,
            "query_id": self.query_id,
            "product_id": self.product_id,
            "hard_negatives": self.hard_negatives,
            "teacher_score": self.teacher_score,
            "group": self.group,
            "subgroup": self.subgroup,
        }
        return ", ".join(
            f"{role} <- {'(none)' if column is None else column}" for role, column in named.items()
        )


def find_pair_columns(row: Row, wanted: PairColumns, *, by_id: bool = False) -> PairColumns:
    """Return the columns to read, found by the column names of a row.

    Args:
        row: A row of the data.
        wanted: Columns that the user named.
        by_id: Whether the texts of products are looked up in a catalogue by product id.

    Raises:
        DataError: A column that the user named is missing, or no query column, product column or (with
            `by_id`) product id column is found.
    """
    if wanted.group is not None and not by_id:
        text = find_text_of_group(row, wanted)
        if text is not None:
            return text
    query = _find_text_column(row, wanted.query, "query", PAIR_QUERY)
    product: str | None = None
    if by_id:
        product_id = find_column(row, wanted.product_id, PAIR_PRODUCT_ID)
        if product_id is None:
            raise DataError(
                f"{row.source}: there is no column of product ids to look up in --catalog; its name is "
                f"{PAIR_PRODUCT_ID[0]}. Name another with --product_id_column, or with --id_column if "
                f"it has the catalogue's name. The columns are: {', '.join(row.values)}."
            )
    else:
        product, product_id = find_product_columns(row, wanted)
    return PairColumns(
        query=query,
        product=product,
        label=_find_label(row, wanted.label, query=query, product=product),
        query_id=find_column(row, wanted.query_id, PAIR_QUERY_ID),
        product_id=product_id,
        hard_negatives=find_column(row, wanted.hard_negatives, PAIR_HARD_NEGATIVES),
        teacher_score=find_column(row, wanted.teacher_score, ()),
        group=find_column(row, wanted.group, ()),
        subgroup=find_column(row, wanted.subgroup, ()),
    )


def find_text_of_group(row: Row, wanted: PairColumns) -> PairColumns | None:
    """Return the columns of a text and its group; None if the row has a query and a product.

    Raises:
        DataError: A column that the user named is missing, the row has no text, or the user named a column
            that only pairs have.
    """
    require_columns(row, [wanted.group])
    query = find_column(row, wanted.query, PAIR_QUERY)
    product = find_column(row, wanted.product, PAIR_PRODUCT)
    if query is not None and product is not None:
        return None
    text = query or product or find_column(row, None, GROUPED_TEXT)
    if text is None:
        names = [*GROUPED_TEXT, *PAIR_QUERY, *PAIR_PRODUCT]
        raise DataError(
            f"{row.source}: there is no column of texts beside the groups; its name is one of "
            f"{', '.join(names)}. Name another with --query_column. The columns are: {', '.join(row.values)}."
        )
    of_pairs = {
        "--label_column": None if wanted.label == NO_LABELS else wanted.label,
        "--query_id_column": wanted.query_id,
        "--product_id_column": wanted.product_id,
        "--hard_negatives_column": wanted.hard_negatives,
        "--subgroup_column": wanted.subgroup,
        "--teacher_score_column": wanted.teacher_score,
    }
    for flag, column in of_pairs.items():
        if column is not None:
            raise DataError(
                f"{row.source}: {flag} {column}: is for pairs of a query and a product, and a row has a "
                f"single text ({text}) with its group ({wanted.group}); leave the flag out, or name the "
                "other text with --product_column."
            )
    return PairColumns(query=text, product=text, group=wanted.group)


def _find_label(row: Row, wanted: str | None, *, query: str, product: str | None) -> str | None:
    if wanted == NO_LABELS and NO_LABELS not in row.values:
        return None
    sentences = (query, product) == ("sentence1", "sentence2")
    return find_column(row, wanted, (*PAIR_LABEL, SENTENCE_PAIR_LABEL) if sentences else PAIR_LABEL)


def find_product_columns(row: Row, wanted: PairColumns) -> tuple[str, str | None]:
    """Return the column of the product's text and, if there is one, of its id.

    Raises:
        DataError: A column that the user named is missing, or no product column is found.
    """
    product = _find_text_column(row, wanted.product, "product", PAIR_PRODUCT)
    return product, find_column(row, wanted.product_id, PAIR_PRODUCT_ID)


def _find_text_column(row: Row, wanted: str | None, role: str, names: Sequence[str]) -> str:
    column = find_column(row, wanted, names)
    if column is not None:
        return column
    by_id = " If the data has product ids only, training looks up the texts with --catalog."
    hint = by_id if role == "product" else ""
    raise DataError(
        f"{row.source}: there is no {role} column; its name is one of {', '.join(names)}. "
        f"Name another with --{role}_column.{hint} The columns are: {', '.join(row.values)}."
    )


class PairParser:
    """Parser from the values of a row to the tuple that is stored.

    Args:
        columns: Columns from `find_pair_columns`.
        label_map: Label to relevance in [0, 1]; None if the labels are numbers.
        products: Texts of products and hard negatives by id; None if the rows have the texts.
        most_hard_negatives: Hard negatives of a pair to keep, the first of its list; None keeps all.
        label_max: Highest label, by which labels are divided.

    Raises:
        DataError: There is a map but no label column, or the map is out of range.
    """

    def __init__(
        self,
        columns: PairColumns,
        label_map: Mapping[str, float] | None,
        products: ProductTexts | None = None,
        *,
        most_hard_negatives: int | None = None,
        label_max: float = 1,
    ) -> None:
        if label_map is not None and columns.label is None:
            raise DataError(
                "--label_map is given, but the data has no label column; name it with --label_column."
            )
        self.columns = columns
        self.labels = LabelReader(
            columns.label or "", label_map=label_map, highest=label_max, divisor=label_max
        )
        self._products = products
        self._most_negatives = most_hard_negatives
        roles = {
            "query": columns.query,
            "product": columns.product if products is None else columns.product_id,
            "query_id": columns.query_id,
            "product_id": columns.product_id,
            "group": columns.group if columns.texts_of_groups else None,
            "subgroup": columns.subgroup,
            "relevance": columns.label,
            "hard_negatives": columns.hard_negatives,
            "teacher_score": columns.teacher_score,
            "product_group": None if columns.texts_of_groups else columns.group,
        }
        self.roles = {role: column for role, column in roles.items() if column is not None}
        others = {
            **{"relevance": "float32", "hard_negatives": "list<string>", "teacher_score": "float32"},
            "product_group": "string",
        }
        self.schema = {role: others.get(role, "string") for role in self.roles}
        self._texts = [column for role, column in self.roles.items() if role not in others]
        self._get_texts = itemgetter(*self._texts)
        readers: dict[str | None, Callable[[object, object], object]] = {
            columns.label: lambda value, _: self.labels.read(value),
            columns.hard_negatives: self._read_negatives,
            columns.teacher_score: self._read_score,
            self.roles.get("product_group"): _read_product_group,
        }
        self._readers = {column: read for column, read in readers.items() if column is not None}

    def parse(self, values: Mapping[str, object]) -> tuple[object, ...] | Problem:
        """Return the pair in the order of `schema`, or the problem with the row."""
        try:
            texts: tuple[object, ...] = self._get_texts(values)
        except KeyError:
            texts = tuple(map(values.get, self._texts))
        if self._products is not None:
            text = self._products.text(self._texts[1], texts[1])
            if isinstance(text, Problem):
                return text
            texts = (texts[0], text, *texts[2:])
        if not _are_texts(texts):
            checked = self._check(texts)
            if isinstance(checked, Problem):
                return checked
            texts = checked
        pair = texts
        for column, read in self._readers.items():
            found = read(values.get(column), texts[1])
            if isinstance(found, Problem):
                return found
            pair = (*pair, found)
        return pair

    def _read_negatives(self, value: object, product: object) -> list[str] | Problem:
        column = str(self.columns.hard_negatives)
        read = _read_hard_negatives(column, value, product=product, catalog=self._products)
        return read if isinstance(read, Problem) else read[: self._most_negatives]

    def _read_score(self, value: object, _product: object) -> float | Problem:
        return _read_score(str(self.columns.teacher_score), value)

    def _check(self, values: tuple[object, ...]) -> tuple[object, ...] | Problem:
        """Return the texts, then the ids as texts, or the first problem."""
        for column, value in zip(self._texts[:2], values, strict=False):
            reason = text_problem(value)
            if reason is not None:
                return Problem(f"{column} {reason}", value)
        ids = [id_text(value) for value in values[2:]]
        for column, identity in zip(self._texts[2:], ids, strict=True):
            if isinstance(identity, Problem):
                return Problem(f"{column} {identity.reason}", identity.found)
        return (*values[:2], *ids)


def _are_texts(values: tuple[Any, ...]) -> bool:
    """Return whether `text_problem` accepts all values; fast, because nearly all rows pass."""
    try:
        return all(map(str.strip, values)) and is_unicode("".join(values))
    except TypeError:
        return False


def _read_score(column: str, value: object) -> float | Problem:
    """Return the finite number in a cell, or a text that is one, as csv has it."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return Problem(f"{column} is {'null' if value is None else 'blank'}", value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return Problem(f"{column} is not a number", value)
    try:
        score = float(value)
    except (ValueError, OverflowError):
        return Problem(f"{column} is not a number", value)
    return score if math.isfinite(score) else Problem(f"{column} is not a finite number", value)


def _read_product_group(value: object, _product: object) -> str | Problem | None:
    """Return the name of a product's group; None if the cell is empty, for a product without a group."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return id_text(value)


def _read_hard_negatives(
    column: str, value: object, *, product: object, catalog: ProductTexts | None
) -> list[str] | Problem:
    """Return the texts of a cell: a list or, in csv, a JSON list; an empty cell has none.

    With a catalogue, the cell holds product ids.
    """
    listed = _listed(column, value)
    if isinstance(listed, Problem):
        return listed
    texts = []
    for entry in listed:
        text = entry if catalog is None else catalog.text(f"{column}: an entry", entry)
        if isinstance(text, Problem):
            return text
        reason = text_problem(text)
        if reason is not None:
            return Problem(f"{column} holds an entry that {reason}", value)
        texts.append(str(text))
    if product in texts:
        return Problem(f"{column} holds the row's own product", value)
    return texts


def _listed(column: str, value: object) -> list[object] | Problem:
    """Return the entries of a cell: a list or, in csv, a JSON list; an empty cell has none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    texts: object = value
    if isinstance(value, str):
        try:
            texts = json.loads(value)
        except (ValueError, RecursionError):
            return Problem(f"{column} is not a JSON list of texts", value)
    return texts if isinstance(texts, list) else Problem(f"{column} is not a list of texts", value)


def listed_ids(values: Mapping[str, object], columns: PairColumns) -> list[str]:
    """Return the valid product ids in a row of pairs by id: of its product and its hard negatives."""
    found = [values.get(columns.product_id or "")]
    if columns.hard_negatives is not None:
        listed = _listed(columns.hard_negatives, values.get(columns.hard_negatives))
        found += [] if isinstance(listed, Problem) else listed
    return [identity for identity in map(id_text, found) if isinstance(identity, str)]
