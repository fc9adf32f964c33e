"""Settings under which a run would learn nothing, or next to nothing: refused, or warned of, at its start."""

from __future__ import annotations

from collections.abc import Iterator

from aisle.commands.train.settings import OptimSettings
from aisle.data.negatives import KnownPositives
from aisle.errors import ConfigError
from aisle.training.batches import BatchPlan
from aisle.training.informative_pairs import informative_share
from aisle.training.tokenized import TokenizedPairs

LOW_SHARE = 0.1
"""Below this share of pairs to learn from, a run is warned of."""
USUAL_TEMPERATURES = (0.005, 1.0)
"""Published models have .01 to .1; beyond these bounds scores are all but one-hot, or all but alike."""
MOST_DECAY = 0.01
"""Share of a weight that decay may take off in a step: 1% a step leaves a third after 100 steps."""
NOTHING_TO_COMPARE = {
    "in_batch": "no positive has a negative in its batch of {batch} pairs",
    "cosent": "no batch of {batch} pairs has pairs of different relevance",
    "listwise": "no query has two judged products, one of them relevant, in a batch of {batch} pairs",
}
REMEDY = {
    "in_batch": "Give a higher --per_device_train_batch_size, or hard negatives (--hard_negatives_column)",
    "cosent": "Give a higher --per_device_train_batch_size, or leave out --group_by_query",
    "listwise": "Give a higher --per_device_train_batch_size; with one product a query, another --loss",
}


def check_learnable(
    optim: OptimSettings,
    train: TokenizedPairs,
    plan: BatchPlan,
    *,
    known: KnownPositives | None,
    total_steps: int,
) -> list[str]:
    """Return what to warn of at the start of a run.

    Args:
        optim: with the loss resolved.
        train: the training pairs.
        plan: which pairs meet in which batch.
        known: the positives of all pairs, for the in-batch loss.
        total_steps: of the run.

    Raises:
        ConfigError: nothing can be learned.
    """
    assert optim.loss is not None  # resolved before
    warnings = list(_odd_numbers(optim, plan, total_steps))
    share = informative_share(optim.loss, train, plan, known=known, directions=optim.in_batch_directions)
    if share >= LOW_SHARE:
        return warnings
    what = NOTHING_TO_COMPARE[optim.loss].format(batch=plan.batch_size * plan.num_processes)
    if not share:
        raise ConfigError(f"--loss {optim.loss}: has nothing to learn from: {what}. {REMEDY[optim.loss]}")
    counted = "positives" if optim.loss == "in_batch" else "pairs"
    kind = f"the {optim.loss} loss learns from {share:.1%} of the {counted}: for the others {what}"
    return [*warnings, f"{kind}. {REMEDY[optim.loss]}"]


def _odd_numbers(optim: OptimSettings, plan: BatchPlan, total_steps: int) -> Iterator[str]:
    low, high = USUAL_TEMPERATURES
    if optim.loss != "cosine_target" and not low <= optim.temperature <= high:
        effect = (
            "only the hardest negative of a pair counts"
            if optim.temperature < low
            else "all scores are alike"
        )
        yield (
            f"--temperature {optim.temperature:g}: is outside {low:g} to {high:g}, so that {effect}; "
            "most models are trained with .01 to .1"
        )
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
