"""Write a run of two towers: for queries the encoder with a query adapter, for products the encoder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from aisle.bundle.bundle_file import is_bundle
from aisle.commands.adapt.settings import AdaptSettings
from aisle.commands.train.run_dir import check_model_dir
from aisle.commands.write_model import write_model
from aisle.errors import ConfigError
from aisle.index.manifest import AdapterRecord, Manifest
from aisle.index.query_adapter import QueryAdapter
from aisle.models.loading import ADAPTER_FILE, load_tower
from aisle.models.merging import base_named
from aisle.models.model_source import find_model
from aisle.models.run_file import has_two_towers, read_settings_file, tower_source
from aisle.models.two_towers import TowerToSave, TwoTowers, UnchangedModel
from aisle.models.whole_model import WholeModel
from aisle.search.encoders import recorded_overrides
from aisle.text.tokens import Side
from aisle.training.adapter_layers import adapter_layers

ADAPTED_FROM = "query_adapter"
"""Key in `aisle.json` of the record of the adapter."""


def check_output_dir(settings: AdaptSettings, manifest: Manifest) -> None:
    """Refuse an --output_dir that cannot be written, before anything is trained.

    Raises:
        ConfigError: The folder contains a run, the encoder is a bundle, or the index has cut embeddings.
    """
    if settings.output_dir is None:
        return
    folder, named = Path(settings.output_dir), _model(settings, manifest)
    if is_bundle(named):
        raise ConfigError(
            f"--output_dir: {named} is a bundle, whose graph is fixed; give its run with --model"
        )
    if manifest.encoder.get("dimensions") is not None:
        raise ConfigError(
            "--output_dir: the index keeps only the first components of embeddings (--dimensions), which a "
            "run of two towers cannot; leave --output_dir out"
        )
    if folder.expanduser().resolve() == Path(named).expanduser().resolve():
        raise ConfigError(f"--output_dir {folder}: is the folder of the index's encoder; give another folder")
    check_model_dir(folder, overwrite=settings.overwrite_output_dir)


def write_adapted_run(
    settings: AdaptSettings, manifest: Manifest, adapter: QueryAdapter, record: AdapterRecord
) -> str:
    """Write the run and return the fingerprint of its product tower.

    That is the index's, unless the encoder is a LoRA run: it is merged, and has another fingerprint then.

    Raises:
        ModelError: The encoder cannot be loaded, or the run cannot be written.
    """
    towers = TwoTowers(
        query=_tower(settings, manifest, "query", adapter),
        product=_tower(settings, manifest, "product", None),
        lineage={ADAPTED_FROM: asdict(record)},
    )
    return write_model(towers, Path(str(settings.output_dir)), settings={}, metrics={})


def _tower(
    settings: AdaptSettings, manifest: Manifest, side: Side, adapter: QueryAdapter | None
) -> TowerToSave:
    """Return the tower of a side, as it is saved: unchanged files, or a whole model with merged weights."""
    revision = manifest.encoder.get("revision") if settings.model is None else None
    source = find_model(_model(settings, manifest), revision=revision)
    if has_two_towers(read_settings_file(source.path)):
        source = tower_source(source, side)
    base_model = settings.base_model or manifest.encoder.get("base_model")
    loaded = load_tower(
        source,
        recorded_overrides(manifest.encoder),
        base_model=base_model,
        trust_remote_code=settings.trust_remote_code,
    ).model
    has_lora = (source.path / ADAPTER_FILE).is_file()
    if adapter is None and not has_lora:
        return UnchangedModel(loaded)
    return WholeModel(
        tower=loaded.tower([] if adapter is None else adapter_layers(adapter)),
        tokenizer=loaded.tokenizer,
        settings=loaded.settings,
        base=base_named(source, read_settings_file(source.path), base_model, None, adapter=has_lora),
    )


def _model(settings: AdaptSettings, manifest: Manifest) -> str:
    return settings.model or str(manifest.encoder["model"])
