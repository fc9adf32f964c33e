"""Rows of DPR's json as rows of pairs: each positive of a question, with its hard negatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from aisle.data.column_aliases import PAIR_PRODUCT
from aisle.data.dpr_json import HARD_NEGATIVES, NEGATIVES, POSITIVES, QUESTION, context_text
from aisle.data.pair_columns import PairColumns
from aisle.data.rows import Problem, Row
from aisle.data.templates import TextTemplate
from aisle.data.unread_numbers import NO_LABELS
from aisle.errors import DataError

__all__ = ["DPR_COLUMNS", "dpr_rows", "refuse_dpr_without_positives"]

DPR_COLUMNS = PairColumns(query=QUESTION, product=POSITIVES, label=NO_LABELS, hard_negatives=HARD_NEGATIVES)
"""Columns of the rows that `dpr_rows` yields."""
RETRIEVED = "ctxs"
"""Passages in the output of DPR's retriever, which nobody has judged."""


def refuse_dpr_without_positives(row: Row) -> None:
    """Refuse questions that have lists of DPR's contexts, and no list of positives.

    Raises:
        DataError: The row has them.
    """
    lists = [name for name in (HARD_NEGATIVES, NEGATIVES, RETRIEVED) if name in row.values]
    others = {POSITIVES, *PAIR_PRODUCT} & row.values.keys()
    if QUESTION in row.values and lists and not others:
        raise DataError(
            f"{row.source}: has DPR's {QUESTION} and {' and '.join(lists)} and no {POSITIVES}; training "
            f"needs the passages that answer a question. The columns are: {', '.join(row.values)}."
        )


def dpr_rows(
    rows: Iterator[Row], *, template: TextTemplate | None, log: Callable[[str], None]
) -> Iterator[Row]:
    """Yield a row for each positive of a question, with the question's hard negatives.

    A question without hard negatives has its other negatives in place of them, as in DPR.

    Args:
        rows: Rows of DPR's json.
        template: Template of a passage's text; None joins title and text as DPR does.
        log: Function called with the number of questions that have no hard negatives but others.
    """
    questions = fell_back = 0
    for row in rows:
        if row.problem is not None:
            yield row
            continue
        passages = _passages(row, template)
        if isinstance(passages, Problem):
            yield row._replace(values={}, problem=passages)
            continue
        questions += 1
        fell_back += passages.fell_back
        for positive in passages.positives:
            values = {
                QUESTION: row.values.get(QUESTION),
                POSITIVES: positive,
                HARD_NEGATIVES: passages.negatives,
            }
            yield row._replace(values=values, declared=None)
    if fell_back:
        log(
            f"{fell_back:,} of {questions:,} questions have no {HARD_NEGATIVES}; their {NEGATIVES} are read "
            "in place of them, as DPR does"
        )


@dataclass(frozen=True)
class _Passages:
    """Texts of a question's passages: distinct positives, and its hard negatives.

    Attributes:
        positives: Texts that answer the question.
        negatives: Texts of its hard negatives, or of its other negatives if it has none.
        fell_back: Whether other negatives are in place of hard negatives.
    """

    positives: tuple[str, ...]
    negatives: list[str]
    fell_back: bool = False


def _passages(row: Row, template: TextTemplate | None) -> _Passages | Problem:
    """Return the texts of a row of DPR's json, or the problem with it."""
    positives = _texts(POSITIVES, row.values.get(POSITIVES), template)
    if isinstance(positives, Problem):
        return positives
    hard = _texts(HARD_NEGATIVES, row.values.get(HARD_NEGATIVES), template)
    if isinstance(hard, Problem):
        return hard
    problem = _contradiction(positives, hard, row.values.get(POSITIVES))
    if problem is not None:
        return problem
    distinct = tuple(dict.fromkeys(positives))
    if hard:
        return _Passages(distinct, hard)
    others = _texts(NEGATIVES, row.values.get(NEGATIVES), template)
    if isinstance(others, Problem):
        return others
    # Nobody has checked these, so a positive among them is left out; among hard negatives it is an error.
    others = [text for text in others if text not in distinct]
    return _Passages(distinct, others, fell_back=bool(others))


def _contradiction(positives: Sequence[str], negatives: Sequence[str], found: object) -> Problem | None:
    if not positives:
        return Problem(f"{POSITIVES} is empty; a question needs a passage that answers it", found)
    both = next((text for text in negatives if text in positives), None)
    return None if both is None else Problem(f"{HARD_NEGATIVES} holds a positive of the question", both)


def _texts(name: str, contexts: object, template: TextTemplate | None) -> list[str] | Problem:
    """Return the texts of a list of contexts; a list that is missing is empty."""
    if contexts is None:
        return []
    if not isinstance(contexts, list):
        return Problem(f"{name} is not a list of contexts", contexts)
    texts = []
    for context in contexts:
        text = context_text(context, template)
        if isinstance(text, Problem):
            return Problem(f"{name} holds a context {text.reason}", text.found)
        texts.append(text)
    return texts
