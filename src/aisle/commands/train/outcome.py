"""Check that a training run learned something, and collect its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from aisle.commands.train.auto_choice import AutoChoice
from aisle.commands.train.read_data import TrainingData
from aisle.commands.train.selected_metric import selected_metric
from aisle.commands.train.settings import TrainSettings
from aisle.losses.specification import Reads
from aisle.training.distributed import of_all_ranks
from aisle.training.loop import Trainer
from aisle.training.peak_memory import peak_memory_bytes
from aisle.training.sanity_checks import (
    check_learned,
    collapse_warning,
    equal_scores_warning,
    no_gain_warning,
)
from aisle.training.score_evaluation import no_use_warning


def check_outcome(settings: TrainSettings, trainer: Trainer) -> list[str]:
    """Return the warnings at the end of a run; call on all ranks.

    Raises:
        TrainingError: The run learned nothing; its checkpoints stay.
    """
    state, rate = trainer.state, float(settings.optim.learning_rate or 0)
    base, tuned = np.array(state.base_sample, dtype=np.float32), trainer.sample()
    scores = settings.reads == "scores"
    check_learned(
        base=base,
        tuned=tuned,
        loss_range=state.loss_range or (0.0, 0.0),
        steps=state.step,
        learning_rate=rate,
        trained=_trained(settings),
        outputs="scores of {} pairs" if scores else "embeddings of {} texts",
    )
    metric = selected_metric(settings)
    reason = why_eager_on_a_rank(trainer)
    alone = reason is not None and trainer.step.forward.why_eager is None
    found = (
        equal_scores_warning(tuned, learning_rate=rate)
        if scores
        else collapse_warning(base, tuned, learning_rate=rate),
        no_gain_warning(state.base or {}, state.best or {}, metric=metric),
        no_use_warning(state.best or {}),
        f"steps were computed eagerly, and the other processes waited: {reason}" if alone else None,
    )
    return [warning for warning in found if warning is not None]


def _trained(settings: TrainSettings) -> str:
    """Return a description of the trained weights, for a message."""
    head, targets = settings.head.head, settings.lora.lora_target_modules
    if settings.head.freeze_encoder:
        return f"the head {head}"
    and_head = "" if head == "none" else f" and the head {head}"
    if settings.lora.use_peft:
        if settings.reads == "scores":
            and_head = " and the classification head"
        return f"LoRA on {', '.join(targets) if targets else 'the attention projections'}{and_head}"
    return f"all weights{and_head}"


def undefined_selection(metric: str | None, base: Mapping[str, Any], reads: Reads) -> str | None:
    """Return a note if the selection metric is undefined on the validation pairs, else None.

    Args:
        metric: Selection metric; None if the last evaluation is kept.
        base: Metrics before training.
        reads: Kind of the model: "scores" for a reranker.
    """
    if metric is None or base.get(metric) is not None:
        return None
    why = base.get("note", "they are of one class")
    remedy = (
        "give relevant and irrelevant pairs as --validation_file, or --index_dir"
        if reads == "scores"
        else "--selection retrieval may rank the evaluations"
    )
    return (
        f"note: {metric} is undefined on the validation pairs ({why}), so the last evaluation counts as "
        f"the best, and --early_stopping_patience does not stop the run; {remedy}"
    )


def why_eager_on_a_rank(trainer: Trainer) -> str | None:
    """Return why the steps of a rank were computed eagerly; None if graphs computed them on every rank.

    The ranks compute a step together, so all wait for a rank whose steps are eager.
    """
    reasons = of_all_ranks(trainer.accelerator, trainer.step.forward.why_eager)
    if reasons[0] is not None:
        return str(reasons[0])
    return next((f"process {rank}: {reason}" for rank, reason in enumerate(reasons) if reason), None)


def run_metrics(
    settings: TrainSettings,
    data: TrainingData,
    trainer: Trainer,
    *,
    auto: AutoChoice | None = None,
    seconds: float,
) -> dict[str, Any]:
    """Return the contents of metrics.json; call on all ranks.

    Args:
        settings: Resolved settings.
        data: Training and validation pairs.
        trainer: The trainer after its last step.
        auto: Choice of --loss auto; None for another --loss.
        seconds: Duration of the run in this process.
    """
    eager_because = why_eager_on_a_rank(trainer)
    return {
        "loss": settings.objective.loss,
        **({} if auto is None else {"auto": auto.record()}),
        "selection": settings.run.selection,
        "selection_metric": trainer.selection_metric,
        "base": trainer.state.base,
        "history": trainer.state.history,
        "best": trainer.state.best,
        "train_pairs": len(data.train),
        "validation_pairs": len(data.validation),
        "steps": trainer.state.step,
        "stopped_early": trainer.state.stopped_early,
        "final_loss": trainer.state.last_loss,
        **trainer.state.total.rates(),
        "attention": "packed" if trainer.padded_because is None else "padded",
        "attention_reason": trainer.padded_because,
        "graphs": "captured" if eager_because is None else "eager",
        "graphs_reason": eager_because,
        "captured_batches": trainer.step.forward.captured_batches,
        "peak_memory_bytes": peak_memory_bytes(trainer.accelerator.device),
        "seconds": seconds,
    }
