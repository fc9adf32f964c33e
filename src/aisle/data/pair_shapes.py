"""Split rows that hold several pairs: triplets, and lists of positives and negatives."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aisle.data.pair_columns import PairColumns
from aisle.data.rows import Problem, Row

__all__ = ["PairShape", "find_shape", "negative_columns"]

NEGATIVE_COLUMNS = "negative"
"""Name of the list that is made from the negatives of a triplet."""
_NEGATIVE = re.compile(r"negative(_\d+)?")
_POSITIVE_SCORES, _NEGATIVE_SCORES = "pos_scores", "neg_scores"
_POSITIVE_ABOVE = 0.5


@dataclass(frozen=True)
class PairShape:
    """Layout of rows, and how a row splits into pairs.

    Attributes:
        columns: Columns of the resulting pairs.
        negatives: Columns that hold a negative each, as in sentence-transformers' triplets.
        lists: Whether the product column holds a list of positives, as FlagEmbedding's `pos` does.
        scores: Whether positives and negatives have scores, `pos_scores` and `neg_scores`.
    """

    columns: PairColumns
    negatives: tuple[str, ...] = ()
    lists: bool = False
    scores: bool = False

    def pairs(self, row: Row) -> Iterator[Row]:
        """Yield the pairs of a row; a row that cannot be split is yielded with its problem."""
        if row.problem is not None or not (self.negatives or self.lists):
            yield row
            return
        values = row.values
        if self.negatives:
            values = {**values, NEGATIVE_COLUMNS: self._negatives(values)}
        if not self.lists:
            yield row._replace(values=values)
            return
        for problem_or_values in self._listed(values):
            if isinstance(problem_or_values, Problem):
                yield row._replace(values={}, problem=problem_or_values)
            else:
                yield row._replace(values=problem_or_values)

    def _negatives(self, values: Mapping[str, object]) -> list[object]:
        cells = (values.get(column) for column in self.negatives)
        return [
            cell for cell in cells if cell is not None and not (isinstance(cell, str) and not cell.strip())
        ]

    def _listed(self, values: dict[str, Any]) -> Iterator[dict[str, Any] | Problem]:
        product, hard = str(self.columns.product), self.columns.hard_negatives
        positives = values.get(product)
        positives = positives if isinstance(positives, list) else [positives]
        if not positives:
            yield Problem(f"{product} is an empty list", positives)
            return
        if not self.scores:
            yield from self._positives(values, product, positives)
            return
        negatives = values.get(hard or "") or []
        for texts, column, role in (
            (positives, _POSITIVE_SCORES, product),
            (negatives, _NEGATIVE_SCORES, hard),
        ):
            scores = values.get(column)
            if not isinstance(scores, list) or not isinstance(texts, list) or len(scores) != len(texts):
                yield Problem(f"{column} is not a list with a score for each text of {role}", scores)
                return
        wrong = [
            text
            for text, score in zip(negatives, values[_NEGATIVE_SCORES], strict=True)
            if isinstance(score, int | float) and score <= _POSITIVE_ABOVE
        ]
        for positive, score in zip(positives, values[_POSITIVE_SCORES], strict=True):
            yield {**values, product: positive, _POSITIVE_SCORES: score, **({hard: wrong} if hard else {})}
        for negative, score in zip(negatives, values[_NEGATIVE_SCORES], strict=True):
            yield {**values, product: negative, _POSITIVE_SCORES: score, **({hard: []} if hard else {})}

    def _positives(
        self, values: dict[str, Any], product: str, positives: list[object]
    ) -> Iterator[dict[str, Any] | Problem]:
        """Yield the pair of each positive, with its own teacher's score if there is a list of them."""
        column = self.columns.teacher_score
        scores = None if column is None else values.get(column)
        if not isinstance(scores, list):
            yield from ({**values, product: positive} for positive in positives)
        elif len(scores) != len(positives):
            yield Problem(f"{column} is not a list with a score for each text of {product}", scores)
        else:
            for positive, score in zip(positives, scores, strict=True):
                yield {**values, product: positive, str(column): score}


def negative_columns(row: Row) -> tuple[str, ...]:
    """Return the columns that hold a negative each: negative, negative_1, negative_2 and so on."""
    return tuple(name for name in row.values if _NEGATIVE.fullmatch(name))


def find_shape(row: Row, columns: PairColumns, *, unlabelled: bool) -> PairShape:
    """Return the layout of rows, from the first good row.

    Args:
        row: First good row.
        columns: Columns as found.
        unlabelled: Whether the user declared every pair a positive; scores are then ignored.
    """
    lists = columns.product is not None and isinstance(row.values.get(columns.product), list)
    negatives = negative_columns(row)
    if columns.hard_negatives is not None:
        negatives = ()
    elif negatives:
        columns = replace(columns, hard_negatives=NEGATIVE_COLUMNS)
    scores = (
        lists
        and columns.label is None
        and not unlabelled
        and columns.teacher_score is None
        and isinstance(row.values.get(_POSITIVE_SCORES), list)
        and isinstance(row.values.get(_NEGATIVE_SCORES), list)
    )
    if scores:
        columns = replace(columns, label=_POSITIVE_SCORES)
    return PairShape(columns, negatives, lists, scores)
