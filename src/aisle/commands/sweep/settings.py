"""The settings of `sweep`: those of `train`, and how to search."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from annotated_types import Interval
from pydantic import AfterValidator
from tyro.conf import OmitArgPrefixes

from aisle.commands.shared_settings import Count
from aisle.commands.train.settings import OptimSettings, TrainSettings, problems_of
from aisle.losses.registry import registered_losses
from aisle.sweep.duration import duration_of

Searched = Literal[
    "loss",
    "learning_rate",
    "lora_rank",
    "lora_target_modules",
    "temperature",
    "dropout",
    "per_device_train_batch_size",
    "num_train_epochs",
]
SEARCHED: tuple[Searched, ...] = Searched.__args__  # type: ignore[attr-defined]


def _duration(text: str) -> str:
    duration_of(text)
    return text


@dataclass(frozen=True)
class SearchSettings:
    """The search."""

    budget: Annotated[str, AfterValidator(_duration)] = "60m"
    """Time for the trials, such as 90s, 60m or 1.5h. The last trial is ended when it is spent; the final
    measurements come in addition. A resumed sweep has what is left of it."""
    trials: Count | None = None
    """Most trials. If not given: as many as the budget allows."""
    search: tuple[Searched, ...] = SEARCHED
    """Settings to search; all others are as given."""
    search_losses: tuple[str, ...] | None = None
    """Losses to try. If not given: the usual losses that can learn from the labels."""
    most_epochs: Count = 5
    """Most epochs of a trial."""
    unseen_share: Annotated[float, Interval(gt=0, lt=0.5)] = 0.1
    """Share of the training queries that take no part in the search; the winner is measured on them, once.
    With --validation_file, half of its queries are kept for this."""
    keep_runs: Count = 3
    """Runs of the best trials to keep on disk."""
    average_runs: bool = True
    """Average the weights of the best runs, if the average is better on the validation queries."""


@dataclass(frozen=True)
class SweepSettings(TrainSettings):
    """Search for the training settings that are best on held-out queries.

    All flags of `train` are flags of `sweep`: those that are not searched are the same in all trials, and the
    searched ones are those of the first trial. Alpha is in proportion to the rank: as given, or
    twice the rank.
    """

    searching: OmitArgPrefixes[SearchSettings] = SearchSettings()


def train_settings(settings: SweepSettings) -> TrainSettings:
    """Return the settings of `train` in those of a sweep."""
    kind: Any = TrainSettings.complete()
    return kind(**{part.name: getattr(settings, part.name) for part in fields(kind)})  # type: ignore[no-any-return]


def sweep_problems(settings: SweepSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    run, searching = settings.run, settings.searching
    problems = problems_of(settings)
    refused = {
        "--push_to_hub": run.push_to_hub,
        "--with_tracking": run.with_tracking,
        "--resume_from_checkpoint": run.resume_from_checkpoint is not None,
        "--overwrite_output_dir": run.overwrite_output_dir,
        "--two_towers": settings.towers.two_towers,
    }
    why = {
        "--push_to_hub": "push the best run afterwards",
        "--with_tracking": "sweep.json and sweep.md have the trials",
        "--resume_from_checkpoint": "the same command goes on with an interrupted sweep",
        "--two_towers": "it trains one tower; train two with the settings that it finds",
        "--overwrite_output_dir": "give another folder, or remove it yourself",
    }
    problems += [f"{flag}: is not for a sweep; {why[flag]}" for flag, given in refused.items() if given]
    names = [loss.name for loss in registered_losses()]
    problems += [
        f"--search_losses {name}: there is no such loss; they are {', '.join(names)}"
        for name in searching.search_losses or ()
        if name not in names
    ]
    if settings.optim.max_train_steps is not None:
        problems.append("--max_train_steps: is not for a sweep; give --most_epochs")
    epochs = settings.optim.num_train_epochs
    given = epochs != OptimSettings().num_train_epochs
    if given and epochs > searching.most_epochs and "num_train_epochs" in searching.search:
        problems.append(
            f"--num_train_epochs {epochs}: is more than --most_epochs {searching.most_epochs}; give a higher "
            "--most_epochs, or --search without num_train_epochs"
        )
    if run.keep == "last":
        problems.append("--keep last: a sweep compares the best evaluations; leave it out")
    return problems
