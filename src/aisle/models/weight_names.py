"""Check the names of weights when they are saved and loaded.

A wrapper puts a prefix before the wrapped model's names, and weights with unexpected names would be skipped
silently.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of torch's DistributedDataParallel and torch.compile."""


def without_wrappers(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with their names in the unwrapped model."""
    return {_plain(name): value for name, value in weights.items()}


def names_that_differ(found: Collection[str], expected: Collection[str]) -> str | None:
    """Describe how names of weights differ from the expected names, with examples; None if they agree.

    Args:
        found: Names of the weights found.
        expected: Names of the model's weights.
    """
    kinds = (
        ("missing", sorted(set(expected) - set(found))),
        ("unknown", sorted(set(found) - set(expected))),
    )
    differences = [f"{len(names)} {kind} ({names[0]} for example)" for kind, names in kinds if names]
    if not differences:
        return None
    return f"the names of its weights do not match those of the model: {' and '.join(differences)}"


def _plain(name: str) -> str:
    for prefix in WRAPPERS:
        if name.startswith(prefix):
            return _plain(name.removeprefix(prefix))
    return name
