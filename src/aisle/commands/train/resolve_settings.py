"""Resolve the settings that depend on model and data: loss, learning rate, prompts, maximum length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.commands.train.lora_choice import resolve_lora
from aisle.commands.train.loss_choice import loss_hint, resolve_loss, resolve_selection, unused_settings
from aisle.commands.train.loss_settings import LossSettings
from aisle.commands.train.read_data import TrainingData
from aisle.commands.train.settings import ModelSettings, TrainSettings, problems_of
from aisle.data.dpr_json import SEPARATOR
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError
from aisle.models.loading import LoadedModel
from aisle.models.model_source import find_model
from aisle.models.run_file import read_settings_file
from aisle.models.starting_point import load_starting_point
from aisle.types.encoder_settings import Overrides

DEFAULT_MAX_LENGTH = 128
DIRECTIONS = "in_batch_directions"
ONE_SIDED = ("query_to_product",)
LORA_LEARNING_RATE = 5e-4
FULL_LEARNING_RATE = 2e-5
HEAD_LEARNING_RATE = 1e-3


def resolve_settings(
    settings: TrainSettings, data: TrainingData, *, log: Callable[[str], None]
) -> tuple[TrainSettings, LoadedModel]:
    """Return the complete settings and the base model.

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
    base = load_starting_point(
        source,
        overrides=_overrides(model),
        train_adapter=settings.lora.use_peft,
        token=settings.run.hub_token,
        trust_remote_code=model.trust_remote_code,
    )
    if base.note is not None:
        log(base.note)
    if data.joined_titles:
        check_separator(base.tokenizer, source.name)
    if model.max_length is None and read_settings_file(source.path) is None:
        shorter = min(base.settings.max_length, DEFAULT_MAX_LENGTH)
        base = replace(base, settings=replace(base.settings, max_length=shorter))
    loss = resolve_loss(settings.objective.loss, data.train)
    resolved = replace(
        settings,
        model=replace(
            model,
            pooling=base.settings.pooling,
            query_prompt=base.settings.query_prompt,
            product_prompt=base.settings.product_prompt,
            max_length=base.settings.max_length,
        ),
        lora=resolve_lora(settings.lora, base.adapter, frozen=settings.head.freeze_encoder, log=log),
        objective=_objective(settings.objective, loss.name, data.train, log=log),
        optim=replace(
            optim,
            learning_rate=optim.learning_rate or _usual_learning_rate(settings),
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
    for note in (loss_hint(loss, data.train), *unused):
        if note is not None:
            log(note)
    log(
        f"model: {source.name}, {base.settings.pooling} pooling, at most {base.settings.max_length} tokens, "
        f"prompts {base.settings.query_prompt!r} and {base.settings.product_prompt!r}; loss: {loss.name}"
    )
    return resolved, base


def _usual_learning_rate(settings: TrainSettings) -> float:
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


def _overrides(model: ModelSettings) -> Overrides:
    return Overrides(
        pooling=model.pooling,
        query_prompt=model.query_prompt,
        product_prompt=model.product_prompt,
        max_length=model.max_length,
    )
