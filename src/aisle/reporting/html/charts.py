"""Charts of a report as matplotlib figures, for the page, the trackers and the model card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from aisle.evaluation.document import Curve, Evaluation, Heatmap, PairsRow, SystemKind, TrainingCurve
from aisle.reporting.html.chart_style import STYLE
from aisle.reporting.html.chart_text import drawable, legend_below, legend_rows
from aisle.reporting.html.distributions import draw_heatmap, draw_scores
from aisle.reporting.html.fonts import families_for
from aisle.reporting.html.formatting import figure as written
from aisle.reporting.html.formatting import metric_name
from aisle.reporting.html.palette import COLOURS, SystemStyle, system_styles
from aisle.reporting.html.relevance_levels import RelevanceLevels
from aisle.reporting.html.reliability import draw_reliability

__all__ = ["figures_of", "heatmap_figure", "styles_of"]

_WIDTH, _HEIGHT = 4.2, 3.1
"""Size in inches; 302 points wide, so that text keeps its size on a phone."""
_CURVES = 12
"""Largest number of training curves in the chart."""
_SLICES = 40
"""Largest number of slices in the chart; the page's tables have all slices."""


def figures_of(evaluation: Evaluation) -> dict[str, Figure]:
    """Return the evaluation's charts by name, in light colours; parts without figures have no chart.

    Names: "retrieval", "roc", "precision_recall", "scores", "training", "recall_by_ef", "reliability",
    "slices", and "heatmap_1" and so on for each heat map. The figures use no window and no global state of
    matplotlib.
    """
    styles = styles_of(evaluation)
    with matplotlib.rc_context(STYLE):
        return dict(_figures(evaluation, styles))


def heatmap_figure(heatmap: Heatmap) -> Figure:
    """Return the chart of a heat map by itself, in the style of the report's charts."""
    families = families_for([*heatmap.queries, *heatmap.products, heatmap.system])
    with matplotlib.rc_context({**STYLE, "font.family": list(families)}):
        return draw_heatmap(heatmap)


def styles_of(evaluation: Evaluation) -> dict[str, SystemStyle]:
    """Return the style of each system, the same in every chart and table."""
    return system_styles(_systems(evaluation))


def _systems(evaluation: Evaluation) -> Iterator[tuple[str, SystemKind]]:
    if evaluation.retrieval is not None:
        yield from ((row.name, row.kind) for row in evaluation.retrieval.rows)
    if evaluation.pairs is not None:
        yield from ((row.name, row.kind) for row in evaluation.pairs.rows)
    yield from ((row.name, row.kind) for row in evaluation.joint_pool)


def _figures(evaluation: Evaluation, styles: dict[str, SystemStyle]) -> Iterator[tuple[str, Figure]]:
    if (retrieval := _retrieval(evaluation, styles)) is not None:
        yield "retrieval", retrieval
    if evaluation.pairs is not None:
        yield from _pair_figures(evaluation, evaluation.pairs.rows, styles)
    if curves := [curve for curve in evaluation.training if curve.values][:_CURVES]:
        yield "training", _training(curves)
    if evaluation.ann:
        yield "recall_by_ef", _recall_by_ef(evaluation)
    if evaluation.calibration is not None:
        yield "reliability", draw_reliability(evaluation.calibration)
    for number, heatmap in enumerate(evaluation.heatmaps, start=1):
        if heatmap.queries and heatmap.products:
            yield f"heatmap_{number}", draw_heatmap(heatmap)
    if evaluation.slices:
        yield "slices", _slices(evaluation)


def _pair_figures(
    evaluation: Evaluation, rows: Sequence[PairsRow], styles: dict[str, SystemStyle]
) -> Iterator[tuple[str, Figure]]:
    roc = [(row, row.roc, "roc_auc") for row in rows if row.roc.x]
    if roc:
        figure = _curves(roc, styles, "False positive rate", "True positive rate")
        figure.axes[0].plot([0, 1], [0, 1], color=COLOURS["rule"], linewidth=1)
        yield "roc", figure
    precision = [(row, row.precision_recall, "average_precision") for row in rows if row.precision_recall.x]
    if precision:
        yield "precision_recall", _curves(precision, styles, "Recall", "Precision")
    named = {row.name: row for row in rows if any(map(any, row.histogram.counts.values()))}
    chosen = [
        named[name] for name in (evaluation.base, evaluation.tuned) if name is not None and name in named
    ]
    if named:
        yield "scores", draw_scores(chosen or list(named.values())[:2], styles, RelevanceLevels(evaluation))


def _retrieval(evaluation: Evaluation, styles: dict[str, SystemStyle]) -> Figure | None:
    rows = () if evaluation.retrieval is None else evaluation.retrieval.rows
    metric = evaluation.headline_metric
    found = [(row.name, estimate) for row in rows if (estimate := row.metrics.get(metric)) is not None]
    points = [(name, estimate, estimate.value) for name, estimate in found if estimate.value is not None]
    if not points:
        return None
    figure, axes = _canvas(height=0.9 + 0.32 * len(points))
    for height, (name, estimate, value) in enumerate(points):
        style = styles[name]
        if estimate.low is not None and estimate.high is not None:
            axes.plot([estimate.low, estimate.high], [height, height], color=style.rgb, linewidth=2)
        axes.plot([value], [height], color=style.rgb, marker=style.marker, markersize=7)
    _name_rows(axes, [name for name, _, _ in points])
    _name_axis(axes, f"{drawable(metric_name(metric))}, 95% interval")
    return figure


def _curves(
    rows: Sequence[tuple[PairsRow, Curve, str]], styles: dict[str, SystemStyle], x_label: str, y_label: str
) -> Figure:
    """Draw a line per system, with the area below it in the legend."""
    areas = [row.metrics.get(metric) for row, _, metric in rows]
    names = [
        f"{drawable(row.name)} {written(None if area is None else area.value)}"
        for (row, _, _), area in zip(rows, areas, strict=True)
    ]
    figure, axes = _canvas(height=_HEIGHT + 0.18 * legend_rows(names))
    lines = []
    for row, curve, _ in rows:
        style = styles[row.name]
        (line,) = axes.plot(curve.x, curve.y, color=style.rgb, linewidth=1.7)
        if style.dashes:
            line.set_dashes(style.dashes)
        lines.append(line)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xlabel=x_label, ylabel=y_label)
    legend_below(figure, lines, names)
    return figure


def _training(curves: Sequence[TrainingCurve]) -> Figure:
    figure = Figure(figsize=(_WIDTH, 0.5 + 1.5 * len(curves)), layout="constrained")
    panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
    for axes, curve in zip(panels, curves, strict=True):
        mark = "o" if len(curve.steps) <= 20 else ""
        axes.plot(
            curve.steps, curve.values, color=COLOURS["tuned"], linewidth=1.5, marker=mark, markersize=3.5
        )
        axes.set_title(drawable(metric_name(curve.name), 40))
        _plain_ticks(axes)
    panels[-1].set_xlabel("Step")
    return figure


def _recall_by_ef(evaluation: Evaluation) -> Figure:
    points = sorted(evaluation.ann, key=lambda point: point.ef_search)
    times, recalls = [point.milliseconds for point in points], [point.recall for point in points]
    figure, axes = _canvas(height=_HEIGHT)
    # Times of a small index are within the noise of the clock; a line through them would zigzag.
    rising = times == sorted(times)
    axes.plot(times, recalls, color=COLOURS["base"], linewidth=1.5 if rising else 0, marker="o", markersize=4)
    for point in points:
        chosen = point.ef_search == evaluation.ef_search
        if chosen:
            axes.plot([point.milliseconds], [point.recall], color=COLOURS["tuned"], marker="D", markersize=8)
        axes.annotate(
            f"ef {point.ef_search}" + (" (in use)" if chosen else ""),
            (point.milliseconds, point.recall),
            xytext=(6, -11),
            textcoords="offset points",
            fontsize=8,
            color=COLOURS["tuned" if chosen else "muted"],
        )
    if min(times) > 0 and max(times) > 10 * min(times):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_one_two_five(min(times), max(times))))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.16, y=0.12)
    _plain_ticks(axes)
    axes.set(xlabel="Milliseconds per query", ylabel="Recall of the exact top 10")
    return figure


def _one_two_five(low: float, high: float) -> list[float]:
    """Return at most nine of 1, 2 and 5 times the powers of ten, from half of `low` to twice `high`."""
    ticks = [float(f"{digit}e{power}") for power in range(-6, 12) for digit in (1, 2, 5)]
    within = [tick for tick in ticks if low / 2 <= tick <= 2 * high]
    return within[:: 1 + (len(within) - 1) // 9]


def _slices(evaluation: Evaluation) -> Figure:
    slices = evaluation.slices[:_SLICES]
    figure, axes = _canvas(height=1 + 0.26 * len(slices))
    axes.axvline(0, color=COLOURS["muted"], linewidth=1)
    for height, part in enumerate(slices):
        difference = part.difference
        if difference.value is None:
            continue
        if difference.low is not None and difference.high is not None:
            axes.plot(
                [difference.low, difference.high], [height, height], color=COLOURS["tuned"], linewidth=1.7
            )
        axes.plot([difference.value], [height], color=COLOURS["tuned"], marker="D", markersize=5)
    _name_rows(axes, [f"{part.by}: {part.label} ({part.queries})" for part in slices])
    _name_axis(axes, f"Gain in {drawable(metric_name(evaluation.headline_metric))}, 95% interval")
    return figure


def _canvas(*, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.add_subplot()


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows, the first at the top."""
    axes.set_yticks(range(len(names)), [drawable(name, 34) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    for label in axes.get_yticklabels():
        label.set_color(COLOURS["ink"])


def _name_axis(axes: Axes, name: str) -> None:
    """Label the x axis, right-aligned: beside long row names a centred label would be cut off."""
    axes.set_xlabel(name, loc="right")


def _plain_ticks(axes: Axes) -> None:
    """Format ticks as plain figures, without powers or offsets."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "\u2212")))
