"""Resolve the settings of a reranker that depend on model and data: loss, learning rate, maximum length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.commands.train.loss_choice import default_loss, loss_hint, refuse_labels, unused_settings
from aisle.commands.train.read_data import TrainingData
from aisle.commands.train.reranker_settings import RerankerSettings, reranker_problems
from aisle.commands.train.resolve_settings import check_separator
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError
from aisle.losses.binary import PositiveWeight
from aisle.losses.registry import loss_named
from aisle.losses.specification import Loss
from aisle.models.cross_encoder_loading import LoadedCrossEncoder, load_cross_encoder
from aisle.models.model_source import find_model
from aisle.models.run_file import read_reranker_file
from aisle.training.tokenized_joined import joined_relevance

DEFAULT_MAX_LENGTH = 256
LORA_LEARNING_RATE = 5e-4
FULL_LEARNING_RATE = 2e-5


def resolve_reranker_settings(
    settings: RerankerSettings, data: TrainingData, *, log: Callable[[str], None]
) -> tuple[RerankerSettings, LoadedCrossEncoder]:
    """Return the complete settings and the model that training starts from.

    Raises:
        AisleError: The model cannot be loaded, or the settings do not fit the model or the data.
    """
    model, optim = settings.model, settings.optim
    source = find_model(model.model_name_or_path, revision=model.model_revision, token=settings.run.hub_token)
    run_dir = Path(str(settings.run.output_dir))
    if run_dir.resolve() == source.path.resolve():
        raise ConfigError(
            f"--output_dir {run_dir}: is the model that training starts from; give another folder"
        )
    loss = _resolve_loss(settings.objective.loss, data.train)
    _check_validation(settings, data.validation)
    base = load_cross_encoder(
        source,
        max_length=model.max_length,
        new_head_seed=optim.seed,
        trust_remote_code=model.trust_remote_code,
    )
    if base.note is not None:
        log(base.note)
    if data.joined_titles:
        check_separator(base.tokenizer, source.name)
    if model.max_length is None and read_reranker_file(source.path) is None:
        shorter = min(base.settings.max_length, DEFAULT_MAX_LENGTH)
        base = replace(base, settings=replace(base.settings, max_length=shorter))
    usual = LORA_LEARNING_RATE if settings.lora.use_peft else FULL_LEARNING_RATE
    resolved = replace(
        settings,
        model=replace(model, max_length=base.settings.max_length),
        lora=settings.lora.complete(),
        objective=replace(
            settings.objective, loss=loss.name, **_positive_weight(settings, loss, data.train, log=log)
        ),
        optim=replace(
            optim,
            learning_rate=optim.learning_rate or usual,
            group_by_query=optim.group_by_query or loss.keeps_queries_together,
        ),
    )
    if resolved.optim.group_by_query and not optim.group_by_query:
        log(f"--group_by_query: turned on, as the {loss.name} loss ranks a query's products within a batch")
    problems = reranker_problems(resolved)
    if problems:
        raise ConfigError("\n".join(problems))
    for note in (loss_hint(loss, joined_relevance(data.train)), *unused_settings(resolved, data.train)):
        if note is not None:
            log(note)
    if data.train.has_hard_negatives:
        log("the hard negatives are read as pairs of relevance 0")
    log(f"model: {source.name}, pairs of at most {base.settings.max_length} tokens; loss: {loss.name}")
    return resolved, base


def _resolve_loss(wanted: str | None, train: Pairs) -> Loss:
    """Return the loss of a run: --loss, or the default.

    Raises:
        ConfigError: The pairs have neither labels nor hard negatives, or the loss cannot learn from them.
    """
    loss = default_loss(labelled=True, reads="scores") if wanted is None else loss_named(wanted, "scores")
    if train.texts_of_groups:
        raise ConfigError(
            f"--loss {loss.name}: needs pairs of a query and a product, and the rows of --group_column are "
            "texts with their groups; `aisle train` learns from those"
        )
    relevance = joined_relevance(train)
    if not len(relevance):
        raise ConfigError(
            f"--loss {loss.name}: a reranker learns from judged pairs, and these have neither labels nor "
            "hard negatives; give --label_column or --hard_negatives_column"
        )
    refuse_labels(loss, relevance)
    return loss


def _check_validation(settings: RerankerSettings, validation: Pairs) -> None:
    """Check that evaluations have something to measure: judged pairs, or lists of an index.

    Raises:
        ConfigError: They have neither.
    """
    if settings.served.index_dir is None and not len(joined_relevance(validation)):
        raise ConfigError(
            "the validation pairs have neither labels nor hard negatives, so ROC-AUC cannot choose the best "
            "evaluation; give pairs with hard negatives as --validation_file, or --index_dir"
        )


def _positive_weight(
    settings: RerankerSettings, loss: Loss, train: Pairs, *, log: Callable[[str], None]
) -> dict[str, Any]:
    """Return the weight of positives as a number, if it is to follow from the training pairs."""
    if not issubclass(loss.parameters, PositiveWeight):
        return {}
    objective: Any = settings.objective
    weight = PositiveWeight(objective.positive_weight)
    found = weight.resolved(joined_relevance(train))
    if weight.positive_weight == "auto":
        log(f"--positive_weight auto: {found:.4g}, irrelevant over relevant training pairs")
    return {"positive_weight": found}
