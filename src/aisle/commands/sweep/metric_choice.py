"""Choose the metric that trials are compared by, before the first is trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aisle.commands.sweep.query_split import QuerySplit
from aisle.commands.train.loss_choice import resolve_selection
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError
from aisle.types.choices import Selection


def choose_selection(wanted: Selection | None, split: QuerySplit, *, log: Callable[[str], None]) -> Selection:
    """Return the method that selects the best evaluation, of a run and of the sweep.

    Args:
        wanted: --selection; if not given, retrieval is chosen where roc_auc would be undefined.
        split: The pairs of the sweep.
        log: Logs why retrieval was chosen.

    Raises:
        ConfigError: The metric is undefined on the pairs to choose by, or to measure the winner on.
    """
    chosen = resolve_selection(wanted, split.validation)
    reason = _undefined(chosen, split)
    if reason is not None and wanted is None and chosen == "roc_auc":
        log(f"--selection retrieval, as roc_auc is undefined: {reason}")
        chosen = "retrieval"
        reason = _undefined(chosen, split)
    if reason is None:
        return chosen
    other = "retrieval, or " if chosen in ("roc_auc", "spearman") else ""
    raise ConfigError(
        f"--selection {chosen}: is undefined: {reason}; use {other}more labelled queries or another --seed, "
        "which divides them anew"
    )


def _undefined(selection: Selection, split: QuerySplit) -> str | None:
    """Return why the metric of `selection` is undefined on a part of the data; None if it is defined."""
    for use, pairs in (("to choose by", split.validation), ("to measure the winner on", split.unseen)):
        reason = _reason(selection, pairs)
        if reason is not None:
            return f"{reason} of the {len(pairs):,} pairs {use}"
    return None


def _reason(selection: Selection, pairs: Pairs) -> str | None:
    share, relevance = pairs.positive_share(), pairs.relevance
    if selection == "spearman" and relevance is not None and len(np.unique(relevance)) < 3:
        return "there are fewer than 3 relevance levels in the labels"
    if selection != "spearman" and share == 0:
        return "there is no positive (relevance above 0.5) in the labels"
    return "there are only positives in the labels" if selection == "roc_auc" and share == 1 else None
