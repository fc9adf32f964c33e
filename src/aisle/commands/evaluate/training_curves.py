"""Read the training curves of a run from its folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from aisle.commands.train.run_dir import LOG, METRICS
from aisle.evaluation.document import TrainingCurve

CURVES = (
    *("roc_auc", "average_precision", "spearman"),
    *("mrr", "recall@10", "ndcg@10", "precision@1", "joint_pool_mrr", "joint_pool_precision@1"),
)


def training_curves(model: str) -> tuple[TrainingCurve, ...]:
    """Return the loss and validation figures over the steps of a run; empty if the model is not a run."""
    run_dir = Path(model).expanduser()
    logged = _log(run_dir / LOG)
    loss = [(entry["step"], entry["loss"]) for entry in logged if _is_number(entry.get("loss"))]
    found = {"loss": loss}
    for entry in _history(run_dir / METRICS):
        for name in CURVES:
            if _is_number(entry.get(name)) and isinstance(entry.get("step"), int):
                found.setdefault(name, []).append((entry["step"], entry[name]))
    return tuple(
        TrainingCurve(name, tuple(step for step, _ in points), tuple(float(value) for _, value in points))
        for name, points in found.items()
        if points
    )


def _log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log, without a line that a killed run left incomplete."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            found.append(entry)
    return found


def _history(path: Path) -> list[dict[str, Any]]:
    """Return a run's evaluations, the one before training first."""
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        before = [] if metrics["base"] is None else [{"step": 0, **metrics["base"]}]
        return [*before, *metrics["history"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _is_number(value: object) -> bool:
    """Return whether a value can be drawn; a loss that is not finite cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
