"""Names of weights: what they must be where weights are saved and loaded.

A wrapper puts its own name before those of the model that it wraps, and weights under names that nobody looks
for would be left out in silence.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of torch's DistributedDataParallel and torch.compile."""


def without_wrappers(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights under the names that the model has for them without its wrappers."""
    return {_plain(name): value for name, value in weights.items()}


def names_that_differ(found: Collection[str], expected: Collection[str]) -> str | None:
    """Return how the names of weights differ from those expected, with examples, or None where they do not.

    Args:
        found: names of the weights at hand.
        expected: names that the model has for them.
    """
    kinds = (
        ("missing", sorted(set(expected) - set(found))),
        ("unknown", sorted(set(found) - set(expected))),
    )
    said = [f"{len(names)} {kind} ({names[0]} for example)" for kind, names in kinds if names]
    if not said:
        return None
    return f"the names of its weights do not match those of the model: {' and '.join(said)}"


def _plain(name: str) -> str:
    for prefix in WRAPPERS:
        if name.startswith(prefix):
            return _plain(name.removeprefix(prefix))
    return name
