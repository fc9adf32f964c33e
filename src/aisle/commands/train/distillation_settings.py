"""Settings of `train` for a teacher, whose scores the encoder learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from aisle.commands.train.data_settings import DataSettings
from aisle.commands.train.loss_settings import LossSettings, needs_teacher_scores
from aisle.losses.registry import loss_named, registered_losses


@dataclass(frozen=True)
class DistillationSettings:
    """A teacher, whose scores the encoder learns."""

    teacher: str | None = None
    """Cross-encoder, whose scores the model learns with --loss margin_mse or kl_divergence: a run of
    `aisle train-reranker`, or folder or Hub id of another cross-encoder with one score. Each pair is scored
    once, before training."""
    teacher_lists: Literal["judged", "in_batch"] = "judged"
    """Products that --teacher scores for a query.
    judged: those of its pairs, and their hard negatives.
    in_batch: all products of each batch; with b pairs in a batch, b times as many in every epoch."""
    teacher_cache: str | None = None
    """Folder to keep the scores of --teacher in, for this run and others at the same time or later. If not
    given: a folder that is removed at the end of the run."""


def distillation_problems(
    settings: DistillationSettings, *, loss: LossSettings, data: DataSettings
) -> Iterator[str]:
    """Yield a message for each combination of a teacher's settings that cannot work.

    Args:
        settings: Settings of the teacher.
        loss: Settings of the loss.
        data: Settings of the data.
    """
    if settings.teacher is None:
        usual = DistillationSettings()
        for name in ("teacher_lists", "teacher_cache"):
            if getattr(settings, name) != getattr(usual, name):
                yield f"--{name} {getattr(settings, name)}: needs --teacher"
        return
    if settings.teacher == "":
        yield "--teacher: is empty; give a Hub id or a folder"
    if not needs_teacher_scores(loss):
        readers = " or ".join(one.name for one in registered_losses() if one.needs_teacher_scores)
        yield f"--teacher: is for a loss that learns from its scores; give --loss {readers}"
    elif settings.teacher_lists == "in_batch" and not loss_named(str(loss.loss)).takes_lists:
        yield f"--teacher_lists in_batch: --loss {loss.loss} learns from the scores of pairs only"
    given = {
        "--teacher_score_column": data.teacher_score_column,
        "--negative_scores_column": data.negative_scores_column,
    }
    for flag, column in given.items():
        if column is not None:
            yield f"{flag} and --teacher: both give the scores of a teacher; give one of them"
