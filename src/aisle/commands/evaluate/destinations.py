"""Check before an evaluation starts that its report, card and trackers can take it, and write them after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from aisle.commands.evaluate.compared_models import model_name
from aisle.commands.evaluate.read_inputs import Inputs
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.output import Output
from aisle.errors import ConfigError
from aisle.evaluation.document import Evaluation
from aisle.evaluation.number_format import counted
from aisle.extras import require_extra
from aisle.index import Manifest
from aisle.reporting.evaluation_card import write_evaluation_card
from aisle.reporting.evaluation_tracking import track_evaluation
from aisle.reporting.model_card import check_card
from aisle.reporting.unjudged_products import Unjudged, write_unjudged


def check_trackers(settings: EvaluateSettings) -> None:
    """Refuse trackers that are unknown or not installed.

    Raises:
        ConfigError: A tracker is unknown, or --report_to is `all` and none is installed.
        OptionalDependencyError: A tracker of the extra `track` is not installed.
    """
    if settings.with_tracking:
        from aisle.training.accelerator import tracker_names

        if not tracker_names(settings.report_to):
            raise ConfigError("--with_tracking: no tracker is installed; pip install 'aisle-search[track]'")


def check_report(settings: EvaluateSettings) -> None:
    """Refuse a report that could not be written.

    Raises:
        ConfigError: The path is not a folder, or cannot be made or written to.
        OptionalDependencyError: A library that draws the charts is not installed.
    """
    if settings.report is not None or settings.model_card:
        require_extra("report")
    if settings.report is None:
        return
    folder = Path(settings.report)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--report {folder}: {there} is not a folder; name one, or a place for one")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"--report {folder}: {there} cannot be written to; name a folder that can be")


def run_of_card(settings: EvaluateSettings, manifest: Manifest | None) -> Path | None:
    """Return the run with the model card to write; None without --model_card.

    Raises:
        ModelError: The encoder is not a finished run on this machine, or its card cannot take an evaluation.
    """
    if not settings.model_card:
        return None
    run_dir = Path(model_name(settings, manifest)).expanduser()
    check_card(run_dir)
    return run_dir


def write_destinations(
    settings: EvaluateSettings,
    evaluation: Evaluation,
    inputs: Inputs,
    *,
    unjudged: Sequence[Unjudged],
    card_run: Path | None,
    output: Output,
) -> None:
    """Write the report and the model card, and send the evaluation to the trackers, as far as the user asks.

    Args:
        settings: Settings of the evaluation.
        evaluation: Evaluation to write.
        inputs: Inputs of the evaluation.
        unjudged: Products to judge next.
        card_run: Run with the model card; None writes none.
        output: Prints what was written.

    Raises:
        AisleError: A file cannot be written, or a tracker failed.
    """
    if settings.report is not None:
        from aisle.reporting.html import write_report

        folder = Path(settings.report)
        output.log(f"report: {write_report(folder, evaluation)}")
        if inputs.judged is not None and inputs.labels is not None:
            written = write_unjudged(folder, unjudged, queries=inputs.judged.queries, labels=inputs.labels)
            output.log(f"{counted(len(unjudged), 'product')} to judge next: {written}")
    if card_run is not None and evaluation.retrieval is not None:
        output.log(f"model card: {write_evaluation_card(card_run, evaluation, evaluation.retrieval)}")
    if settings.with_tracking:
        report = Path(str(settings.report))
        track_evaluation(evaluation, report=report, report_to=settings.report_to, log=output.log)
