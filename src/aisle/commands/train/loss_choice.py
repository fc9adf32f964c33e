"""Which loss suits which labels, and what the best evaluation is chosen by."""

from __future__ import annotations

from typing import Literal

from aisle.commands.train.settings import OptimSettings
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError

Loss = Literal["cosine_target", "cosent", "in_batch", "listwise"]
Selection = Literal["roc_auc", "retrieval", "joint_pool"]
FEW_POSITIVES = 0.3
"""Below this share of positives cosine_target saturates early: on walmart_amazon (.09) and wdc (.26) cosent
is far better by validation (docs/results.md)."""
MANY_POSITIVES = 0.9
"""Above this share there is hardly a judged negative to learn from."""


def resolve_loss(wanted: Loss | None, train: Pairs) -> Loss:
    """Return the loss of a run: the one asked for, or the default for its pairs.

    Raises:
        ConfigError: the loss needs labels and there are none, or the labels give it nothing to learn from.
    """
    loss = wanted or ("cosine_target" if train.labelled else "in_batch")
    if loss != "in_batch" and not train.labelled:
        raise ConfigError(f"--loss {loss}: needs labelled pairs; use in_batch, or give --label_column")
    missing = _missing(loss, train)
    if missing is not None:
        raise ConfigError(
            f"--loss {loss}: {missing}; look at --label_column, and at what --label_map says labels are worth"
        )
    return loss


def _missing(loss: Loss, train: Pairs) -> str | None:
    """Return what a loss needs of the labels and does not find, or None."""
    relevance = train.relevance
    if relevance is None:
        return None
    if not relevance.max():
        return "needs positives, and every training pair's relevance is 0"
    if loss == "in_batch" and not train.positive_share():
        return (
            f"needs positives, and no training pair's relevance is above 0.5 (highest: {relevance.max():g})"
        )
    if loss in ("cosent", "listwise") and relevance.min() == relevance.max():
        return f"ranks pairs by their relevance, and that of every training pair is {relevance.max():g}"
    return None


def resolve_selection(wanted: Selection | None, validation: Pairs) -> Selection:
    """Return what the best evaluation is chosen by: what is asked for, or the default for the pairs.

    Raises:
        ConfigError: it needs labels, and there are none.
    """
    if wanted == "roc_auc" and not validation.labelled:
        raise ConfigError("--selection roc_auc: needs labelled pairs; use retrieval, or give --label_column")
    return wanted or ("roc_auc" if validation.labelled else "retrieval")


def loss_hint(loss: Loss, train: Pairs) -> str | None:
    """Return advice where another loss is likely to suit the labels better, or None."""
    relevance = train.relevance
    if relevance is None or loss != "cosine_target":
        return None
    if relevance.min() == relevance.max():
        return (
            f"warning: the relevance of every training pair is {relevance.max():g}, so that cosine_target "
            "draws all texts together and nothing apart; --loss in_batch takes negatives from the batch"
        )
    share = train.positive_share()
    if share < FEW_POSITIVES:
        return (
            f"hint: {share:.0%} of the training pairs are positives; --loss cosent ranks them above the "
            "others and usually suits such data far better than cosine_target"
        )
    if share > MANY_POSITIVES:
        return (
            f"hint: {share:.0%} of the training pairs are positives, so there are few judged negatives; "
            "--loss in_batch takes negatives from the batch"
        )
    return None


def unused_settings(optim: OptimSettings, train: Pairs) -> list[str]:
    """Return a line for each setting, and each column, that the run's loss or schedule does not read.

    Args:
        optim: with the loss resolved.
        train: the training pairs.
    """
    loss, usual = optim.loss, OptimSettings()
    found = []
    if loss == "cosine_target" and optim.temperature != usual.temperature:
        found.append("--temperature is not used: the cosine_target loss has none")
    if loss != "in_batch" and set(optim.in_batch_directions) != set(usual.in_batch_directions):
        found.append(f"--in_batch_directions is not used: the {loss} loss has none")
    if loss != "in_batch" and "hard_negatives" in train.table.column_names:
        found.append(f"the hard negatives are not used: of the losses, in_batch alone reads them, not {loss}")
    if optim.torch_compile_backend != usual.torch_compile_backend and not optim.torch_compile:
        found.append("--torch_compile_backend is not used: for it give --torch_compile")
    if optim.lr_scheduler_type == "constant" and optim.num_warmup_steps:
        found.append("--num_warmup_steps is not used: for it give --lr_scheduler_type constant_with_warmup")
    return found
