"""A finished run, as `aisle.train` returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aisle.models.encoder import TorchEncoder
from aisle.models.loading import load_encoder


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        run_dir: Folder of the run.
        metrics: Contents of its metrics.json: all evaluations, the best evaluation, and training figures.
        main_process: Whether this process is the main process, which wrote the run.
    """

    run_dir: Path
    metrics: Mapping[str, Any]
    main_process: bool

    @property
    def best_step(self) -> int:
        """Step of the kept weights."""
        return int((self.metrics["best"] or {}).get("step", self.metrics["steps"]))

    def load_encoder(self) -> TorchEncoder:
        """Return the tuned encoder; see `aisle.load_encoder`."""
        return load_encoder(self.run_dir)
