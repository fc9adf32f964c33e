"""Whole model: a tower with all its weights and without an adapter, to save as a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aisle.models.model_source import ModelSource
from aisle.models.persistence import save_encoder
from aisle.models.tower import Tower
from aisle.models.tower_files import write_tower
from aisle.types.encoder_settings import EncoderSettings


@dataclass(frozen=True)
class WholeModel:
    """Model with all its weights, made from one run or several.

    Args:
        tower: Tower without an adapter, on the CPU.
        tokenizer: Tokenizer of the tower.
        settings: Pooling, prompts, maximum length, normalisation.
        base: Base model that the weights were trained from. Its files need not exist any more.
        lineage: Records of the models that it was made from, by their keys in `aisle.json`.
        note: Assumption about the model that its files leave open, to print; None without.
    """

    tower: Tower
    tokenizer: Any
    settings: EncoderSettings
    base: ModelSource
    lineage: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    note: str | None = None

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the model's files, except `aisle.json`, to a folder; return the contents of that file.

        Raises:
            OSError: A file cannot be written.
        """
        return write_tower(
            folder,
            tower=self.tower,
            weights=None,
            tokenizer=self.tokenizer,
            settings=self.settings,
            source=self.base,
            adapter=False,
        )

    def save(
        self, folder: Path, *, more_files: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None
    ) -> str:
        """Write the model to a folder and return its fingerprint.

        Args:
            folder: Folder of the model; files of an earlier model there are replaced.
            more_files: As in `save_encoder`.

        Raises:
            ModelError: The model cannot be written; the folder is unchanged.
        """
        return save_encoder(
            folder,
            tower=self.tower,
            weights=None,
            tokenizer=self.tokenizer,
            settings=self.settings,
            source=self.base,
            adapter=False,
            lineage=self.lineage,
            more_files=more_files,
        )
