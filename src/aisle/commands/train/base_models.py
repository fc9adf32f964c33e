"""Load the model that training starts from, or the models of both towers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from aisle.commands.train.settings import ModelSettings, TrainSettings
from aisle.errors import ConfigError
from aisle.models.bi_encoder import check_dimensions_agree
from aisle.models.loading import LoadedModel
from aisle.models.model_source import ModelSource, find_model
from aisle.models.run_file import has_two_towers, read_settings_file, tower_source
from aisle.models.starting_point import load_starting_point
from aisle.text.tokens import Side
from aisle.types.encoder_settings import Overrides

DEFAULT_MAX_LENGTH = 128


def load_base_models(settings: TrainSettings, *, log: Callable[[str], None]) -> LoadedModel:
    """Return the model that training starts from, with that of the query tower if it is trained apart.

    Raises:
        AisleError: A model cannot be loaded, or the models do not fit the settings or each other.
    """
    towers = settings.towers
    separate = towers.two_towers and not towers.tie
    source = _found(settings, settings.model.model_name_or_path, settings.model.model_revision)
    if not separate:
        return _loaded(settings, source, _overrides(settings.model), log=log)
    overrides = _overrides(settings.model)
    product = _loaded(settings, _tower_in(source, "product"), replace(overrides, query_prompt=None), log=log)
    named = towers.query_model_name_or_path
    query_source = source if named is None else _found(settings, named, None)
    query = _loaded(
        settings, _tower_in(query_source, "query"), replace(overrides, product_prompt=None), log=log
    )
    for model in (product, query):
        if model.adapter is not None and settings.lora.use_peft:
            raise ConfigError(
                f"--two_towers and --use_peft: {model.adapter.run.name} has an adapter already, and a run of "
                "two towers has whole models; merge it first with `aisle merge`"
            )
    check_dimensions_agree(query.tower().dim, product.tower().dim)
    if query.settings.normalize != product.settings.normalize:
        raise ConfigError(
            f"--similarity: {query.source.name} and {product.source.name} were trained for different "
            "similarities; give --similarity cosine or dot"
        )
    return replace(product, query=query)


def _found(settings: TrainSettings, name: str, revision: str | None) -> ModelSource:
    """Return the location of a model.

    Raises:
        AisleError: There is no such model, or it is the folder of the run.
    """
    source = find_model(name, revision=revision, token=settings.run.hub_token)
    run_dir = Path(str(settings.run.output_dir))
    if run_dir.resolve() == source.path.resolve():
        raise ConfigError(
            f"--output_dir {run_dir}: is the model that training starts from; give another folder"
        )
    return source


def _tower_in(source: ModelSource, side: Side) -> ModelSource:
    """Return the location of a side's tower in a run of two towers, or of the model itself."""
    return tower_source(source, side) if has_two_towers(read_settings_file(source.path)) else source


def _loaded(
    settings: TrainSettings, source: ModelSource, overrides: Overrides, *, log: Callable[[str], None]
) -> LoadedModel:
    saved = read_settings_file(source.path)
    loaded = load_starting_point(
        source,
        overrides=overrides,
        train_adapter=settings.lora.use_peft,
        token=settings.run.hub_token,
        trust_remote_code=settings.model.trust_remote_code,
    )
    if loaded.note is not None:
        log(loaded.note)
    own = loaded.settings
    if settings.model.max_length is None and saved is None:
        own = replace(own, max_length=min(own.max_length, DEFAULT_MAX_LENGTH))
    if settings.towers.similarity is not None:
        own = replace(own, normalize=settings.towers.similarity == "cosine")
    elif saved is not None:
        own = replace(own, normalize=bool(saved["normalize"]))
    return replace(loaded, settings=own)


def _overrides(model: ModelSettings) -> Overrides:
    return Overrides(
        pooling=model.pooling,
        query_prompt=model.query_prompt,
        product_prompt=model.product_prompt,
        max_length=model.max_length,
    )
