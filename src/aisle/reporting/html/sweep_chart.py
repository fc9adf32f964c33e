"""Chart of a sweep: the figure of each trial, and the best so far."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aisle.reporting.html.chart_style import STYLE
from aisle.reporting.html.chart_text import drawable
from aisle.reporting.html.formatting import metric_name
from aisle.reporting.html.palette import COLOURS

__all__ = ["sweep_figure"]

_WIDTH, _HEIGHT = 4.2, 3.1


def sweep_figure(trials: Sequence[tuple[int, float | None, str]], metric: str) -> Figure:
    """Return the chart.

    Args:
        trials: Number, figure (None if it has none) and state of each trial.
        metric: Metric of the figures.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.add_subplot()
        complete = [(number, value) for number, value, _ in trials if value is not None]
        best: list[float] = []
        for _, value in complete:
            best.append(max([value, *best[-1:]]))
        numbers = [number for number, _ in complete]
        axes.step(numbers, best, where="post", color=COLOURS["tuned"], linewidth=1.7, label="best so far")
        values = [value for _, value in complete]
        axes.plot(numbers, values, "o", color=COLOURS["tuned"], markersize=4, label="trial")
        ended = [number for number, value, _ in trials if value is None]
        if ended:
            axes.plot(
                ended,
                [min(values)] * len(ended),
                "x",
                color=COLOURS["muted"],
                markersize=4,
                label="ended early",
            )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="Trial", ylabel=f"{drawable(metric_name(metric))} on validation queries")
        axes.legend(loc="lower right")
        return figure
