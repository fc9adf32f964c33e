"""Parameters of losses: each field is a flag of `train_peft.py` and a keyword of the loss function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

LOWEST_TEMPERATURE = 0.01
"""Lower limit on learned temperatures, as in CLIP (https://arxiv.org/abs/2103.00020, section 2.5)."""
USUAL_TEMPERATURES = (0.005, 1.0)
"""Usual range; published models use .01 to .1. Softmax is nearly one-hot below it, nearly flat above it."""
TRAINING_ONLY = frozenset({"learn_temperature"})
"""Parameters for the training loop, which are not passed to the loss function."""


@dataclass(frozen=True)
class Parameters:
    """Parameters of a loss: a base class without fields.

    A subclass adds fields. Losses that share a field inherit it from the same class, and so share its flag.
    """

    def problems(self) -> Iterator[str]:
        """Yield a message for each value that the loss cannot work with."""
        yield from ()

    def warnings(self) -> Iterator[str]:
        """Yield a message for each value that is likely to be a mistake."""
        yield from ()


@dataclass(frozen=True)
class Temperature(Parameters):
    """Temperature of a loss over scaled cosines, fixed or learned."""

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.05
    """Cosines are divided by it, in losses that have a temperature: 0.05 is the scale 20 of other libraries.
    Lower makes the nearest negatives count more."""
    learn_temperature: bool = False
    """Train the temperature with the model, starting at --temperature."""

    def problems(self) -> Iterator[str]:
        """Yield a message if a learned temperature starts below the lower limit."""
        if self.learn_temperature and self.temperature < LOWEST_TEMPERATURE:
            yield (
                f"--temperature {self.temperature:g}: must be at least {LOWEST_TEMPERATURE} with "
                "--learn_temperature"
            )

    def warnings(self) -> Iterator[str]:
        """Yield a message if the temperature is far from those of published models."""
        low, high = USUAL_TEMPERATURES
        if low <= self.temperature <= high:
            return
        effect = (
            "only the hardest negative of a pair counts" if self.temperature < low else "all scores are alike"
        )
        yield (
            f"--temperature {self.temperature:g}: is outside {low:g} to {high:g}, so that {effect}; "
            "most models are trained with .01 to .1"
        )
