"""Small plots of intervals for the rows of a table, on a shared scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aisle.evaluation.document import Estimate

__all__ = ["IntervalPlot", "interval_plots"]

WIDTH = 140
"""Width of the scale, in points."""
_MARGIN = 6


@dataclass(frozen=True)
class IntervalPlot:
    """Positions on a scale of `WIDTH` points."""

    zero: float
    value: float
    low: float
    high: float
    width: int = WIDTH


def interval_plots(estimates: Sequence[Estimate]) -> list[IntervalPlot | None]:
    """Return a plot per estimate, None if it is undefined; the scale covers zero and all ends."""
    ends = [0.0]
    for estimate in estimates:
        ends += [end for end in (estimate.value, estimate.low, estimate.high) if end is not None]
    low, high = min(ends), max(ends)
    scale = (WIDTH - 2 * _MARGIN) / ((high - low) or 1)

    def position(value: float) -> float:
        return round(_MARGIN + (value - low) * scale, 1)

    return [
        None
        if estimate.value is None
        else IntervalPlot(
            zero=position(0),
            value=position(estimate.value),
            low=position(estimate.value if estimate.low is None else estimate.low),
            high=position(estimate.value if estimate.high is None else estimate.high),
        )
        for estimate in estimates
    ]
