"""The values that a sweep tries for each setting, where it starts, and the settings of a trial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aisle.commands.sweep.settings import SweepSettings
from aisle.commands.train.auto_choice import choose
from aisle.commands.train.distillation_settings import DistillationSettings
from aisle.commands.train.loss_choice import resolve_loss
from aisle.commands.train.loss_settings import needs_teacher_scores
from aisle.commands.train.resolve_settings import usual_learning_rate
from aisle.commands.train.settings import TrainSettings
from aisle.config.load import read_yaml
from aisle.config.recipes import find_config
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError
from aisle.losses.parameters import Temperature
from aisle.losses.registry import loss_named
from aisle.sweep.search_space import Choice, Range, SearchSpace, Value

USUAL_LOSSES = ("cosent", "in_batch", "cosine_target", "listwise", "multi_similarity", "circle")
"""Losses that are tried if the labels allow them and --search_losses is not given."""
STARTING_RECIPES = ("walmart_amazon", "wdc", "quickstart", "faq", "groups")
"""Recipes whose settings won on real data (docs/results.md)."""
ATTENTION, ALL_LAYERS = "attention", "all"
RANKS = (4, 8, 16, 32, 64)
BATCHES = (16, 32, 64, 128, 256)
FEWEST_STEPS = 8
"""Steps of an epoch that the largest batch leaves."""
BERT_DROPOUT = 0.1
ALPHA_PER_RANK = 2
"""If --lora_alpha is not given; otherwise alpha stays in proportion to the rank."""
RATES = {"lora": (1e-4, 3e-3), "head": (1e-4, 1e-2), "full": (5e-6, 2e-4)}


def losses_to_try(settings: SweepSettings, train: Pairs) -> tuple[str, ...]:
    """Return the losses of the search that can learn from the pairs.

    Raises:
        ConfigError: A loss of --search_losses cannot, or no usual loss can.
    """
    wanted, taught = settings.searching.search_losses, settings.distillation.teacher is not None
    if wanted is not None:
        for name in wanted:
            resolve_loss(name, train, teacher=taught)
        return wanted
    found = []
    for name in USUAL_LOSSES:
        try:
            loss = resolve_loss(name, train, teacher=taught)
        except ConfigError:
            continue
        # Without labels there are positives only, and the losses of groups add nothing to in_batch.
        if (train.labelled and not loss.takes_groups) or name == "in_batch" or train.texts_of_groups:
            found.append(name)
    return tuple(found) or (resolve_loss(None, train).name,)


def search_space(settings: SweepSettings, train: Pairs, *, all_layers: bool) -> SearchSpace:
    """Return the values to try: the usual ones, and those of the settings as given.

    Args:
        settings: Settings of the sweep.
        train: Training pairs.
        all_layers: Whether the adapter may be on all linear layers or on the attention projections.
    """
    lora, searching = settings.lora, settings.searching
    kind = "lora" if lora.use_peft else "head" if settings.head.freeze_encoder else "full"
    low, high = RATES[kind]
    largest = max(BATCHES[0], len(train) // FEWEST_STEPS)
    space: dict[str, Choice | Range] = {
        "loss": Choice(losses_to_try(settings, train)),
        "learning_rate": Range(low, high, log=True),
        "lora_rank": Choice(RANKS),
        "lora_target_modules": Choice((ATTENTION, ALL_LAYERS)),
        "temperature": Range(0.01, 0.2, log=True),
        "dropout": Range(0.0, 0.2),
        "per_device_train_batch_size": Choice(tuple(size for size in BATCHES if size <= largest)),
        "num_train_epochs": Range(1, searching.most_epochs, whole=True),
    }
    left_out = set()
    if not lora.use_peft:
        left_out |= {"lora_rank", "lora_target_modules"}
    if not all_layers:
        left_out.add("lora_target_modules")
    if settings.head.freeze_encoder:
        left_out.add("dropout")
    searched: dict[str, Choice | Range] = {
        name: values for name, values in space.items() if name in searching.search and name not in left_out
    }
    return SearchSpace(searched).with_point(_as_given(settings, train))


def starting_points(settings: SweepSettings, train: Pairs) -> list[tuple[str, dict[str, Value]]]:
    """Return the settings as given, those of --loss auto, and those of recipes for such pairs, by name."""
    auto, own = choose(train), _as_given(settings, train)
    points: list[tuple[str, dict[str, Value]]] = [("as given", own)]
    if not settings.lora.use_peft:
        return points
    layers = ALL_LAYERS if auto.feed_forward else ATTENTION
    chosen: dict[str, Value] = {
        "loss": auto.loss,
        "learning_rate": auto.learning_rate,
        "lora_rank": auto.lora_rank,
    }
    points.append(("--loss auto", {**own, **chosen, "lora_target_modules": layers}))
    for name in STARTING_RECIPES:
        recipe = read_yaml(find_config(name))
        if ("group_column" in recipe) == train.texts_of_groups and (
            "label_column" in recipe
        ) == train.labelled:
            points.append((f"recipe {name}", _of_recipe(recipe, own)))
    return points


def _as_given(settings: SweepSettings, train: Pairs) -> dict[str, Value]:
    """Return the searched settings as given, with what `train` uses for those that are not."""
    taught, wanted = settings.distillation.teacher is not None, settings.searching.search_losses
    loss = resolve_loss(settings.objective.loss, train, teacher=taught).name
    if settings.objective.loss is None and wanted is not None and loss not in wanted:
        loss = wanted[0]
    return {
        "loss": loss,
        "learning_rate": settings.optim.learning_rate or usual_learning_rate(settings),
        "lora_rank": settings.lora.rank,
        "lora_target_modules": ATTENTION,
        "temperature": getattr(settings.objective, "temperature", Temperature().temperature),
        "dropout": BERT_DROPOUT if settings.model.dropout is None else settings.model.dropout,
        "per_device_train_batch_size": settings.optim.per_device_train_batch_size,
        "num_train_epochs": min(settings.optim.num_train_epochs, settings.searching.most_epochs),
    }


def _of_recipe(recipe: Mapping[str, Any], own: Mapping[str, Value]) -> dict[str, Value]:
    usual = {"dropout": BERT_DROPOUT, "temperature": Temperature().temperature}
    point = {name: recipe.get(name, usual.get(name, value)) for name, value in own.items()}
    return {**point, "lora_target_modules": ALL_LAYERS if recipe.get("lora_target_modules") else ATTENTION}


def settings_of_trial(
    settings: TrainSettings, values: Mapping[str, Value], *, layers: tuple[str, ...]
) -> TrainSettings:
    """Return the settings with the values of a trial.

    Args:
        settings: Settings of the sweep.
        values: Values of the searched settings.
        layers: Names of all linear layers.
    """
    given: dict[str, Any] = dict(values)
    lora, objective = settings.lora, settings.objective
    if "lora_rank" in given:
        rank = given["lora_rank"]
        given_alpha = lora.lora_alpha is not None
        alpha = max(1, round(rank * lora.alpha / lora.rank)) if given_alpha else ALPHA_PER_RANK * rank
        lora = replace(lora, lora_rank=rank, lora_alpha=alpha)
    if "lora_target_modules" in given:
        on_all = given["lora_target_modules"] == ALL_LAYERS
        lora = replace(lora, lora_target_modules=layers if on_all else None)
    changed: dict[str, Any] = {"loss": given.get("loss", objective.loss)}
    name = changed["loss"]
    if "temperature" in given and name is not None and issubclass(loss_named(name).parameters, Temperature):
        changed["temperature"] = given["temperature"]
    tried = replace(objective, **changed)
    distillation = settings.distillation if needs_teacher_scores(tried) else DistillationSettings()
    optim = {name: given[name] for name in given if hasattr(settings.optim, name)}
    model = {"dropout": round(given["dropout"], 3)} if "dropout" in given else {}
    return replace(
        settings,
        lora=lora,
        objective=tried,
        distillation=distillation,
        optim=replace(settings.optim, **optim),
        model=replace(settings.model, **model),
    )
