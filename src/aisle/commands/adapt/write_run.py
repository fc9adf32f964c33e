"""Write a run of two towers: for queries the encoder with a query adapter, for products the encoder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from aisle.bundle.bundle_file import is_bundle
from aisle.commands.adapt.settings import AdaptSettings
from aisle.commands.adapt.towers import model_name, tower_of_index
from aisle.commands.train.run_dir import check_model_dir
from aisle.commands.write_model import write_model
from aisle.errors import ConfigError
from aisle.index.manifest import AdapterRecord, Manifest
from aisle.models.two_towers import TwoTowers
from aisle.models.whole_model import WholeModel

ADAPTED_FROM = "query_adapter"
"""Key in `aisle.json` of the record of the adapter."""


def check_output_dir(settings: AdaptSettings, manifest: Manifest) -> None:
    """Refuse an --output_dir that cannot be written, before anything is trained.

    Raises:
        ConfigError: The folder contains a run, the encoder is a bundle, or the index has cut embeddings.
    """
    if settings.output_dir is None:
        return
    folder, named = Path(settings.output_dir), model_name(settings, manifest)
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
    settings: AdaptSettings, manifest: Manifest, query: WholeModel, record: AdapterRecord
) -> str:
    """Write the run and return the fingerprint of its product tower.

    That is the index's, unless the encoder is a LoRA run: it is merged, and has another fingerprint then.

    Args:
        settings: Settings of the command.
        manifest: Manifest of the index.
        query: Query tower with the adapter.
        record: Record of the adapter.

    Raises:
        ModelError: The encoder cannot be loaded, or the run cannot be written.
    """
    towers = TwoTowers(
        query=query,
        product=tower_of_index(settings, manifest, "product").unchanged(),
        lineage={ADAPTED_FROM: asdict(record)},
    )
    return write_model(towers, Path(str(settings.output_dir)), settings={}, metrics={})
