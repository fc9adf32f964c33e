"""Save the trained tower, both towers or the cross-encoder into the folder of a run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aisle.commands.train.settings import TrainSettings
from aisle.commands.train.trained_tower import lora_of
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.models.cross_encoder_persistence import save_cross_encoder
from aisle.models.loading import LoadedModel, load_tower
from aisle.models.model_source import ModelSource
from aisle.models.modules_file import write_json
from aisle.models.persistence import save_encoder
from aisle.models.run_file import SETTINGS_FILE
from aisle.models.tower import Tower
from aisle.models.tower_files import write_tower
from aisle.models.two_towers import TowerToSave, TwoTowers, UnchangedModel
from aisle.text.tokens import Side
from aisle.types.encoder_settings import Overrides

ADAPTER = ".adapter"
"""Folder of a tower's adapter until it is merged."""


@dataclass(frozen=True)
class TrainedTower:
    """Trained tower of a run of two towers, to save as a whole model.

    Args:
        tower: The tower, with its current weights.
        weights: Trained weights to save in place of the current ones; None saves the current ones.
        loaded: Model that it was trained from.
        adapter: Whether its backbone has an adapter, which is merged.
        trust_remote_code: Whether to run Python code from the base model's repository.
    """

    tower: Tower
    weights: Mapping[str, torch.Tensor] | None
    loaded: LoadedModel
    adapter: bool
    trust_remote_code: bool = False

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the model's files, except `aisle.json`, to a folder; return the contents of that file.

        Raises:
            ModelError: The weights are not those of the tower.
            OSError: A file cannot be written.
        """
        if not self.adapter:
            return self._write(folder, self.tower, self.weights, adapter=False)
        # The base model's weights in training may be rounded, so the adapter is merged into those on disk.
        trained = folder / ADAPTER
        trained.mkdir()
        write_json(trained / SETTINGS_FILE, self._write(trained, self.tower, self.weights, adapter=True))
        merged = load_tower(
            ModelSource(str(trained), trained), Overrides(), trust_remote_code=self.trust_remote_code
        )
        shutil.rmtree(trained)
        return self._write(folder, merged.model.tower(), None, adapter=False)

    def _write(
        self, folder: Path, tower: Tower, weights: Mapping[str, torch.Tensor] | None, *, adapter: bool
    ) -> dict[str, Any]:
        return write_tower(
            folder,
            tower=tower,
            weights=weights,
            tokenizer=self.loaded.tokenizer,
            settings=self.loaded.settings,
            source=self.loaded.source,
            adapter=adapter,
        )


def save_run(
    run_dir: Path,
    model: Any,
    settings: TrainSettings,
    base: LoadedModel | LoadedCrossEncoder,
    *,
    weights: Mapping[str, torch.Tensor] | None,
    frozen: Mapping[str, torch.Tensor],
    lineage: Mapping[str, Mapping[str, Any]],
    advice: str,
) -> None:
    """Write the trained model to the folder of its run.

    Args:
        run_dir: Folder of the run.
        model: Trained tower, both towers or cross-encoder, unwrapped.
        settings: Settings of the run.
        base: Model that training started from.
        weights: As in `save_encoder`.
        frozen: As in `save_encoder`.
        lineage: As in `save_encoder`.
        advice: As in `save_encoder`.

    Raises:
        ModelError: The model cannot be written; the folder is unchanged.
    """
    adapter = settings.lora.use_peft
    if isinstance(base, LoadedCrossEncoder):
        save_cross_encoder(
            run_dir,
            model=model,
            weights=weights,
            loaded=base,
            lora=lora_of(settings.lora),
            trust_remote_code=settings.model.trust_remote_code,
            advice=advice,
        )
        return
    if not settings.towers.two_towers:
        save_encoder(
            run_dir,
            tower=model,
            weights=weights,
            frozen=frozen,
            tokenizer=base.tokenizer,
            settings=base.settings,
            source=base.source,
            adapter=adapter,
            lineage=lineage,
            advice=advice,
        )
        return

    def to_save(side: Side) -> TowerToSave:
        loaded, own = base.of(side), weights
        if settings.towers.freeze == side and loaded.adapter is None:
            return UnchangedModel(loaded)
        if base.query is not None and weights is not None:
            prefix = f"{side}_tower."
            own = {
                name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)
            }
        tower = model if base.query is None else model.tower(side)
        return TrainedTower(
            tower,
            own,
            loaded,
            adapter=adapter and settings.towers.freeze != side,
            trust_remote_code=settings.model.trust_remote_code,
        )

    TwoTowers(to_save("query"), to_save("product"), lineage).save(run_dir, advice=advice)
