"""Check the names of weights when they are saved and loaded.

A wrapper adds its name before those of the wrapped model, and weights under unexpected names would be
left out silently.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of torch's DistributedDataParallel and torch.compile."""


def without_wrappers(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights under the names that they have in the model without its wrappers."""
    return {_plain(name): value for name, value in weights.items()}


def names_that_differ(found: Collection[str], expected: Collection[str]) -> str | None:
    """Return how the names of weights differ from the expected names, with examples; None if they agree.

    Args:
        found: Names of the given weights.
        expected: Names of the model's weights.
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
