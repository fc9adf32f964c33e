"""Resolve the settings that depend on model and data: loss, learning rate, prompts, maximum length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar

from aisle.commands.train.auto_choice import AutoChoice, apply
from aisle.commands.train.base_models import load_base_models
from aisle.commands.train.lora_choice import resolve_lora
from aisle.commands.train.loss_choice import loss_hint, resolve_loss, resolve_selection, unused_settings
from aisle.commands.train.loss_settings import LossSettings
from aisle.commands.train.read_data import TrainingData
from aisle.commands.train.settings import TrainSettings, problems_of
from aisle.commands.train.tower_settings import DOT_TEMPERATURE
from aisle.data.dpr_json import SEPARATOR
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError
from aisle.losses.parameters import Temperature
from aisle.models.loading import LoadedModel
from aisle.text.tokens import SIDES, Side

T = TypeVar("T")
DIRECTIONS = "in_batch_directions"
ONE_SIDED = ("query_to_product",)
LORA_LEARNING_RATE = 5e-4
FULL_LEARNING_RATE = 2e-5
HEAD_LEARNING_RATE = 1e-3


def resolve_settings(
    settings: TrainSettings,
    data: TrainingData,
    *,
    auto: AutoChoice | None = None,
    log: Callable[[str], None],
) -> tuple[TrainSettings, LoadedModel]:
    """Return the complete settings and the base model.

    Args:
        settings: Settings as given.
        data: Training and validation pairs.
        auto: Choice of --loss auto; None for another --loss.
        log: Logs what was resolved.

    Raises:
        AisleError: The model cannot be loaded, or the settings do not fit the model or the data.
    """
    base = load_base_models(settings, log=log)
    if auto is not None:
        settings = apply(auto, settings, base, log=log)
    model, optim = settings.model, settings.optim
    read_by_queries = base.of("query").settings
    if data.joined_titles:
        check_separator(base.tokenizer, base.source.name)
    similarity: Literal["cosine", "dot"] = "cosine" if base.settings.normalize else "dot"
    loss = resolve_loss(
        settings.objective.loss, data.train, teacher=settings.distillation.teacher is not None
    )
    resolved = replace(
        settings,
        model=replace(
            model,
            pooling=_if_equal(base.settings.pooling, read_by_queries.pooling),
            query_prompt=read_by_queries.query_prompt,
            product_prompt=base.settings.product_prompt,
            max_length=_if_equal(base.settings.max_length, read_by_queries.max_length),
        ),
        lora=resolve_lora(settings.lora, base.adapter, frozen=settings.head.freeze_encoder, log=log),
        towers=replace(settings.towers, similarity=similarity),
        objective=_objective(
            _at_scale(settings.objective, similarity, log=log), loss.name, data.train, log=log
        ),
        optim=replace(
            optim,
            learning_rate=optim.learning_rate or usual_learning_rate(settings),
            group_by_query=optim.group_by_query or loss.keeps_queries_together,
        ),
        run=replace(settings.run, selection=resolve_selection(settings.run.selection, data.validation)),
    )
    if resolved.optim.group_by_query and not optim.group_by_query:
        log(f"--group_by_query: turned on, as the {loss.name} loss ranks a query's products within a batch")
    problems = problems_of(resolved)
    if problems:
        raise ConfigError("\n".join(problems))
    unused = unused_settings(resolved, data.train)
    for note in (loss_hint(loss, data.train.relevance), *unused):
        if note is not None:
            log(note)
    log(f"{_described(base)}; loss: {loss.name}")
    return resolved, base


def usual_learning_rate(settings: TrainSettings) -> float:
    """Return the learning rate of a run without --learning_rate."""
    if settings.lora.use_peft:
        return LORA_LEARNING_RATE
    return HEAD_LEARNING_RATE if settings.head.freeze_encoder else FULL_LEARNING_RATE


def check_separator(tokenizer: Any, model: str) -> None:
    """Refuse titles that are joined with BERT's separator for a model that has another.

    Raises:
        ConfigError: The separator is not a special token of the model.
    """
    if SEPARATOR in tokenizer.all_special_tokens:
        return
    between = f" {tokenizer.sep_token} " if tokenizer.sep_token else " "
    raise ConfigError(
        f"--train_format dpr: title and text are joined with {SEPARATOR}, which is no special token of "
        f"{model}; give --text_template '{{title}}{between}{{text}}', and build the index with the same "
        "template"
    )


def _objective(
    objective: LossSettings, loss: str, train: Pairs, *, log: Callable[[str], None]
) -> LossSettings:
    """Return the settings with the loss, and with the directions that fit rows of texts with their groups."""
    resolved = replace(objective, loss=loss)
    if not train.texts_of_groups or loss != "in_batch" or getattr(resolved, DIRECTIONS) == ONE_SIDED:
        return resolved
    log(
        f"--{DIRECTIONS}: query_to_product, because each text of a group is a query and a product, and "
        "the other directions would count every negative again"
    )
    changed: Any = {DIRECTIONS: ONE_SIDED}
    return replace(resolved, **changed)


def _if_equal(value: T, other: T) -> T | None:
    """Return a setting that both towers share; None if each has its own."""
    return value if value == other else None


def _at_scale(
    objective: LossSettings, similarity: Literal["cosine", "dot"], *, log: Callable[[str], None]
) -> LossSettings:
    """Return the settings of the loss; inner products have DPR's temperature if none is given."""
    usual = Temperature().temperature
    if similarity == "cosine" or getattr(objective, "temperature", None) != usual:
        return objective
    log(f"--temperature: {DOT_TEMPERATURE:g} with --similarity dot, as in DPR; {usual:g} is for cosines")
    changed: Any = {"temperature": DOT_TEMPERATURE}
    return replace(objective, **changed)


def _described(base: LoadedModel) -> str:
    """Describe the model that training starts from, or the model of each tower."""
    if base.query is None:
        settings = base.settings
        return (
            f"model: {base.source.name}, {settings.pooling} pooling, at most {settings.max_length} tokens, "
            f"prompts {settings.query_prompt!r} and {settings.product_prompt!r}"
        )
    prompts: dict[Side, str] = {
        "query": base.query.settings.query_prompt,
        "product": base.settings.product_prompt,
    }
    return "two towers: " + ", ".join(
        f"{base.of(side).source.name} for {name} ({base.of(side).settings.pooling} pooling, at most "
        f"{base.of(side).settings.max_length} tokens, prompt {prompts[side]!r})"
        for side, name in zip(SIDES, ("queries", "products"), strict=True)
    )
