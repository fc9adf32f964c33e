"""`aisle average`: average the weights of several runs into one model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field

from aisle.commands.command import Command
from aisle.commands.named_inputs import check_models
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.shared_settings import ConfigFile, HubToken, Json, OverwriteOutputDir
from aisle.config.annotations import Positional


@dataclass(frozen=True)
class AverageSettings:
    """Average the weights of several runs into one model.

    The runs must start from the same base model. The averaged model is as fast as each of them.
    """

    output_dir: str
    """Folder of the averaged model."""
    runs: Positional[tuple[str, ...]] = ()
    """Two or more runs of `aisle train`, folders or Hub ids. An adapter is merged into its base model
    first."""
    weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    """Weight of each run, in the order of the runs; the weights are divided by their sum. If not given: all
    runs count the same."""
    overwrite_output_dir: OverwriteOutputDir = False
    hub_token: HubToken = field(default=None, repr=False)
    json: Json = False
    config: ConfigFile = None


def average_problems(settings: AverageSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    problems = []
    if len(settings.runs) < 2:
        problems.append(f"an average needs two runs or more, found {len(settings.runs)}")
    if settings.weights is not None and len(settings.weights) != len(settings.runs):
        problems.append(
            f"--weights: must be one for each of the {len(settings.runs)} runs, found {len(settings.weights)}"
        )
    if len(set(settings.runs)) < len(settings.runs):
        problems.append("a run is given twice; use --weights to count it more")
    return problems


def average_inputs(settings: AverageSettings) -> None:
    """Check that the runs given as folders exist."""
    check_models(*settings.runs)


def average(settings: AverageSettings) -> str:
    """Write the averaged model and return its fingerprint.

    Raises:
        AisleError: The runs cannot be averaged, or the folder cannot be written; the folder is unchanged.
    """
    from aisle.commands.train.run_dir import check_model_dir
    from aisle.commands.write_model import write_model
    from aisle.config.load import saved_form
    from aisle.models.averaging import average_runs

    run_dir = Path(settings.output_dir)
    check_model_dir(run_dir, overwrite=settings.overwrite_output_dir)
    output = Output(json_only=settings.json)
    quieten_libraries()
    weights = settings.weights or (1.0,) * len(settings.runs)
    model = average_runs(settings.runs, weights, token=settings.hub_token)
    fingerprint = write_model(model, run_dir, settings=saved_form(settings), metrics={})
    output.log(f"averaged {len(settings.runs)} runs of {model.base.name}; saved to {run_dir}")
    output.document(
        {
            "run_dir": str(run_dir),
            "runs": list(settings.runs),
            "weights": list(weights),
            "fingerprint": fingerprint,
        }
    )
    return fingerprint


COMMAND = Command("average", AverageSettings, average, average_problems, average_inputs, extra="encode")
