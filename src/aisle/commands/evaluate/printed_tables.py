"""Print an evaluation on the terminal: tables, the headline, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from aisle.commands.output import Output
from aisle.evaluation.document import Estimate, Evaluation, GraphLoss, Pairs, Retrieval, RetrievalRow
from aisle.evaluation.number_format import UNDEFINED, counted
from aisle.evaluation.retrieval_metrics import table_metrics
from aisle.evaluation.significance import SIGNIFICANT

MOST_COLUMNS = 6
"""Most columns that fit into 80 characters."""
PAIR_COLUMNS = {
    "roc_auc": "ROC-AUC",
    "average_precision": "AP",
    "spearman": "Spearman",
    "best_f1": "best F1",
}


def show_evaluation(
    evaluation: Evaluation, sentence: str | None, tries: Sequence[str], output: Output
) -> None:
    """Print the tables of an evaluation, its headline and its notes.

    Args:
        evaluation: Evaluation to print.
        sentence: Headline of the rankings.
        tries: Advice for the case that there is no clear gain.
        output: Prints.
    """
    if evaluation.retrieval is not None:
        output.show(
            retrieval_table(evaluation.retrieval, base=evaluation.base, first=evaluation.headline_metric)
        )
        if sentence is not None:
            output.log(sentence)
        for line in tries:
            output.log(f"to try: {line}")
    for loss in evaluation.graph:
        output.log(graph_line(loss, ef_search=evaluation.ef_search))
    if evaluation.pairs is not None:
        _show_pairs(evaluation.pairs, output)
    if evaluation.joint_pool:
        output.show(_joint_pool_table(evaluation))
    for note in evaluation.notes:
        output.log(note)


def retrieval_table(retrieval: Retrieval, *, base: str | None, first: str) -> Table:
    """Return a row per system: each figure over its 95% interval, a star where it differs from the base.

    Args:
        retrieval: Comparison of the systems.
        base: Baseline of the stars.
        first: Metric that comes first if there are more than the table has room for.
    """
    known = columns = table_metrics(retrieval.rows[0].metrics)
    if len(known) > MOST_COLUMNS:
        columns = tuple(sorted(known, key=lambda name: name != first))[:MOST_COLUMNS]
    title = f"{counted(retrieval.queries, 'query', 'queries')}, {counted(retrieval.products, 'product')}"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in retrieval.rows:
        table.add_row(Text(_one_line(row.name)), *(_cell(row, column) for column in columns))
    shown = [row.metrics[column] for row in retrieval.rows for column in columns]
    notes = _interval_notes(shown, over="queries")
    if base is not None and len(retrieval.rows) > 1:
        notes.append(f"* differs from {base}, p < 0.05 (randomisation test, Holm)")
    if len(known) > len(columns):
        notes.append(f"{len(known) - len(columns)} more figures with --report and --json")
    table.caption = Text("; ".join(notes)) if notes else None
    table.caption_justify = "left"
    return table


def graph_line(loss: GraphLoss, *, ef_search: int | None) -> str:
    """Return a line on the loss of a row if it is served through the graph instead of exact search."""
    ends = _bracketed(loss.difference)
    effort = "" if ef_search is None else f", at ef_search {ef_search}"
    recall = "ann_recall@10" if loss.name != "hybrid" else "recall of its top 10"
    return (
        f"{loss.name} through the graph{effort}: {recall} {loss.recall_at_10:.4f}, nDCG@10 "
        f"{loss.graph:.3f} for {loss.exact:.3f} by exact search ({loss.difference.value:+.4f}{ends}; "
        f"{counted(loss.changed, 'query', 'queries')} changed)"
    )


def _cell(row: RetrievalRow, column: str) -> Text:
    difference = row.differences.get(column)
    star = "*" if difference is not None and difference.p_corrected < SIGNIFICANT else ""
    colour = "" if not star or difference is None else "green" if difference.mean > 0 else "red"
    found = row.metrics[column]
    return Text.assemble((_value(found) + star, colour), ("\n" + _ends(found), "dim"))


def _value(estimate: Estimate) -> str:
    return UNDEFINED if estimate.value is None else f"{estimate.value:.3f}"


def _ends(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return "\u2013".join(map(_end, (estimate.low, estimate.high)))


def _bracketed(estimate: Estimate) -> str:
    ends = _ends(estimate)
    return f" [{ends}]" if ends else ""


def _interval_notes(shown: Iterable[Estimate], *, over: str) -> list[str]:
    """Return the caption on intervals; empty if no figure has an interval."""
    some = any(_ends(estimate) for estimate in shown)
    return [f"below each figure: its 95% interval over {over} (bootstrap)"] if some else []


def _end(value: float) -> str:
    """Return ".123", "-.123" or "1.00", so that six columns and the names fit into 80 characters."""
    text = f"{round(value, 3) + 0.0:.3f}".replace("0.", ".", 1)
    return text if "1" not in text.partition(".")[0] else text[:-1]


def _show_pairs(pairs: Pairs, output: Output) -> None:
    output.show(pairs_table(pairs))
    for row in pairs.rows:
        if row.by_grade:
            grades = ", ".join(
                f"{grade}: {_value(found)}{_bracketed(found)}" for grade, found in row.by_grade.items()
            )
            output.log(f"{row.name}: ROC-AUC of the highest grade against {grades}")
    if pairs.note:
        output.log(pairs.note)


def pairs_table(pairs: Pairs) -> Table:
    """Return a row per system: each figure over its 95% interval, and the score of the best F1."""
    title = f"{counted(pairs.pairs, 'pair')}, {pairs.positive_share:.0%} positive"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", overflow="fold")
    for heading in (*PAIR_COLUMNS.values(), "at score"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in pairs.rows:
        found = [row.metrics[name] for name in PAIR_COLUMNS]
        cells = [Text.assemble(_value(one), ("\n" + _ends(one), "dim")) for one in found]
        table.add_row(Text(_one_line(row.name)), *cells, Text(_value(Estimate(row.best_f1_threshold))))
    shown = [row.metrics[name] for row in pairs.rows for name in PAIR_COLUMNS]
    table.caption = Text("".join(_interval_notes(shown, over="pairs"))) or None
    table.caption_justify = "left"
    return table


def _joint_pool_table(evaluation: Evaluation) -> Table:
    title = f"joint pool of {evaluation.joint_pool[0].texts:,} texts"
    table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for column in ("precision@1", "mrr"):
        table.add_column(column, justify="right")
    for row in evaluation.joint_pool:
        cells = (f"{_value(found)}{_bracketed(found)}" for found in (row.precision_at_1, row.mrr))
        table.add_row(Text(_one_line(row.name)), *map(Text, cells))
    return table


def _one_line(text: str) -> str:
    """Return `text` on one line, without control characters that could steer the terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def side_by_side(
    query: str, results: Mapping[str, Sequence[tuple[float, str]]], *, title_width: int = 60
) -> Table:
    """Return the answers of several systems to one query: a column per system, a row per rank.

    Args:
        query: Text above the table.
        results: {system: [(score, product title), ...] best first}; lists may differ in length.
        title_width: Most characters of a title, at least 1.
    """
    table = Table(title=Text(f"“{_one_line(query)}”"), box=box.SIMPLE_HEAD, title_justify="left", expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    for system in results:
        table.add_column(Text(system), ratio=1, overflow="fold")
    for rank in range(max(map(len, results.values()), default=0)):
        cells = [_answer(answers, rank, title_width) for answers in results.values()]
        table.add_row(str(rank + 1), *cells)
    return table


def _answer(answers: Sequence[tuple[float, str]], rank: int, title_width: int) -> Text:
    if rank >= len(answers):
        return Text(UNDEFINED, style="dim")
    score, title = answers[rank]
    shown = _one_line(title)
    if len(shown) > title_width:
        shown = shown[: title_width - 1].rstrip() + "…"
    return Text.assemble((f"{score:.3f}", "dim"), " ", shown)
