"""The towers of an index's encoder as models that can be trained and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aisle.bundle.bundle_file import is_bundle
from aisle.commands.adapt.settings import AdaptSettings
from aisle.errors import ConfigError
from aisle.index.manifest import Manifest
from aisle.models.heads import Head
from aisle.models.loading import ADAPTER_FILE, LoadedModel, load_tower
from aisle.models.merging import base_named
from aisle.models.model_source import ModelSource, find_model
from aisle.models.run_file import has_two_towers, read_settings_file, tower_source
from aisle.models.two_towers import TowerToSave, UnchangedModel
from aisle.models.whole_model import WholeModel
from aisle.search.encoders import recorded_overrides
from aisle.text.tokens import Side


@dataclass(frozen=True)
class IndexTower:
    """A tower of an index's encoder.

    Attributes:
        loaded: The tower's model, with a LoRA adapter merged.
        source: Location of its files.
        base_model: Base model of its LoRA adapter, if the user or the index names it.
    """

    loaded: LoadedModel
    source: ModelSource
    base_model: str | None

    @property
    def has_lora(self) -> bool:
        """Whether the files are a LoRA run."""
        return (self.source.path / ADAPTER_FILE).is_file()

    def unchanged(self) -> TowerToSave:
        """Return the tower to save as it is: a whole model's files, or the merged weights of a LoRA run."""
        return self.whole() if self.has_lora else UnchangedModel(self.loaded)

    def whole(self, added: Sequence[Head] = (), *, trained: LoadedModel | None = None) -> WholeModel:
        """Return the tower to save with all its weights.

        Args:
            added: Heads to add.
            trained: The model after it was trained; None takes it as it was loaded.
        """
        loaded = trained or self.loaded
        return WholeModel(
            tower=loaded.tower(added),
            tokenizer=loaded.tokenizer,
            settings=loaded.settings,
            base=base_named(
                self.source,
                read_settings_file(self.source.path),
                self.base_model,
                None,
                adapter=self.has_lora,
            ),
        )


def tower_of_index(settings: AdaptSettings, manifest: Manifest, side: Side) -> IndexTower:
    """Return the tower of a side of an index's encoder, with the settings that the index records.

    Raises:
        ModelError: The encoder cannot be loaded.
    """
    revision = manifest.encoder.get("revision") if settings.model is None else None
    source = find_model(model_name(settings, manifest), revision=revision)
    if has_two_towers(read_settings_file(source.path)):
        source = tower_source(source, side)
    base_model = settings.base_model or manifest.encoder.get("base_model")
    loaded = load_tower(
        source,
        recorded_overrides(manifest.encoder),
        base_model=base_model,
        trust_remote_code=settings.trust_remote_code,
    ).model
    return IndexTower(loaded, source, base_model)


def model_name(settings: AdaptSettings, manifest: Manifest) -> str:
    """Return the folder or Hub id of the index's encoder."""
    return settings.model or str(manifest.encoder["model"])


def check_tower(settings: AdaptSettings, manifest: Manifest) -> None:
    """Refuse to train the query tower of a bundle, before anything is embedded.

    Raises:
        ConfigError: The encoder is a bundle.
    """
    named = model_name(settings, manifest)
    if settings.kind == "lora" and is_bundle(named):
        raise ConfigError(
            f"--kind lora: {named} is a bundle, whose weights are fixed; give its run with --model"
        )
