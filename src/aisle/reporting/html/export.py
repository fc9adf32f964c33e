"""Plain tables and named figures of an evaluation, for trackers and the model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from aisle.evaluation.document import Answer, Difference, Estimate, Evaluation, QueryChange
from aisle.evaluation.number_format import UNDEFINED
from aisle.reporting.html.cells import Cell, Table
from aisle.reporting.html.formatting import clean, figure, metric_name
from aisle.reporting.html.page_content import page_content

__all__ = ["PlainTable", "scalars_of", "tables_of"]

_PARTS = (
    "retrieval_tables",
    "joint_pool_tables",
    "pairs_tables",
    "loss_tables",
    "graph_tables",
    "slices_tables",
)


@dataclass(frozen=True)
class PlainTable:
    """A table of the report as text; a figure and its interval share a cell."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(evaluation: Evaluation) -> dict[str, PlainTable]:
    """Return the tables of the report by name: "retrieval", "differences", "pairs" and so on.

    "improved" and "worsened" list the queries that changed most, with their results rank by rank.
    """
    content = page_content(evaluation)
    tables = {table.name: _plain(table) for part in _PARTS for table in content[part] if table is not None}
    changed = {"improved": evaluation.improved, "worsened": evaluation.worsened}
    return tables | {
        name: _changes(name, changes, evaluation) for name, changes in changed.items() if changes
    }


def scalars_of(evaluation: Evaluation) -> dict[str, float]:
    """Return the defined figures by name.

    Estimates such as "retrieval/tuned/ndcg@10", "pairs/tuned/roc_auc" and "joint_pool/tuned/mrr" come with
    the ends of their interval, ".../low" and ".../high". Differences from the base, such as
    "difference/tuned/ndcg@10", also have ".../p_corrected".
    """
    return {name: value for name, value in _scalars(evaluation) if value is not None}


def _plain(table: Table) -> PlainTable:
    kept = [number for number, column in enumerate(table.columns) if column.sortable]
    return PlainTable(
        table.caption,
        tuple(" ".join(table.columns[number].heading.split()) for number in kept),
        tuple(tuple(_text(row[number]) for number in kept) for row in table.rows),
    )


def _changes(name: str, changes: Sequence[QueryChange], evaluation: Evaluation) -> PlainTable:
    base, tuned = clean(evaluation.base or "base"), clean(evaluation.tuned or "tuned")
    metric = metric_name(evaluation.headline_metric)
    rows = []
    for change in changes:
        answers = list(zip_longest(change.before, change.after)) or [(None, None)]
        about = (clean(change.query), figure(change.base), figure(change.tuned))
        rows += [(*about, str(rank), *map(_answer, both)) for rank, both in enumerate(answers, start=1)]
    header = ("Query", f"{metric}, {base}", f"{metric}, {tuned}", "Rank", base, tuned)
    return PlainTable(f"Most {name} queries", header, tuple(rows))


def _answer(answer: Answer | None) -> str:
    if answer is None:
        return UNDEFINED
    judged = "not judged" if answer.relevance is None else f"relevance {answer.relevance:g}"
    named = clean(answer.title)
    if answer.title != answer.product_id:
        named += f" [{clean(answer.product_id)}]"
    return f"{named} ({judged}, {figure(answer.score)})"


def _text(cell: Cell) -> str:
    return f"{cell.text} {cell.small}".strip()


def _scalars(evaluation: Evaluation) -> Iterator[tuple[str, float | None]]:
    for row in () if evaluation.retrieval is None else evaluation.retrieval.rows:
        for metric, estimate in row.metrics.items():
            yield from _estimate(f"retrieval/{_part(row.name)}/{metric}", estimate)
        for metric, difference in row.differences.items():
            yield from _difference(f"difference/{_part(row.name)}/{metric}", difference)
        for cutoff, share in row.unjudged.items():
            yield f"retrieval/{_part(row.name)}/unjudged@{cutoff}", share
    for pairs_row in () if evaluation.pairs is None else evaluation.pairs.rows:
        for metric, estimate in pairs_row.metrics.items():
            yield from _estimate(f"pairs/{_part(pairs_row.name)}/{metric}", estimate)
        for level, estimate in pairs_row.by_grade.items():
            yield from _estimate(f"pairs/{_part(pairs_row.name)}/roc_auc_against_{level}", estimate)
    for pool_row in evaluation.joint_pool:
        yield from _estimate(f"joint_pool/{_part(pool_row.name)}/precision@1", pool_row.precision_at_1)
        yield from _estimate(f"joint_pool/{_part(pool_row.name)}/mrr", pool_row.mrr)
    yield "graph/ann_recall@10", evaluation.ann_recall_at_10
    for loss in evaluation.graph:
        yield f"graph/{_part(loss.name)}/ndcg@10", loss.graph
        yield from _estimate(f"graph/{_part(loss.name)}/difference", loss.difference)


def _estimate(name: str, estimate: Estimate) -> Iterator[tuple[str, float | None]]:
    yield name, estimate.value
    yield f"{name}/low", estimate.low
    yield f"{name}/high", estimate.high


def _difference(name: str, difference: Difference) -> Iterator[tuple[str, float | None]]:
    yield from _estimate(name, Estimate(difference.mean, difference.low, difference.high))
    yield f"{name}/p_corrected", difference.p_corrected


def _part(system: str) -> str:
    """Return a system's name without slashes, as part of a path."""
    return clean(system).replace("/", "_")
