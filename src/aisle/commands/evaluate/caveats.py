"""Remarks that a reader needs to judge the figures of an evaluation: what was left out, what is too few."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.indexing.text_notes import query_notes, text_notes
from aisle.data.judged_queries import JudgedQueries
from aisle.data.pairs import Pairs
from aisle.evaluation.document import Retrieval
from aisle.evaluation.number_format import counted
from aisle.evaluation.pair_metrics import is_positive
from aisle.index import SearchIndex
from aisle.search.load_encoder import LoadedEncoder

FEWEST = 10
"""Least number of pairs of a class, or of questions, for an interval that can be trusted."""
NAMED = 3
"""Number of ids quoted in a message."""


def retrieval_caveats(retrieval: Retrieval, judged: JudgedQueries) -> list[str]:
    """Return notes on queries and products that are left out, or count as wrong without a judgement."""
    said = []
    if judged.unjudged:
        said.append(
            f"queries without judgements, which are not asked: {judged.unjudged:,} of "
            f"{judged.unjudged + len(judged.queries):,}"
        )
    cutoff = "10" if "10" in retrieval.rows[0].unjudged else next(iter(retrieval.rows[0].unjudged), None)
    if cutoff is not None:
        shares = ", ".join(f"{row.name} {row.unjudged[cutoff]:.0%}" for row in retrieval.rows)
        said.append(f"not judged among the top {cutoff}, and taken as not relevant: {shares}")
    unanswered = [f"{row.name} {row.unanswered:,}" for row in retrieval.rows if row.unanswered]
    if unanswered:
        said.append(f"queries without an answer, which count as 0: {', '.join(unanswered)}")
    if retrieval.without_relevant:
        said.append(f"queries without a relevant product, which are left out: {retrieval.without_relevant:,}")
    products = len({product for grades in judged.qrels.values() for product in grades})
    for what, ids, total in (
        (
            "judged queries that are not in the queries file, and are left out",
            retrieval.unknown_queries,
            len(judged.qrels),
        ),
        (
            "judged products that are not in the index, and count as missed where they are relevant",
            retrieval.unknown_products,
            products,
        ),
    ):
        if ids:
            said.append(f"warning: {what}: {len(ids):,} of {total:,} ({_named(ids)})")
    return said


def _named(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:NAMED])) + (", ..." if len(ids) > NAMED else "")


def pair_caveats(pairs: Pairs, settings: EvaluateSettings) -> list[str]:
    """Return warnings on pairs that are too few for an interval, or repeated."""
    if settings.protocol == "joint_pool":
        return _pool_caveats(pairs)
    if pairs.relevance is None:
        return []
    positive = int(is_positive(pairs.relevance.astype(np.float64), settings.positive_threshold).sum())
    return [
        f"warning: {counted(number, 'pair')} of {len(pairs):,} {'is' if number == 1 else 'are'} {which}: the "
        "intervals of so few are too narrow to be believed"
        for which, number in (("positive", positive), ("negative", len(pairs) - positive))
        if 0 < number < FEWEST
    ]


def _pool_caveats(pairs: Pairs) -> list[str]:
    notes = []
    if len(pairs) < FEWEST:
        notes.append(
            f"warning: the pool is of {counted(len(pairs), 'question')}: the "
            "intervals of so few are too narrow to be believed"
        )
    for what, texts in (("questions", pairs.queries), ("answers", pairs.products)):
        repeated = len(pairs) - len(set(texts))
        if repeated:
            notes.append(
                f"warning: {repeated:,} of {len(pairs):,} {what} have come before: only the partner in the "
                "same row counts as right, so that no model reaches 1; leave the repeated rows out"
            )
    return notes


def text_caveats(
    index: SearchIndex | None, judged: JudgedQueries | None, encoder: LoadedEncoder | None
) -> list[str]:
    """Return remarks on products and queries that the encoder does not read whole."""
    if encoder is None or index is None or judged is None:
        return []
    return [*text_notes(index.manifest), *query_notes(list(judged.queries.values()), encoder)]
