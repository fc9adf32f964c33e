"""The tables of the page as plain rows of cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aisle.evaluation.document import (
    AnnPoint,
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
    Table,
    best_value,
    estimate_cell,
    share_cell,
    union,
)
from aisle.reporting.html.formatting import (
    bounds,
    clean,
    clipped,
    count,
    figure,
    metric_name,
    p_value,
    signed,
)
from aisle.reporting.html.interval_plots import IntervalPlot, interval_plots
from aisle.reporting.html.palette import SystemStyle

__all__ = ["TableMaker"]

_NAME_LENGTH = 60


@dataclass(frozen=True)
class TableMaker:
    """Makes the tables of one evaluation, with its systems in their colours."""

    evaluation: Evaluation
    styles: dict[str, SystemStyle]

    def retrieval(self, retrieval: Retrieval) -> Table:
        """Return a row per system: metrics with intervals, unjudged rates, unanswered queries."""
        rows = retrieval.rows
        metrics = table_metrics(union(row.metrics for row in rows))
        cutoffs = union(row.unjudged for row in rows)
        columns = [Column("System", number=False), *(Column(metric_name(metric)) for metric in metrics)]
        columns += [Column(f"Unjudged in top\u00a0{clean(cutoff)}") for cutoff in cutoffs]
        best = {metric: best_value(row.metrics.get(metric) for row in rows) for metric in metrics}
        return Table(
            "retrieval",
            "Retrieval by system, with 95% intervals",
            (*columns, Column("Unanswered")),
            tuple(
                (
                    self._system(row.name, row.kind),
                    *(estimate_cell(row.metrics.get(metric), best[metric]) for metric in metrics),
                    *(share_cell(row.unjudged.get(cutoff)) for cutoff in cutoffs),
                    Cell(count(row.unanswered), row.unanswered),
                )
                for row in rows
            ),
            "The best value of a column is bold. Unanswered queries count as 0." if len(rows) > 1 else "",
        )

    def differences(self, retrieval: Retrieval) -> Table | None:
        """Return a row per system and metric that is held against the base; None where none is."""
        metrics = table_metrics(union(row.differences for row in retrieval.rows))
        # The metric that the sentence is about comes first.
        ordered = sorted(metrics, key=lambda metric: metric != self.evaluation.headline_metric)
        rows = tuple(
            self._difference_row(row, metric)
            for metric in ordered
            for row in retrieval.rows
            if metric in row.differences
        )
        if not rows:
            return None
        numbers = ("Difference", "p", "p, corrected", "Queries better", "worse", "equal")
        return Table(
            "differences",
            f"Differences to {clean(self.evaluation.base or 'the base')}, over the same queries",
            (Column("System", number=False), Column("Metric", number=False), *map(Column, numbers)),
            rows,
            "p: two-sided paired randomisation test; corrected for the number of systems by Holm's method. "
            "Bold: corrected p below 0.05.",
        )

    def _difference_row(self, row: RetrievalRow, metric: str) -> tuple[Cell, ...]:
        found = row.differences[metric]
        return (
            self._system(row.name, row.kind),
            Cell(metric_name(metric), metric),
            Cell(
                signed(found.mean),
                found.mean,
                bounds(found.low, found.high, sign=True),
                strong=found.p_corrected < SIGNIFICANT,
            ),
            Cell(p_value(found.p_value), found.p_value),
            Cell(p_value(found.p_corrected), found.p_corrected),
            *(Cell(count(number), number) for number in (found.better, found.worse, found.equal)),
        )

    def joint_pool(self, rows: Sequence[JointPoolRow]) -> Table:
        """Return a row per system by the joint-pool protocol."""
        best = best_value(row.precision_at_1 for row in rows), best_value(row.mrr for row in rows)
        return Table(
            "joint-pool",
            "Questions and answers in one pool, with 95% intervals",
            (Column("System", number=False), Column("Precision@1"), Column("MRR"), Column("Texts")),
            tuple(
                (
                    self._system(row.name, row.kind),
                    estimate_cell(row.precision_at_1, best[0]),
                    estimate_cell(row.mrr, best[1]),
                    Cell(count(row.texts), row.texts),
                )
                for row in rows
            ),
            "Every text ranks all the others; its own partner is the one right answer.",
        )

    def pairs(self, pairs: Pairs) -> Table:
        """Return a row per system: how well its scores tell judged pairs apart."""
        metrics = union(row.metrics for row in pairs.rows)
        best = {metric: best_value(row.metrics.get(metric) for row in pairs.rows) for metric in metrics}
        return Table(
            "pairs",
            "Judged pairs by system, with 95% intervals",
            (
                Column("System", number=False),
                *(Column(metric_name(metric)) for metric in metrics),
                Column("Score at the best F1"),
            ),
            tuple(
                (
                    self._system(row.name, row.kind),
                    *(estimate_cell(row.metrics.get(metric), best[metric]) for metric in metrics),
                    Cell(figure(row.best_f1_threshold), row.best_f1_threshold),
                )
                for row in pairs.rows
            ),
        )

    def grades(self, pairs: Pairs, label: Callable[[str], str]) -> Table | None:
        """Return a row per system: ROC-AUC of the highest grade against each of the others.

        Args:
            pairs: with rows.
            label: how a grade's name is shown.
        """
        grades = union(row.by_grade for row in pairs.rows)
        if not grades:
            return None
        best = {grade: best_value(row.by_grade.get(grade) for row in pairs.rows) for grade in grades}
        return Table(
            "grades",
            "ROC-AUC of the highest grade against each other grade, with 95% intervals",
            (Column("System", number=False), *(Column(f"Against {label(grade)}") for grade in grades)),
            tuple(self._grade_row(row, grades, best) for row in pairs.rows),
            "0.500 is no better than chance.",
        )

    def _grade_row(
        self, row: PairsRow, grades: Sequence[str], best: dict[str, float | None]
    ) -> tuple[Cell, ...]:
        cells = (estimate_cell(row.by_grade.get(grade), best[grade]) for grade in grades)
        return (self._system(row.name, row.kind), *cells)

    def graph_loss(self, losses: Sequence[GraphLoss]) -> Table:
        """Return a row per system: what it loses where it is served through the graph."""
        kinds = (
            {}
            if self.evaluation.retrieval is None
            else {row.name: row.kind for row in self.evaluation.retrieval.rows}
        )
        headings = (
            "Of the top 10 found",
            "nDCG@10, exact",
            "nDCG@10, graph",
            "Difference",
            "Queries changed",
        )
        return Table(
            "graph-loss",
            "What the graph loses of exact search",
            (Column("System", number=False), *map(Column, headings)),
            tuple(
                (
                    self._system(loss.name, kinds.get(loss.name, "other")),
                    Cell(figure(loss.recall_at_10), loss.recall_at_10),
                    Cell(figure(loss.exact), loss.exact),
                    Cell(figure(loss.graph), loss.graph),
                    Cell(
                        signed(loss.difference.value),
                        loss.difference.value,
                        bounds(loss.difference.low, loss.difference.high, sign=True),
                    ),
                    Cell(count(loss.changed), loss.changed),
                )
                for loss in losses
            ),
        )

    def graph(self, points: Sequence[AnnPoint]) -> Table:
        """Return a row per ef_search; the one in use is marked."""
        return Table(
            "graph",
            "Recall and time of the graph, by ef_search",
            (Column("ef_search"), Column("Recall of the exact top 10"), Column("Milliseconds per query")),
            tuple(
                (
                    Cell(
                        count(point.ef_search),
                        point.ef_search,
                        "in use" if point.ef_search == self.evaluation.ef_search else "",
                        strong=point.ef_search == self.evaluation.ef_search,
                    ),
                    Cell(figure(point.recall), point.recall),
                    Cell(figure(point.milliseconds), point.milliseconds),
                )
                for point in points
            ),
        )

    def slices(self, slices: Sequence[Slice]) -> tuple[Table, ...]:
        """Return a table per way of slicing, all intervals drawn on one scale."""
        plots = dict(zip(slices, interval_plots([part.difference for part in slices]), strict=True))
        names = dict.fromkeys(part.by for part in slices)
        tuned, base = (
            clean(name or kind)
            for name, kind in ((self.evaluation.tuned, "tuned"), (self.evaluation.base, "base"))
        )
        return tuple(
            Table(
                f"slices-{number}",
                f"Gain in {metric_name(self.evaluation.headline_metric)} by {clean(by)}"
                + ", with 95% intervals" * any(part.difference.low is not None for part in parts),
                (
                    Column(clean(by).capitalize(), number=False),
                    *map(Column, ("Queries", "Difference")),
                    Column("From loss to gain", sortable=False),
                    *map(Column, (base, tuned)),
                ),
                tuple(_slice_row(part, plots[part]) for part in parts),
            )
            for number, by in enumerate(names, start=1)
            for parts in [[part for part in slices if part.by == by]]
        )

    def _system(self, name: str, kind: SystemKind) -> Cell:
        before = "before" if kind == "other" else "base"
        role = {self.evaluation.base: before, self.evaluation.tuned: "tuned"}.get(name, "")
        said = role if role and role not in name.lower() else ""
        style = self.styles.get(name)
        return Cell(
            clipped(name, _NAME_LENGTH),
            clean(name),
            said or (kind if kind == "hybrid" and kind not in name.lower() else ""),
            colour=None if style is None else style.colour,
        )


def _slice_row(part: Slice, plot: IntervalPlot | None) -> tuple[Cell, ...]:
    found = part.difference
    apart = found.low is not None and found.high is not None and (found.low > 0 or found.high < 0)
    return (
        Cell(clipped(part.label, _NAME_LENGTH), clean(part.label)),
        Cell(count(part.queries), part.queries),
        Cell(signed(found.value), found.value, bounds(found.low, found.high, sign=True), strong=apart),
        Cell("", plot=plot),
        Cell(figure(part.base), part.base),
        Cell(figure(part.tuned), part.tuned),
    )
