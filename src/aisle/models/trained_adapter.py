"""The LoRA adapter of a finished run that another run begins at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aisle.models.model_source import ModelSource


@dataclass(frozen=True)
class TrainedAdapter:
    """A LoRA adapter, and what it was trained on.

    Args:
        run: the folder that holds it.
        base: the model that it was trained on.
        fingerprint: of the run's encoder.
        config: PEFT's configuration of it.
        merged: whether it is merged into the base's weights, not trained further itself.
    """

    run: ModelSource
    base: ModelSource
    fingerprint: str
    config: Mapping[str, Any]
    merged: bool

    def record(self) -> dict[str, Any]:
        """Return what a run that began at it keeps in its `aisle.json`."""
        run = self.run
        return {
            "name": run.name if run.hub_id else str(run.path),
            "revision": run.revision,
            "fingerprint": self.fingerprint,
            "adapter": "merged" if self.merged else "trained further",
        }
