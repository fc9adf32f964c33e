"""The settings of the smaller commands: sample, quickstart, average, push."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field
from tyro.conf import Positional


@dataclass(frozen=True)
class SampleSettings:
    """Write a synthetic catalogue with judged queries; the same seed gives the same files."""

    output_dir: str
    """Folder that is written."""
    products: Annotated[int, Field(ge=1, le=1_000_000)] = 2400
    """Products in the catalogue."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed is another catalogue."""
    overwrite: bool = False
    """Replace a sample that is in --output_dir."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


@dataclass(frozen=True)
class QuickstartSettings:
    """Train on the sample catalogue, index it, and compare base model, tuned model and BM25."""

    output_dir: str = "runs/quickstart"
    """Folder of the run; the sample and the index are written beside it."""
    recipe: str = "quickstart"
    """Training recipe: a YAML file, or the name of one that comes with aisle."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


@dataclass(frozen=True)
class AverageSettings:
    """Average the weights of runs that began at one base model into one model, as fast as any of them."""

    output_dir: str
    """Folder of the averaged model."""
    runs: Positional[tuple[str, ...]] = ()
    """Two or more runs of train_peft.py, folders or Hub ids; adapters are merged into their base first."""
    weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = None
    """What each run counts, in their order; alike when not given. They are divided by their sum."""
    overwrite_output_dir: bool = False
    """Replace the run that is in --output_dir."""
    hub_token: str | None = field(default=None, repr=False)
    """Token for private runs on the Hub; the one of `hf auth login` when not given. Never saved or logged."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


def average_problems(settings: AverageSettings) -> list[str]:
    """Return what is wrong with a combination of settings, a line each."""
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


@dataclass(frozen=True)
class PushSettings:
    """Upload a finished run to the Hub."""

    run_dir: Positional[str]
    """Folder of the run."""
    hub_model_id: str | None = None
    """Repository on the Hub; the folder's name when not given."""
    hub_token: str | None = field(default=None, repr=False)
    """Token for the Hub; the one of `hf auth login` when not given. Never saved or logged."""
    hub_private: bool = False
    """Create the repository as a private one; one that is there already must be private."""
    hub_overwrite_card: bool = False
    """Replace the model card also where it was edited on the Hub; it is kept otherwise."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""
