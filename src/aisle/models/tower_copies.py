"""The tower that embeds a side in a number type: the model's tower, or a copy that is made once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch

from aisle.kernels.triton_support import why_no_triton
from aisle.models.bi_encoder import BiEncoder
from aisle.models.half_precision import half_copy, weights_version
from aisle.models.tower import Tower
from aisle.text.tokens import Side
from aisle.types.encoder_protocol import Precision

__all__ = ["TowerCopies"]

Made = TypeVar("Made")

# All models share the locks: an encoder with its own lock could not be copied or sent to a process.
_MAKING, _PASSING = threading.Lock(), threading.Lock()


class TowerCopies:
    """Towers of a model in each number type, made on first use; any number of threads may share them.

    Args:
        model: Query tower and product tower in float32, on their device.
        max_lengths: Maximum length of a text of each side, in tokens.
    """

    def __init__(self, model: BiEncoder, *, max_lengths: Mapping[Side, int]) -> None:
        self._model = model
        self._max_lengths = max_lengths
        self._made: dict[str, Any] = {}

    def tower(self, side: Side, precision: Precision) -> Tower:
        """Return the tower that computes a side's embeddings in a number type."""
        return self._half_copy(side)[0] if self._computes_half(precision) else self._model.tower(side)

    def turn(self, side: Side) -> AbstractContextManager[object]:
        """Return the lock for a forward pass if the tower changes its state in it, else no lock."""
        return _PASSING if self._model.tower(side).changes_itself else nullcontext()

    def why_padded(self, side: Side, precision: Precision) -> str | None:
        """Return why texts of a side are padded; None if they are packed. Each compute type is tried once."""
        compute_type = torch.bfloat16 if precision == "bf16" else torch.float32

        def check() -> str | None:
            with self.turn(side):
                return self._model.tower(side).why_padded(compute_type, max_length=self._max_lengths[side])

        return self.once(f"why padded {self._name(side)} {compute_type}", check)

    def why_autocast(self, side: Side, precision: Precision) -> str | None:
        """Return why a GPU computes a side in bf16 by autocast, which is slower; None if it does not."""
        return self._half_copy(side)[1] if self._computes_half(precision) else None

    def why_no_kernels(self, precision: Precision) -> str | None:
        """Return why a GPU in bf16 computes without aisle's Triton kernels; None if it uses them."""
        return why_no_triton(self._device, torch.bfloat16) if self._computes_half(precision) else None

    def once(self, name: str, make: Callable[[], Made], *, version: int = 0) -> Made:
        """Return the cached result of `make` under a name; the first call, in any thread, makes it.

        A call with another version makes it again.
        """
        if self._made.get(name, (None,))[0] != version:
            with _MAKING:
                if self._made.get(name, (None,))[0] != version:
                    self._made[name] = (version, make())
        made: Made = self._made[name][1]
        return made

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _computes_half(self, precision: Precision) -> bool:
        return precision == "bf16" and self._device.type == "cuda"

    def _half_copy(self, side: Side) -> tuple[Tower, str | None]:
        """Return a side's tower in bf16 without autocast; else the tower itself with the reason."""
        tower = self._model.tower(side)

        def make() -> tuple[Tower, str | None]:
            with self.turn(side):  # the copy is compared with the tower
                return half_copy(tower, torch.bfloat16)

        version = weights_version(tower)  # the weights may change later
        return self.once(f"bf16 {self._name(side)}", make, version=version)

    def _name(self, side: Side) -> str:
        return side if self._model.separate_sides else "shared"
