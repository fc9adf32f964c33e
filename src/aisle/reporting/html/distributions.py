"""Charts of scores: distributions by relevance level, and heat maps of queries and products."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from aisle.evaluation.document import Heatmap, Histogram, PairsRow
from aisle.reporting.html.chart_text import drawable, legend_below
from aisle.reporting.html.formatting import count
from aisle.reporting.html.formatting import figure as written
from aisle.reporting.html.palette import COLOURS, SystemStyle
from aisle.reporting.html.relevance_levels import RelevanceLevels

__all__ = ["draw_heatmap", "draw_scores"]

_HEAT = LinearSegmentedColormap.from_list("aisle", ["#f7f5ef", "#f0c9a0", "#e08f55"])
_HEAT_LABEL = 30
"""Largest number of characters of a query or title beside the heat map."""
_HEAT_CELLS = 400
"""Largest number of cells of a heat map that shows its figures."""


def draw_scores(
    rows: Sequence[PairsRow], styles: Mapping[str, SystemStyle], levels: RelevanceLevels
) -> Figure:
    """Draw a panel per relevance level, the highest on top, with the distribution of each system's scores.

    A system's area is 1 in every panel, so that levels with few and with many pairs can be compared.

    Args:
        rows: Systems to draw, at least one; the first is drawn as a line, the last is filled.
        styles: Style of each system, by name.
        levels: Labels of the relevance levels.
    """
    names = list(dict.fromkeys(level for row in rows for level in row.histogram.counts))
    figure = Figure(figsize=(4.2, 0.8 + 0.6 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    shown = {}
    for axes, level in zip(panels, names, strict=True):
        for row in rows:
            filled = row is rows[-1]
            heights = _densities(row.histogram, level)
            if heights:
                style = styles[row.name]
                shown[row.name] = axes.stairs(
                    heights,
                    row.histogram.edges,
                    fill=filled,
                    color=style.rgb,
                    alpha=0.45 if filled else None,
                    linewidth=1.5,
                )
        pairs = sum(rows[-1].histogram.counts.get(level, ()))
        axes.set_ylabel(
            f"{drawable(levels.named(level), 10)}\n{count(pairs)}",
            rotation=0,
            ha="right",
            va="center",
            fontsize=8,
        )
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    panels[-1].set_xlabel("Score")
    legend_below(figure, list(shown.values()), [drawable(name) for name in shown])
    return figure


def _densities(histogram: Histogram, level: str) -> list[float]:
    """Return the density of a level's scores in each bin; empty if the level has no pairs."""
    counts = histogram.counts.get(level, ())
    total = sum(counts)
    if not total:
        return []
    widths = [high - low for low, high in zip(histogram.edges, histogram.edges[1:], strict=False)]
    return [number / total / (width or 1) for number, width in zip(counts, widths, strict=True)]


def draw_heatmap(heatmap: Heatmap) -> Figure:
    """Draw scores as colours and figures; judged cells have their relevance in brackets.

    Args:
        heatmap: Scores of at least one query and one product.
    """
    rows, columns = len(heatmap.queries), len(heatmap.products)
    titles = [drawable(title, _HEAT_LABEL) for title in heatmap.products]
    queries = [drawable(query, _HEAT_LABEL) for query in heatmap.queries]
    # A letter takes about 0.09 inches; the slanted titles reach as far to the left as down.
    aslant = 0.065 * max(map(len, titles))
    size = (1.2 + max(0.09 * max(map(len, queries)), aslant) + 0.62 * columns, 1 + aslant + 0.42 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(heatmap.scores, cmap=_HEAT, aspect="auto")
    axes.set_xticks(
        range(columns),
        titles,
        rotation=40,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(rows), queries)
    axes.grid(visible=False)
    axes.set_title(drawable(heatmap.system, 40))
    if rows * columns <= _HEAT_CELLS:
        for row, (scores, judged) in enumerate(zip(heatmap.scores, heatmap.relevance, strict=True)):
            for column, (score, relevance) in enumerate(zip(scores, judged, strict=True)):
                text = written(score) + ("" if relevance is None else f"\n({relevance:g})")
                axes.text(column, row, text, ha="center", va="center", fontsize=6.5, color=COLOURS["ink"])
    figure.colorbar(image, ax=axes, shrink=0.8, label="Cosine")
    return figure
