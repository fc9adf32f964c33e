"""Find the columns of pairs by their usual names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from aisle.data.column_aliases import (
    GROUPED_TEXT,
    PAIR_HARD_NEGATIVES,
    PAIR_LABEL,
    PAIR_NEGATIVE_SCORES,
    PAIR_PRODUCT,
    PAIR_PRODUCT_ID,
    PAIR_QUERY,
    PAIR_QUERY_ID,
    PAIR_TEACHER_SCORE,
    SENTENCE_PAIR_LABEL,
)
from aisle.data.rows import Row, find_column, require_columns
from aisle.data.unread_numbers import NO_LABELS
from aisle.errors import DataError

__all__ = ["PairColumns", "find_pair_columns", "find_product_columns", "with_teacher_columns"]


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
    negative_scores: str | None = None
    """List of the other model's scores of the hard negatives. Not read unless named."""
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
            "negative_teacher_scores": self.negative_scores,
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
        negative_scores=find_column(row, wanted.negative_scores, ()),
        group=find_column(row, wanted.group, ()),
        subgroup=find_column(row, wanted.subgroup, ()),
    )


def with_teacher_columns(columns: PairColumns, row: Row | None) -> PairColumns:
    """Return columns with those of a teacher's scores, found by their usual names in a row.

    A column that the user named stays. Scores of hard negatives need scores of pairs beside them.
    """
    if row is None:
        return columns
    score = columns.teacher_score or find_column(row, None, PAIR_TEACHER_SCORE)
    negatives = columns.negative_scores or find_column(row, None, PAIR_NEGATIVE_SCORES)
    return replace(columns, teacher_score=score, negative_scores=None if score is None else negatives)


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
        "--negative_scores_column": wanted.negative_scores,
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
