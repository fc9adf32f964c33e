"""The tables of the page as plain rows of cells, before any HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aisle.evaluation.document import (
    AnnPoint,
    Estimate,
    Evaluation,
    GraphLoss,
    JointPoolRow,
    Pairs,
    PairsRow,
    Retrieval,
    RetrievalRow,
    Slice,
    SystemKind,
)
from aisle.evaluation.retrieval_metrics import table_metrics
from aisle.evaluation.significance import SIGNIFICANT
from aisle.reporting.html.cells import (
    Cell,
    Column,
    ColumnOf,
    Row,
    Table,
    best_value,
    count_cell,
    difference_cell,
    estimate_cell,
    figure_cell,
    make_table,
    share_cell,
    union,
)
from aisle.reporting.html.formatting import clean, clipped, count, metric_name, p_value
from aisle.reporting.html.interval_plots import interval_plots
from aisle.reporting.html.palette import SystemStyle

__all__ = ["TableMaker"]

_NAME_LENGTH = 60


@dataclass(frozen=True)
class TableMaker:
    """Tables of an evaluation, each system in its colour."""

    evaluation: Evaluation
    styles: dict[str, SystemStyle]

    def retrieval(self, retrieval: Retrieval) -> Table:
        """Return a row per system: metrics with intervals, unjudged rates, unanswered queries."""
        rows = retrieval.rows
        metrics = table_metrics(union(row.metrics for row in rows))
        return make_table(
            "retrieval",
            "Retrieval by system, with 95% intervals",
            rows,
            (
                self._system_column(),
                *(_estimates(metric_name(name), name, rows, lambda row: row.metrics) for name in metrics),
                *(_unjudged(cutoff) for cutoff in union(row.unjudged for row in rows)),
                (Column("Unanswered"), lambda row: count_cell(row.unanswered)),
            ),
            "The best value of a column is bold. Unanswered queries count as 0." if len(rows) > 1 else "",
        )

    def differences(self, retrieval: Retrieval) -> Table | None:
        """Return a row per metric and system that is compared with the base; None without comparisons."""
        metrics = table_metrics(union(row.differences for row in retrieval.rows))
        # The headline's metric comes first.
        ordered = sorted(metrics, key=lambda metric: metric != self.evaluation.headline_metric)
        rows = [
            (row, metric, row.differences[metric])
            for metric in ordered
            for row in retrieval.rows
            if metric in row.differences
        ]
        if not rows:
            return None
        return make_table(
            "differences",
            f"Differences from {clean(self.evaluation.base or 'the base')}, over the same queries",
            rows,
            (
                (Column("System", number=False), lambda row: self._system(row[0].name, row[0].kind)),
                (Column("Metric", number=False), lambda row: Cell(metric_name(row[1]), row[1])),
                (
                    Column("Difference"),
                    lambda row: difference_cell(
                        Estimate(row[2].mean, row[2].low, row[2].high),
                        strong=row[2].p_corrected < SIGNIFICANT,
                    ),
                ),
                (Column("p"), lambda row: Cell(p_value(row[2].p_value), row[2].p_value)),
                (Column("p, corrected"), lambda row: Cell(p_value(row[2].p_corrected), row[2].p_corrected)),
                (Column("Queries better"), lambda row: count_cell(row[2].better)),
                (Column("worse"), lambda row: count_cell(row[2].worse)),
                (Column("equal"), lambda row: count_cell(row[2].equal)),
            ),
            "p: two-sided paired randomisation test; corrected for the number of systems by Holm's method. "
            "Bold: corrected p below 0.05.",
        )

    def joint_pool(self, rows: Sequence[JointPoolRow]) -> Table:
        """Return a row per system by the joint-pool protocol."""
        return make_table(
            "joint-pool",
            "Questions and answers in one pool, with 95% intervals",
            rows,
            (
                self._system_column(),
                _estimates("Precision@1", "precision", rows, lambda row: {"precision": row.precision_at_1}),
                _estimates("MRR", "mrr", rows, lambda row: {"mrr": row.mrr}),
                (Column("Texts"), lambda row: count_cell(row.texts)),
            ),
            "Every text ranks all the others; its partner is the only correct answer.",
        )

    def pairs(self, pairs: Pairs) -> Table:
        """Return a row per system: its figures on judged pairs."""
        rows = pairs.rows
        metrics = union(row.metrics for row in rows)
        return make_table(
            "pairs",
            "Judged pairs by system, with 95% intervals",
            rows,
            (
                self._system_column(),
                *(_estimates(metric_name(name), name, rows, lambda row: row.metrics) for name in metrics),
                (Column("Score at the best F1"), lambda row: figure_cell(row.best_f1_threshold)),
            ),
        )

    def relevance_levels(self, pairs: Pairs, label: Callable[[str], str]) -> Table | None:
        """Return a row per system: ROC-AUC of the highest relevance level against each other level.

        Args:
            pairs: Judged pairs with at least one row.
            label: Function from the name of a level to its label on the page.
        """
        rows = pairs.rows
        levels = union(row.by_grade for row in rows)
        if not levels:
            return None
        return make_table(
            "grades",
            "ROC-AUC of the highest relevance level against each other level, with 95% intervals",
            rows,
            (
                self._system_column(),
                *(_estimates(f"Against {label(level)}", level, rows, _by_level) for level in levels),
            ),
            "0.500 is no better than chance.",
        )

    def graph_loss(self, losses: Sequence[GraphLoss]) -> Table:
        """Return a row per system: its loss by graph search."""
        retrieval = self.evaluation.retrieval
        kinds = {} if retrieval is None else {row.name: row.kind for row in retrieval.rows}
        return make_table(
            "graph-loss",
            "Loss of graph search compared with exact search",
            losses,
            (
                (
                    Column("System", number=False),
                    lambda loss: self._system(loss.name, kinds.get(loss.name, "other")),
                ),
                (Column("Share of the top 10 found"), lambda loss: figure_cell(loss.recall_at_10)),
                (Column("nDCG@10, exact"), lambda loss: figure_cell(loss.exact)),
                (Column("nDCG@10, graph"), lambda loss: figure_cell(loss.graph)),
                (Column("Difference"), lambda loss: difference_cell(loss.difference)),
                (Column("Queries changed"), lambda loss: count_cell(loss.changed)),
            ),
        )

    def graph(self, points: Sequence[AnnPoint]) -> Table:
        """Return a row per ef_search, with the value in use marked."""
        return make_table(
            "graph",
            "Recall and time of the graph, by ef_search",
            points,
            (
                (Column("ef_search"), self._ef_search),
                (Column("Recall of the exact top 10"), lambda point: figure_cell(point.recall)),
                (Column("Milliseconds per query"), lambda point: figure_cell(point.milliseconds)),
            ),
        )

    def slices(self, slices: Sequence[Slice]) -> tuple[Table, ...]:
        """Return a table per grouping of the queries, with all intervals on the same scale."""
        plots = dict(zip(slices, interval_plots([part.difference for part in slices]), strict=True))
        tuned, base = (
            clean(name or kind)
            for name, kind in ((self.evaluation.tuned, "tuned"), (self.evaluation.base, "base"))
        )
        tables = []
        for number, by in enumerate(dict.fromkeys(part.by for part in slices), start=1):
            parts = [part for part in slices if part.by == by]
            with_intervals = any(part.difference.low is not None for part in parts)
            tables.append(
                make_table(
                    f"slices-{number}",
                    f"Gain in {metric_name(self.evaluation.headline_metric)} by {clean(by)}"
                    + ", with 95% intervals" * with_intervals,
                    parts,
                    (
                        (Column(clean(by).capitalize(), number=False), _slice_name),
                        (Column("Queries"), lambda part: count_cell(part.queries)),
                        (Column("Difference"), _slice_difference),
                        (
                            Column("From loss to gain", sortable=False),
                            lambda part: Cell("", plot=plots[part]),
                        ),
                        (Column(base), lambda part: figure_cell(part.base)),
                        (Column(tuned), lambda part: figure_cell(part.tuned)),
                    ),
                )
            )
        return tuple(tables)

    def _system_column(self) -> ColumnOf[RetrievalRow | PairsRow | JointPoolRow]:
        return Column("System", number=False), lambda row: self._system(row.name, row.kind)

    def _system(self, name: str, kind: SystemKind) -> Cell:
        before = "before" if kind == "other" else "base"
        role = {self.evaluation.base: before, self.evaluation.tuned: "tuned"}.get(name, "")
        role = "" if role in name.lower() else role
        style = self.styles.get(name)
        return Cell(
            clipped(name, _NAME_LENGTH),
            clean(name),
            role or ("hybrid" if kind == "hybrid" and "hybrid" not in name.lower() else ""),
            colour=None if style is None else style.colour,
        )

    def _ef_search(self, point: AnnPoint) -> Cell:
        in_use = point.ef_search == self.evaluation.ef_search
        return Cell(count(point.ef_search), point.ef_search, "in use" * in_use, strong=in_use)


def _estimates(
    heading: str, key: str, rows: Sequence[Row], estimates_of: Callable[[Row], Mapping[str, Estimate]]
) -> ColumnOf[Row]:
    """Return a column of estimates, the best value in bold."""
    best = best_value(estimates_of(row).get(key) for row in rows)
    return Column(heading), lambda row: estimate_cell(estimates_of(row).get(key), best)


def _by_level(row: PairsRow) -> Mapping[str, Estimate]:
    return row.by_grade


def _unjudged(cutoff: str) -> ColumnOf[RetrievalRow]:
    heading = f"Unjudged in top\u00a0{clean(cutoff)}"
    return Column(heading), lambda row: share_cell(row.unjudged.get(cutoff))


def _slice_name(part: Slice) -> Cell:
    return Cell(clipped(part.label, _NAME_LENGTH), clean(part.label))


def _slice_difference(part: Slice) -> Cell:
    found = part.difference
    apart = found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
    return difference_cell(found, strong=apart)
