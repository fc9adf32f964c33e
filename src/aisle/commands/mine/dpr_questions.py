"""Questions of DPR's json with mined hard negatives, from DPR's json or from pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from aisle.commands.mine.training_data import TrainingFiles
from aisle.data.dpr_json import HARD_NEGATIVES, NEGATIVES, POSITIVES, QUESTION, passage_id
from aisle.data.pairs import Pairs
from aisle.data.rows import text_problem
from aisle.mining.known_products import POSITIVE_ABOVE, Passages
from aisle.mining.mined import MinedNegative
from aisle.mining.mined_catalog import MinedCatalog

TITLE, TEXT = "title", "text"
"""Columns of a catalogue of passages."""

Negatives = Mapping[str, Sequence[MinedNegative]]
"""Question to its hard negatives."""


def good_questions(training: TrainingFiles) -> Iterator[dict[str, Any]]:
    """Yield the questions of DPR's json whose rows are good: with a text and usable passages."""
    assert training.layout is not None  # the data are DPR's json
    for row in training.rows():
        if text_problem(row.values.get(QUESTION)) is not None:
            continue
        if all(pair.problem is None for pair in training.layout.convert(iter([row]))):
            yield row.values


def passages_of(questions: Iterable[Mapping[str, Any]]) -> dict[str, Passages]:
    """Return the ids of the positive passages and the answers of each question."""
    ids: dict[str, set[str]] = {}
    answers: dict[str, set[str]] = {}
    for question in questions:
        text = question[QUESTION]
        found = (passage_id(context) for context in question[POSITIVES])
        ids.setdefault(text, set()).update(identity for identity in found if identity is not None)
        listed = question.get("answers")
        texts = [answer for answer in listed if isinstance(answer, str)] if isinstance(listed, list) else []
        answers.setdefault(text, set()).update(texts)
    return {text: Passages.of(ids[text], sorted(answers[text])) for text in ids}


def with_negatives(
    questions: Iterable[Mapping[str, Any]], negatives: Negatives, catalog: MinedCatalog
) -> Iterator[dict[str, Any]]:
    """Yield the questions of DPR's json with the mined hard negatives in place of their own."""
    for question in questions:
        found = negatives.get(question[QUESTION])
        if found is not None:  # None: the question was a bad row
            yield {**question, HARD_NEGATIVES: _contexts(found, catalog)}


def questions_of_pairs(pairs: Pairs, negatives: Negatives, catalog: MinedCatalog) -> Iterator[dict[str, Any]]:
    """Yield a question for each query with a positive, in order of first appearance.

    Products that are judged with a relevance of 0.5 or less are its `negative_ctxs`.
    """
    rows_of: dict[str, list[int]] = {}
    for row, query in enumerate(pairs.queries):
        rows_of.setdefault(query, []).append(row)
    products, ids, relevance = pairs.products, pairs.product_ids, pairs.relevance
    for query, rows in rows_of.items():
        contexts: dict[str, list[dict[str, Any]]] = {POSITIVES: [], NEGATIVES: []}
        for row in rows:
            is_positive = relevance is None or relevance[row] > POSITIVE_ABOVE
            context = {TITLE: "", TEXT: products[row], "score": 0, "title_score": 0}
            if ids is not None:
                context["passage_id"] = ids[row]
            contexts[POSITIVES if is_positive else NEGATIVES].append(context)
        if contexts[POSITIVES]:
            yield {
                **{"dataset": "", QUESTION: query, "answers": []},
                **contexts,
                HARD_NEGATIVES: _contexts(negatives[query], catalog),
            }


def _contexts(negatives: Sequence[MinedNegative], catalog: MinedCatalog) -> list[dict[str, Any]]:
    """Return the negatives as contexts: with title and text if the catalogue has these columns."""
    rows = np.array([negative.row for negative in negatives], np.int64)
    values = catalog.payload(rows, (TITLE, TEXT))
    contexts = []
    for negative, value in zip(negatives, values, strict=True):
        has_both = isinstance(value.get(TITLE, ""), str) and isinstance(value.get(TEXT), str)
        title, text = (value.get(TITLE, ""), value[TEXT]) if has_both else ("", negative.text)
        contexts.append(
            {
                TITLE: title,
                TEXT: text,
                "score": round(negative.score, 4),
                "title_score": 0,
                "passage_id": negative.product_id,
            }
        )
    return contexts
