"""Runs, averaged into one model."""

from __future__ import annotations

import shutil
from pathlib import Path

from aisle.commands.output import Output, quieten_libraries
from aisle.commands.tool_settings import AverageSettings
from aisle.commands.train.run_dir import CHECKPOINTS, LOG, METRICS, SETTINGS, check_run_dir, only_writer
from aisle.commands.train.settings import RunSettings
from aisle.config.load import saved_form, write_yaml
from aisle.io.durable import replace_text
from aisle.models.averaging import average_runs
from aisle.models.loading import read_settings_file
from aisle.models.persistence import save_encoder
from aisle.reporting.model_card import CARD, remove_card_charts, render_model_card


def average(settings: AverageSettings) -> str:
    """Write the average of some runs and return its fingerprint.

    Raises:
        AisleError: the runs do not go together, or the folder cannot be written; it is as it was then.
    """
    run_dir = Path(settings.output_dir)
    check_run_dir(
        run_dir,
        RunSettings(output_dir=settings.output_dir, overwrite_output_dir=settings.overwrite_output_dir),
    )
    output = Output(json_only=settings.json)
    quieten_libraries()
    weights = settings.weights or (1.0,) * len(settings.runs)
    found = average_runs(settings.runs, weights, token=settings.hub_token)
    with only_writer(run_dir):
        fingerprint = save_encoder(
            run_dir,
            embedder=found.embedder,
            weights=None,
            tokenizer=found.tokenizer,
            settings=found.settings,
            source=found.base,
            adapter=False,
        )
        write_yaml(settings, run_dir / SETTINGS)
        _remove_figures(run_dir)
        card = render_model_card(
            encoder=read_settings_file(run_dir) or {}, settings=saved_form(settings), metrics={}, repo_id=None
        )
        replace_text(run_dir / CARD, card)
        remove_card_charts(run_dir)
    output.say(f"averaged {len(settings.runs)} runs of {found.base.name}; saved to {run_dir}")
    output.document(
        {
            "run_dir": str(run_dir),
            "runs": list(settings.runs),
            "weights": list(weights),
            "fingerprint": fingerprint,
        }
    )
    return fingerprint


def _remove_figures(run_dir: Path) -> None:
    """Remove what an earlier run in the folder found of itself: it is not true of the average."""
    for name in (METRICS, LOG):
        (run_dir / name).unlink(missing_ok=True)
    shutil.rmtree(run_dir / CHECKPOINTS, ignore_errors=True)
