"""Refuse, at its start, a run that would learn nothing; warn of settings with which it would learn little."""

from __future__ import annotations

from collections.abc import Iterator

from aisle.commands.train.settings import OptimSettings
from aisle.data.negatives import KnownPositives
from aisle.errors import ConfigError
from aisle.losses.parameters import Parameters
from aisle.losses.specification import Loss
from aisle.training.batches import BatchPlan
from aisle.training.informative_pairs import informative_share
from aisle.training.tokenized import TokenizedPairs

LOW_SHARE = 0.1
"""If a loss learns from a lower share of the pairs, the run warns."""
MOST_DECAY = 0.01
"""Share of a weight that decay may take off in a step: 1% a step leaves a third after 100 steps."""


def check_learnable(
    loss: Loss,
    parameters: Parameters,
    optim: OptimSettings,
    train: TokenizedPairs,
    plan: BatchPlan,
    *,
    known: KnownPositives | None,
    total_steps: int,
) -> list[str]:
    """Return the warnings for the start of a run.

    Args:
        loss: the loss of the run.
        parameters: its parameters.
        optim: batches and schedule.
        train: the training pairs.
        plan: which pairs meet in which batch.
        known: the positives of all pairs, for a loss that contrasts.
        total_steps: steps of the run.

    Raises:
        ConfigError: no pair has anything that the loss could compare it with.
    """
    warnings = [*parameters.warnings(), *_odd_numbers(optim, plan, total_steps)]
    share = informative_share(loss, parameters, train, plan, known=known)
    if share >= LOW_SHARE or loss.comparison is None:
        return warnings
    nothing = loss.comparison.nothing.format(batch=plan.batch_size * plan.num_processes)
    remedy = loss.comparison.remedy
    if not share:
        raise ConfigError(f"--loss {loss.name}: has nothing to learn from: {nothing}. {remedy}")
    counted = "positives" if loss.contrasts else "pairs"
    learns = f"the {loss.name} loss learns from {share:.1%} of the {counted}: for the others {nothing}"
    return [*warnings, f"{learns}. {remedy}"]


def _odd_numbers(optim: OptimSettings, plan: BatchPlan, total_steps: int) -> Iterator[str]:
    if optim.gradient_accumulation_steps > 1 and plan.pairs_per_step > plan.pairs:
        yield (
            f"--gradient_accumulation_steps {optim.gradient_accumulation_steps}: a step takes "
            f"{plan.pairs_per_step:,} pairs and there are {plan.pairs:,}, so that an epoch is one step and "
            f"the run {total_steps:,}; give a lower one"
        )
    if total_steps and optim.num_warmup_steps == total_steps:
        yield (
            f"--num_warmup_steps {optim.num_warmup_steps}: is the whole run, so that the learning rate never "
            "reaches --learning_rate; give fewer"
        )
    decay = optim.weight_decay * float(optim.learning_rate or 0)
    if decay >= MOST_DECAY:
        yield (
            f"--weight_decay {optim.weight_decay:g}: every step takes {decay:.0%} off the trained weights; "
            "give a lower one"
        )
