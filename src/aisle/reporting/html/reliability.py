"""The reliability curve of an index's calibrated scores, and its table."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.figure import Figure

from aisle.evaluation.document import SystemKind
from aisle.reporting.html.cells import Cell, Column, Table, count_cell, figure_cell, make_table, share_cell
from aisle.reporting.html.chart_text import legend_below
from aisle.reporting.html.formatting import figure as written
from aisle.reporting.html.palette import COLOURS, system_styles
from aisle.types.choices import SearchMode
from aisle.types.score_calibration import Calibration, ScoreCalibration

__all__ = ["calibration_table", "draw_reliability"]

_STYLE_OF: dict[SearchMode, SystemKind] = {"dense": "tuned", "lexical": "bm25", "hybrid": "hybrid"}
_ANSWERED = (0.98, 0.95)

ModeRow = tuple[SearchMode, ScoreCalibration]


def draw_reliability(calibration: Calibration) -> Figure:
    """Draw the share of relevant pairs over the predicted probability, a line per search mode.

    The grey line is a perfect prediction.
    """
    styles = system_styles((mode, _STYLE_OF[mode]) for mode in calibration.modes)
    figure = Figure(figsize=(4.2, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=COLOURS["muted"], linewidth=0.7)
    lines, names = [], []
    for mode, scores in calibration.modes.items():
        style, bins = styles[mode], scores.reliability
        x, y = [part.predicted for part in bins], [part.relevant for part in bins]
        (line,) = axes.plot(x, y, color=style.rgb, linewidth=1.7, marker=style.marker, markersize=6)
        if style.dashes:
            line.set_dashes(style.dashes)
        lines.append(line)
        names.append(f"{mode} {written(scores.calibration_error)}")
    axes.set(
        xlim=(-0.03, 1.03),
        ylim=(-0.03, 1.03),
        xlabel="Predicted probability of relevance",
        ylabel="Share of relevant pairs",
    )
    legend_below(figure, lines, names)
    return figure


def calibration_table(calibration: Calibration) -> Table:
    """Return a row per search mode: its pairs, errors and thresholds."""
    return make_table(
        "calibration",
        "Calibrated scores by search mode",
        tuple(calibration.modes.items()),
        (
            (Column("Mode", number=False), lambda row: Cell(row[0], row[0])),
            (Column("Pairs"), lambda row: count_cell(row[1].pairs)),
            (Column("Relevant"), lambda row: share_cell(row[1].relevant / row[1].pairs)),
            (Column("Calibration error"), lambda row: figure_cell(row[1].calibration_error)),
            (Column("Brier score"), lambda row: figure_cell(row[1].brier)),
            *((Column(f"Highest p, {share:.0%} answered"), _highest_p(share)) for share in _ANSWERED),
        ),
        "Highest p: the highest threshold that leaves this share of the judged queries a product.",
    )


def _highest_p(share: float) -> Callable[[ModeRow], Cell]:
    return lambda row: figure_cell(row[1].highest_p(answered=share))
