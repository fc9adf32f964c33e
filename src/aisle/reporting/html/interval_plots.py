"""Small drawings of intervals for the rows of a table, all on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aisle.evaluation.document import Estimate

__all__ = ["IntervalPlot", "interval_plots"]

WIDTH = 140
"""Points from the left end of the scale to the right."""
_MARGIN = 6


@dataclass(frozen=True)
class IntervalPlot:
    """Positions on a line of `WIDTH` points."""

    zero: float
    value: float
    low: float
    high: float
    width: int = WIDTH


def interval_plots(estimates: Sequence[Estimate]) -> list[IntervalPlot | None]:
    """Return a drawing per estimate, None where it is undefined; the scale holds zero and every end."""
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
