"""Choose the loss that fits the labels, and the method that selects the best evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aisle.commands.train.loss_settings import chosen_loss, unused_parameters
from aisle.commands.train.settings import OptimSettings, TrainSettings
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError
from aisle.losses.registry import loss_named, registered_losses
from aisle.losses.specification import Loss, Reads
from aisle.types.choices import Selection


def resolve_loss(wanted: str | None, train: Pairs, *, teacher: bool = False) -> Loss:
    """Return the loss of a run: --loss, or the default for its pairs.

    Args:
        wanted: --loss.
        train: Training pairs.
        teacher: Whether there is a --teacher, which scores them later.

    Raises:
        ConfigError: The loss needs labels, hard negatives or groups that the data does not have, or it cannot
            learn from the labels.
    """
    loss = default_loss(labelled=train.labelled) if wanted is None else loss_named(wanted)
    if train.texts_of_groups and not loss.takes_groups:
        others = [other.name for other in registered_losses() if other.takes_groups]
        raise ConfigError(
            f"--loss {loss.name}: needs pairs of a query and a product, and the rows of --group_column are "
            f"texts with their groups; use {' or '.join(others)}"
        )
    if loss.needs_groups and not train.texts_of_groups:
        raise ConfigError(
            f"--loss {loss.name}: needs rows of a text with its group, and the rows are pairs; give files "
            "with a column of texts and a column of groups (--group_column), or use another loss"
        )
    if loss.needs_labels and not train.labelled:
        other = default_loss(labelled=False).name
        raise ConfigError(f"--loss {loss.name}: needs labelled pairs; use {other}, or give --label_column")
    if loss.needs_hard_negatives and not train.has_hard_negatives:
        raise ConfigError(
            f"--loss {loss.name}: needs hard negatives, and the training pairs have none; give "
            "--hard_negatives_column, or use another loss"
        )
    if loss.needs_teacher_scores and train.teacher_scores is None and not teacher:
        raise ConfigError(
            f"--loss {loss.name}: needs a teacher's score of each training pair, and there is none; give a "
            "column teacher_score, name another with --teacher_score_column, or give a --teacher"
        )
    if train.relevance is not None and not loss.needs_teacher_scores:
        refuse_labels(loss, train.relevance)
    return loss


def default_loss(*, labelled: bool, reads: Reads = "embeddings") -> Loss:
    """Return the default loss of encoders or cross-encoders for pairs with or without labels."""
    kind = "labelled" if labelled else "unlabelled"
    return next(loss for loss in registered_losses(reads) if loss.default_for == kind)


def refuse_labels(loss: Loss, relevance: np.ndarray) -> None:
    """Refuse a loss that cannot learn from the relevance of the training pairs.

    Raises:
        ConfigError: It cannot.
    """
    reason = _reason_to_refuse(loss, relevance)
    if reason is not None:
        raise ConfigError(
            f"--loss {loss.name}: {reason}; look at --label_column, and at the relevance that --label_map "
            "gives to each label"
        )


def _reason_to_refuse(loss: Loss, relevance: np.ndarray) -> str | None:
    """Return why a loss cannot learn from the labels of the training pairs, or None if it can."""
    if not relevance.max():
        return "needs positives, and every training pair's relevance is 0"
    if loss.needs_positives and not (relevance > 0.5).any():
        return (
            f"needs positives, and no training pair's relevance is above 0.5 (highest: {relevance.max():g})"
        )
    return None if loss.refuse is None else loss.refuse(relevance)


def resolve_selection(wanted: Selection | None, validation: Pairs) -> Selection:
    """Return the method that selects the best evaluation: --selection, or the default for the pairs.

    Raises:
        ConfigError: The method needs labels, or graded labels, and there are none.
    """
    if wanted == "joint_pool" and validation.texts_of_groups:
        raise ConfigError(
            "--selection joint_pool: needs pairs of a query and a product, and the rows of --group_column "
            "are texts with their groups; use retrieval, in which each text ranks the others"
        )
    if wanted in ("roc_auc", "spearman") and not validation.labelled:
        raise ConfigError(
            f"--selection {wanted}: needs labelled pairs; use retrieval, or give --label_column"
        )
    relevance = validation.relevance
    if wanted == "spearman" and relevance is not None and len(np.unique(relevance)) < 3:
        raise ConfigError(
            "--selection spearman: needs graded pairs, and the relevance of the validation pairs has "
            f"{len(np.unique(relevance))} distinct values; use roc_auc"
        )
    return wanted or ("roc_auc" if validation.labelled else "retrieval")


def loss_hint(loss: Loss, relevance: np.ndarray | None) -> str | None:
    """Return advice if another loss is likely to suit the labels better, or None."""
    return None if relevance is None or loss.hint is None else loss.hint(relevance)


def unused_settings(settings: TrainSettings, train: Pairs) -> list[str]:
    """Return a line for each setting and each column that the loss or the schedule does not use.

    Args:
        settings: Settings with the loss resolved.
        train: Training pairs.
    """
    loss, _ = chosen_loss(settings.objective)
    optim, usual = settings.optim, OptimSettings()
    unused = unused_parameters(settings.objective)
    unused += _unused_scores(settings, loss, train)
    for name in ("group", "subgroup"):
        if (
            getattr(settings.data, f"{name}_column") is not None
            and not loss.needs_positives | loss.takes_groups
        ):
            unused.append(f"--{name}_column is not used: {loss.name} takes no negatives from the batch")
    if settings.run.batch_metrics and not loss.contrasts:
        unused.append(f"--batch_metrics is not used: {loss.name} does not contrast the texts of a batch")
    if optim.texts_per_group != usual.texts_per_group and not train.texts_of_groups:
        unused.append("--texts_per_group is not used: the rows are pairs, not texts with their groups")
    if optim.group_by_query and train.texts_of_groups:
        unused.append("--group_by_query is not used: the rows are texts, and a batch keeps groups together")
    reads_hard_negatives = loss.contrasts or loss.reads == "scores"
    if not reads_hard_negatives and "hard_negatives" in train.table.column_names:
        readers = " or ".join(other.name for other in registered_losses() if other.contrasts)
        unused.append(f"the hard negatives are not used: {loss.name} does not read them; {readers} does")
    if optim.torch_compile_backend != usual.torch_compile_backend and not optim.torch_compile:
        unused.append("--torch_compile_backend is not used: it needs --torch_compile")
    warmup = "--num_warmup_steps" if optim.warmup_share is None else "--warmup_share"
    if optim.lr_scheduler_type == "constant" and (optim.num_warmup_steps or optim.warmup_share):
        unused.append(f"{warmup} is not used: it needs --lr_scheduler_type constant_with_warmup")
    return unused


def _unused_scores(settings: TrainSettings, loss: Loss, train: Pairs) -> Iterator[str]:
    """Yield a line for each column of teacher scores, or of negatives without scores, that is not used."""
    data = settings.data
    if data.teacher_score_column is not None and not loss.needs_teacher_scores:
        yield f"--teacher_score_column is not used: {loss.name} does not learn from teacher scores"
    if data.negative_scores_column is not None and not loss.takes_lists:
        yield f"--negative_scores_column is not used: {loss.name} does not learn from scores of negatives"
    unscored = settings.distillation.teacher is None and train.negative_teacher_scores is None
    if loss.takes_lists and train.has_hard_negatives and unscored:
        yield (
            "the hard negatives are not used: there is no column of the teacher's scores of them "
            "(--negative_scores_column)"
        )
