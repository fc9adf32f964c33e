"""Read the cells of a pair that hold no text or id: scores, groups, and lists of hard negatives."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from aisle.data.catalog_texts import ProductTexts
from aisle.data.pair_columns import PairColumns
from aisle.data.rows import Problem, id_text, text_problem

__all__ = [
    "listed_ids",
    "read_hard_negatives",
    "read_number",
    "read_product_group",
    "read_score",
    "read_scores",
]

MOST_SCORE = 1e9
"""Largest score of a teacher, above or below 0. Training computes squares of differences and quotients by a
temperature in 32 bits, which end at 3e38; scores of cross-encoders and of BM25 are below 1,000."""


def read_number(column: str, value: object) -> float | Problem:
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


def read_score(column: str, value: object) -> float | Problem:
    """Return the score of a teacher in a cell; its size is at most `MOST_SCORE`."""
    score = read_number(column, value)
    if isinstance(score, Problem) or abs(score) <= MOST_SCORE:
        return score
    return Problem(f"{column} is not between {-MOST_SCORE:g} and {MOST_SCORE:g}", value)


def read_scores(column: str, value: object, *, texts: object) -> list[float] | Problem:
    """Return the finite numbers in a cell: a list with a score for each entry of another cell's list.

    Args:
        column: Name of the column, for the message.
        value: The cell: a list or, in csv, a JSON list.
        texts: The cell with the hard negatives.
    """
    listed, scored = _listed(column, value, "numbers"), _listed("", texts)
    if isinstance(listed, Problem):
        return listed
    count = 0 if isinstance(scored, Problem) else len(scored)
    if len(listed) != count:
        return Problem(f"{column} has {len(listed)} scores for {count} hard negatives", value)
    scores = []
    for entry in listed:
        score = read_score(f"{column}: an entry", entry)
        if isinstance(score, Problem):
            return score
        scores.append(score)
    return scores


def read_product_group(column: str, value: object) -> str | Problem | None:
    """Return the name of a product's group; None if the cell is empty, for a product without a group."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    group = id_text(value)
    return Problem(f"{column} {group.reason}", value) if isinstance(group, Problem) else group


def read_hard_negatives(
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


def _listed(column: str, value: object, entries: str = "texts") -> list[object] | Problem:
    """Return the entries of a cell: a list or, in csv, a JSON list; an empty cell has none."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    texts: object = value
    if isinstance(value, str):
        try:
            texts = json.loads(value)
        except (ValueError, RecursionError):
            return Problem(f"{column} is not a JSON list of {entries}", value)
    return texts if isinstance(texts, list) else Problem(f"{column} is not a list of {entries}", value)


def listed_ids(values: Mapping[str, object], columns: PairColumns) -> list[str]:
    """Return the valid product ids in a row of pairs by id: of its product and its hard negatives."""
    found = [values.get(columns.product_id or "")]
    if columns.hard_negatives is not None:
        listed = _listed(columns.hard_negatives, values.get(columns.hard_negatives))
        found += [] if isinstance(listed, Problem) else listed
    return [identity for identity in map(id_text, found) if isinstance(identity, str)]
