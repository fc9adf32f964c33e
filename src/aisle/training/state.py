"""What a run knows of itself: how far it is, what it has measured, what was best."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Throughput:
    """Work done and time taken by training steps, evaluations and checkpoints left out."""

    seconds: float = 0.0
    pairs: int = 0
    real_tokens: int = 0
    padded_tokens: int = 0

    def add(self, *, seconds: float, pairs: int, real_tokens: int, padded_tokens: int) -> None:
        """Count a step."""
        self.seconds += seconds
        self.pairs += pairs
        self.real_tokens += real_tokens
        self.padded_tokens += padded_tokens

    def rates(self) -> dict[str, float]:
        """Return pairs and real tokens a second, and the share of padding among the tokens read."""
        seconds = max(self.seconds, 1e-9)
        return {
            "pairs_per_second": self.pairs / seconds,
            "tokens_per_second": self.real_tokens / seconds,
            "padding_share": 1 - self.real_tokens / max(self.padded_tokens, 1),
        }


@dataclass
class TrainState:
    """The state of a run that is not in the model, the optimiser or a random number generator.

    Args:
        step: optimiser steps done.
        base: metrics before training.
        history: one entry per evaluation: step, epoch and metrics.
        best: the entry whose selection metric was highest.
        total: throughput since the run began.
    """

    step: int = 0
    base: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    total: Throughput = field(default_factory=Throughput)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave."""
        for one in fields(self):
            value = state[one.name]
            setattr(self, one.name, Throughput(**value) if one.name == "total" else value)

    def record(self, entry: dict[str, Any], *, metric: str | None) -> bool:
        """Keep an evaluation and return whether it is the best so far by `metric`.

        The first of equal values stays the best. Where the metric is undefined, the latest is the best.
        """
        self.history.append(entry)
        value = None if metric is None else entry.get(metric)
        best = None if self.best is None or metric is None else self.best.get(metric)
        if best is not None and (value is None or value <= best):
            return False
        self.best = entry
        return True
