"""Where an evaluation goes besides its report: the experiment trackers, and the run's model card."""

from __future__ import annotations

import re
from pathlib import Path

from aisle.commands.evaluate.compared_models import model_name
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.output import Output
from aisle.errors import ConfigError, ModelError
from aisle.evaluation.document import Evaluation, Retrieval
from aisle.index import Manifest
from aisle.reporting.model_card import CHARTS, SearchResults, check_card, write_search_results

TRACKING = "tracking"
"""Folder of a report that the trackers write in, an evaluation in a folder of its own."""
CHARTS_IN_CARD = 2


def check_trackers(settings: EvaluateSettings) -> None:
    """Refuse trackers that are unknown or not installed, before anything is computed.

    Raises:
        ConfigError: one is, or `all` are to be used and there is none.
        OptionalDependencyError: one that the extra `track` brings is not installed.
    """
    if settings.with_tracking:
        from aisle.training.accelerator import tracker_names

        if not tracker_names(settings.report_to):
            raise ConfigError("--with_tracking: no tracker is installed; pip install 'aisle-search[track]'")


def run_of_card(settings: EvaluateSettings, manifest: Manifest | None) -> Path | None:
    """Return the run whose model card is written, None without --model_card.

    Raises:
        ModelError: the encoder is no finished run on this machine, or its card cannot take an evaluation.
    """
    if not settings.model_card:
        return None
    run_dir = Path(model_name(settings, manifest)).expanduser()
    check_card(run_dir)
    return run_dir


def write_card(run_dir: Path, evaluation: Evaluation, retrieval: Retrieval) -> Path:
    """Write table, sentence and charts of the rankings into the run's card, and return the card's path.

    Args:
        run_dir: of the run that made the encoder.
        evaluation: what was found.
        retrieval: of it.

    Raises:
        ModelError: there is no row of this model, or the card cannot be written.
    """
    own = next((row.metrics for row in retrieval.rows if row.kind == "tuned"), None)
    if own is None:
        found = ", ".join(row.name for row in retrieval.rows)
        raise ModelError(
            f"--model_card: is about the row tuned, and the evaluation has only {found}; leave out "
            "--base_model_row none, or name tuned in --rows"
        )
    from aisle.reporting.html import (
        alt_text,
        figures_of,
        headline_of,
        metric_name,
        png_bytes,
        tables_of,
    )

    figures = figures_of(evaluation)
    charts = [name for name in CHARTS if name in figures][:CHARTS_IN_CARD]
    table = tables_of(evaluation)["retrieval"]
    results = SearchResults(
        sentence=headline_of(evaluation),
        header=table.header,
        rows=table.rows,
        queries=retrieval.queries,
        products=retrieval.products,
        metrics={
            name: (metric_name(name), estimate.value)
            for name, estimate in own.items()
            if estimate.value is not None
        },
        alt_texts={name: alt_text(name, evaluation) for name in charts},
    )
    return write_search_results(run_dir, results, {name: png_bytes(figures[name]) for name in charts})


def track(settings: EvaluateSettings, evaluation: Evaluation, output: Output) -> None:
    """Send the report's figures, tables and charts to the trackers.

    Raises:
        ConfigError: If a tracker cannot start or failed; the others have the whole evaluation.
    """
    from aisle.reporting.html import figures_of, rgb_pixels, scalars_of, tables_of
    from aisle.reporting.trackers import Tracked, track_report

    report = Path(str(settings.report))
    started = re.sub(r"\D", "", evaluation.provenance.date.partition("+")[0])
    tracked = Tracked(
        scalars=scalars_of(evaluation),
        tables={name: (table.header, table.rows) for name, table in tables_of(evaluation).items()},
        images={name: rgb_pixels(figure) for name, figure in figures_of(evaluation).items()},
    )
    track_report(
        tracked,
        report_to=settings.report_to,
        folder=report / TRACKING / started,
        settings=evaluation.provenance.configuration,
        log=output.say,
    )
