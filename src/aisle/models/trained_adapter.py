"""LoRA adapter of a finished run, from which another run starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aisle.models.model_source import ModelSource


@dataclass(frozen=True)
class TrainedAdapter:
    """Trained LoRA adapter, with its run and its base model.

    Args:
        run: Location of the run.
        base: Base model of the adapter.
        fingerprint: Fingerprint of the run's encoder.
        config: PEFT's configuration of the adapter.
        merged: Whether it is merged into the base model's weights; otherwise it is trained further.
    """

    run: ModelSource
    base: ModelSource
    fingerprint: str
    config: Mapping[str, Any]
    merged: bool

    def record(self) -> dict[str, Any]:
        """Return the record of the adapter for the `aisle.json` of a run that starts from it."""
        run = self.run
        return {
            "name": run.name if run.hub_id else str(run.path),
            "revision": run.revision,
            "fingerprint": self.fingerprint,
            "adapter": "merged" if self.merged else "trained further",
        }
