"""The LoRA adapter of a finished run, from which another run starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aisle.models.model_source import ModelSource


@dataclass(frozen=True)
class TrainedAdapter:
    """A LoRA adapter, and what it was trained on.

    Args:
        run: Folder of the run.
        base: Model that the adapter was trained on.
        fingerprint: Fingerprint of the run's encoder.
        config: PEFT's configuration of the adapter.
        merged: Whether it is merged into the base's weights; otherwise it is trained further.
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
