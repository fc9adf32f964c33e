"""Send an evaluation with its tables and charts to experiment trackers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from aisle.evaluation.document import Evaluation

__all__ = ["track_evaluation"]

TRACKING = "tracking"
"""Folder in a report for trackers that write files; each evaluation has a subfolder."""


def track_evaluation(
    evaluation: Evaluation, *, report: Path, report_to: str, log: Callable[[str], None]
) -> None:
    """Send the figures, tables and charts of a report to the trackers.

    Args:
        evaluation: Evaluation of the report.
        report: Folder of the report.
        report_to: Names of trackers, separated by commas, or `all`.
        log: Called with the trackers that received the evaluation.

    Raises:
        ConfigError: If a tracker cannot start or fails; the others receive the whole evaluation.
    """
    from aisle.reporting.html import figures_of, rgb_pixels, scalars_of, tables_of
    from aisle.reporting.trackers import Tracked, track_report

    started = re.sub(r"\D", "", evaluation.provenance.date.partition("+")[0])
    tracked = Tracked(
        scalars=scalars_of(evaluation),
        tables={name: (table.header, table.rows) for name, table in tables_of(evaluation).items()},
        images={name: rgb_pixels(figure) for name, figure in figures_of(evaluation).items()},
    )
    track_report(
        tracked,
        report_to=report_to,
        folder=report / TRACKING / started,
        settings=evaluation.provenance.configuration,
        log=log,
    )
