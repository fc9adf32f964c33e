"""What a run knows of itself: how far it is, what it has measured, what was best."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Throughput:
    """Work done and time taken by training steps, evaluations and checkpoints left out.

    Args:
        seconds: waiting for batches included.
        steps: optimiser steps.
        pairs: over all processes.
        real_tokens: of the distinct texts of each batch.
        read_tokens: what the model computed, padding included.
        loss: sum of the steps' losses.
    """

    seconds: float = 0.0
    steps: int = 0
    pairs: int = 0
    real_tokens: int = 0
    read_tokens: int = 0
    loss: float = 0.0

    def add_step(self, *, loss: float, real_tokens: int, read_tokens: int) -> None:
        """Count a step; its pairs and its time are counted apart."""
        self.steps += 1
        self.loss += loss
        self.real_tokens += real_tokens
        self.read_tokens += read_tokens

    def add(self, other: Throughput) -> None:
        """Count the work of another stretch of the run."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    @property
    def mean_loss(self) -> float:
        """Mean over the steps."""
        return self.loss / max(self.steps, 1)

    def rates(self) -> dict[str, float]:
        """Return pairs and real tokens a second, and the share of padding among the tokens read."""
        seconds = max(self.seconds, 1e-9)
        return {
            "pairs_per_second": self.pairs / seconds,
            "tokens_per_second": self.real_tokens / seconds,
            "padding_share": 1 - self.real_tokens / max(self.read_tokens, 1),
        }


@dataclass
class TrainState:
    """The state of a run that is not in the model, the optimiser or a random number generator.

    Args:
        step: optimiser steps done.
        base: metrics before training.
        base_sample: embeddings of a few texts before training, as lists.
        history: one entry per evaluation: step, epoch and metrics.
        best: the entry whose selection metric was highest.
        total: throughput of the steps that were logged.
        window: of those since.
        last_loss: mean loss of the last steps that were logged.
        loss_range: lowest and highest loss of a step.
        sub_batch_tokens: tokens of a sub-batch, if memory ran out; None otherwise.
        evaluations_without_gain: evaluations since the best one.
        stopped_early: whether the run ended because they were too many.
    """

    step: int = 0
    base: dict[str, Any] | None = None
    base_sample: list[list[float]] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None
    total: Throughput = field(default_factory=Throughput)
    window: Throughput = field(default_factory=Throughput)
    last_loss: float | None = None
    loss_range: tuple[float, float] | None = None
    sub_batch_tokens: int | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave; what an older version did not write stays as it is."""
        for one in fields(self):
            if one.name not in state:
                continue
            value = state[one.name]
            setattr(self, one.name, Throughput(**value) if one.name in ("total", "window") else value)

    def note_loss(self, loss: float) -> None:
        """Widen the range of losses by a step's."""
        low, high = self.loss_range or (loss, loss)
        self.loss_range = (min(low, loss), max(high, loss))

    def close_window(self) -> Throughput:
        """Return the work since the last log, and begin anew."""
        window, self.window = self.window, Throughput()
        self.total.add(window)
        self.last_loss = window.mean_loss
        return window

    def record(self, entry: dict[str, Any], *, metric: str | None) -> bool:
        """Keep an evaluation and return whether it is the best so far by `metric`.

        The first of equal values stays the best. Where the metric is undefined, the latest is the best.
        """
        self.history.append(entry)
        value = None if metric is None else entry.get(metric)
        best = None if self.best is None or metric is None else self.best.get(metric)
        if best is not None and (value is None or value <= best):
            self.evaluations_without_gain += 1
            return False
        self.evaluations_without_gain = 0
        self.best = entry
        return True
