"""Refuse a run that would learn nothing before it starts; warn about settings with which it learns little."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aisle.commands.train.settings import OptimSettings
from aisle.data.negatives import KnownPositives
from aisle.data.scored_products import ScoredProducts
from aisle.errors import ConfigError
from aisle.losses.parameters import Parameters
from aisle.losses.specification import Loss
from aisle.training.batch_plan import BatchPlan
from aisle.training.informative_pairs import informative_pairs
from aisle.training.tokenized import TokenizedPairs

LOW_SHARE = 0.1
"""Share of the pairs below which a run warns that its loss learns from few of them."""
MOST_DECAY = 0.01
"""Decay of a weight per step above which a run warns: 1% leaves a third of it after 100 steps."""


def check_learnable(
    loss: Loss,
    parameters: Parameters,
    optim: OptimSettings,
    train: TokenizedPairs,
    plan: BatchPlan,
    *,
    known: KnownPositives | None,
    scored: ScoredProducts | None = None,
    total_steps: int,
) -> list[str]:
    """Return the warnings for the start of a run.

    Args:
        loss: Loss of the run.
        parameters: Parameters of the loss.
        optim: Settings of batches and schedule.
        train: Training pairs.
        plan: Which pairs share a batch.
        known: Positives of all pairs, for a loss that contrasts.
        scored: Teacher's scores, for a loss that takes scored lists.
        total_steps: Steps of the run.

    Raises:
        ConfigError: The loss has nothing to compare any pair with, or contrasts and a full batch has no
            negative.
    """
    warnings = [*parameters.warnings(), *_odd_numbers(optim, plan, total_steps)]
    found = informative_pairs(loss, parameters, train, plan, known=known, scored=scored)
    comparison = loss.checked_comparison
    share, empty = found.share, found.empty
    if comparison is None:
        return warnings
    rows = "texts" if train.texts_of_groups else "pairs"
    if train.texts_of_groups:
        comparison = replace(
            comparison,
            nothing=comparison.nothing.replace("pairs", rows),
            remedy="Give a higher --per_device_train_batch_size, or a lower --texts_per_group (here "
            f"{optim.texts_per_group}, at least 2)",
        )
    if share and empty is not None:
        remedy = comparison.remedy
        if optim.group_by_query and not loss.keeps_queries_together:
            remedy += ", or leave out --group_by_query"
        where = f"batch {empty.number:,} of the first epoch has {empty.pairs:,} {rows} and no negative"
        if empty.full:
            raise ConfigError(f"--loss {loss.name}: {where}: {empty.reason}. {remedy}")
        warnings.append(f"the last {where}: {empty.reason}, so that its step has no gradient. {remedy}")
    if share >= LOW_SHARE:
        return warnings
    nothing = comparison.nothing.format(batch=plan.batch_size * plan.num_processes)
    remedy = comparison.remedy
    if not share:
        raise ConfigError(f"--loss {loss.name}: has nothing to learn from: {nothing}. {remedy}")
    counted = "positives" if loss.needs_positives else "queries" if loss.takes_lists else "pairs"
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
