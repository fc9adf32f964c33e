"""Training progress: step, evaluations, best evaluation, throughput."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from aisle.training.batch_figures import NAMES

BATCH_SUMS = ("ranked", "mrr", "r_precision", "precision_1", "precision_10")
"""Fields of `Throughput` with the sums of `batch_figures`, in its order."""


@dataclass
class Throughput:
    """Work done in training steps and its time, excluding evaluations and checkpoints.

    Args:
        seconds: Time of the steps, including waits for batches.
        steps: Number of optimiser steps.
        pairs: Number of pairs, over all ranks.
        real_tokens: Tokens of the distinct texts of each batch, without padding.
        read_tokens: Tokens that the model computed, including padding.
        loss: Sum of the steps' losses.
        ranked: Number of queries that ranked the products of their batches (--batch_metrics).
        mrr: Sum of their metrics, and so are the others.
        r_precision: See `group_retrieval.ranking_figures`.
        precision_1: precision@1.
        precision_10: precision@10.
    """

    seconds: float = 0.0
    steps: int = 0
    pairs: int = 0
    real_tokens: int = 0
    read_tokens: int = 0
    loss: float = 0.0
    ranked: float = 0.0
    mrr: float = 0.0
    r_precision: float = 0.0
    precision_1: float = 0.0
    precision_10: float = 0.0

    def add_step(
        self, *, loss: float, real_tokens: int, read_tokens: int, figures: Sequence[float] = ()
    ) -> None:
        """Add a step's loss, tokens and metrics of batches; the loop adds its pairs and its time."""
        self.steps += 1
        for name, value in zip(BATCH_SUMS, figures, strict=False):
            setattr(self, name, getattr(self, name) + value)
        self.loss += loss
        self.real_tokens += real_tokens
        self.read_tokens += read_tokens

    def add(self, other: Throughput) -> None:
        """Add the work of other steps."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    @property
    def mean_loss(self) -> float:
        """Mean loss of the steps."""
        return self.loss / max(self.steps, 1)

    def batch_metrics(self) -> dict[str, float]:
        """Return the means of the batches' metrics; nothing if no batch was measured."""
        if not self.ranked:
            return {}
        sums = (getattr(self, name) for name in BATCH_SUMS[1:])
        return {name: value / self.ranked for name, value in zip(NAMES, sums, strict=True)}

    def rates(self) -> dict[str, float]:
        """Return pairs and real tokens per second, and the share of padding in the computed tokens."""
        seconds = max(self.seconds, 1e-9)
        return {
            "pairs_per_second": self.pairs / seconds,
            "tokens_per_second": self.real_tokens / seconds,
            "padding_share": 1 - self.real_tokens / max(self.read_tokens, 1),
        }


@dataclass
class TrainState:
    """State of a run besides the model, the optimiser and the random number generators.

    Args:
        step: Number of optimiser steps so far.
        base: Metrics of the base model, before training, without an added head.
        base_sample: Embeddings of a few texts before training, as lists.
        history: Entry of each evaluation: step, epoch and metrics.
        best: Entry of the evaluation with the highest selection metric.
        total: Throughput of the steps up to the last log.
        window: Throughput of the steps since the last log.
        last_loss: Mean loss in the last log.
        loss_range: Lowest and highest loss of a step.
        sub_batch_tokens: Tokens in a sub-batch since memory ran out; None if it never did.
        evaluations_without_gain: Number of evaluations since the best.
        stopped_early: Whether early stopping ended the run.
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
        """Return the state as a dict of plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a `state_dict`; fields that it lacks, from an older version, keep their values."""
        for one in fields(self):
            if one.name not in state:
                continue
            value = state[one.name]
            setattr(self, one.name, Throughput(**value) if one.name in ("total", "window") else value)

    def note_loss(self, loss: float) -> None:
        """Widen the range of losses to include a step's loss."""
        low, high = self.loss_range or (loss, loss)
        self.loss_range = (min(low, loss), max(high, loss))

    def close_window(self) -> Throughput:
        """Return the work since the last log, and start a new window."""
        window, self.window = self.window, Throughput()
        self.total.add(window)
        self.last_loss = window.mean_loss
        return window

    def record(self, entry: dict[str, Any], *, metric: str | None) -> bool:
        """Add an evaluation to the history; return whether it is the best so far by `metric`.

        On a tie, the earlier evaluation stays the best. If the metric is undefined, the latest is the best.
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
