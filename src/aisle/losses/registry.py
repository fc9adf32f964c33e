"""Registry of the losses that `--loss` accepts, by name."""

from __future__ import annotations

import inspect
from dataclasses import MISSING, fields
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from aisle import losses
from aisle.losses.specification import Loss, Reads

_REGISTERED: dict[tuple[Reads, str], Loss] = {}


def register(loss: Loss) -> None:
    """Register a loss. Its name becomes a value of `--loss`, and its parameters become flags.

    The constant `LOSS` of each module of this package is registered without a call.

    Raises:
        ValueError: The name is taken; the function does not take the inputs and parameters that the loss
            declares; the inputs and the unit do not match; a parameter has no default; or another loss has a
            parameter of the same name from another class.
    """
    known = {one.name: one for one in registered_losses(loss.reads)}
    if loss.name in known:
        raise ValueError(f"loss {loss.name!r}: the name is taken; choose another")
    _check(loss)
    for other in known.values():
        _check_shared_parameters(loss, other)
    _REGISTERED[loss.reads, loss.name] = loss


def unregister(name: str, reads: Reads = "embeddings") -> None:
    """Remove a loss that `register` added."""
    del _REGISTERED[reads, name]


def registered_losses(reads: Reads = "embeddings") -> tuple[Loss, ...]:
    """Return the losses of encoders or of cross-encoders, starting with those of this package."""
    return tuple(loss for loss in (*_own_losses(), *_REGISTERED.values()) if loss.reads == reads)


def find_loss(name: str, reads: Reads = "embeddings") -> Loss | None:
    """Return a loss by its name, the value of `--loss`, or None if no loss has that name."""
    return next((loss for loss in registered_losses(reads) if loss.name == name), None)


def loss_named(name: str, reads: Reads = "embeddings") -> Loss:
    """Return a loss by its name, the value of `--loss`.

    Raises:
        KeyError: No loss has that name.
    """
    loss = find_loss(name, reads)
    if loss is None:
        raise KeyError(name)
    return loss


@cache
def _own_losses() -> tuple[Loss, ...]:
    """Return the constant `LOSS` of each module of this package that defines it."""
    modules = [import_module(f"{losses.__name__}.{found.name}") for found in iter_modules(losses.__path__)]
    found = [module.LOSS for module in modules if hasattr(module, "LOSS")]
    for loss in found:
        _check(loss)
    return tuple(found)


def _check(loss: Loss) -> None:
    """Refuse a loss if its function does not match its inputs and parameters."""
    required = [f.name for f in fields(loss.parameters) if f.default is f.default_factory is MISSING]
    if required:
        raise ValueError(f"loss {loss.name!r}: parameter {required[0]} must have a default")
    given = {*loss.inputs, *loss.arguments(loss.parameters())}
    outputs = 2 if loss.reads == "embeddings" else 1
    taken = set(list(inspect.signature(loss.function).parameters)[outputs:])
    if given != taken:
        raise ValueError(
            f"loss {loss.name!r}: its inputs and parameters are {sorted(given)}, but its function takes "
            f"{sorted(taken)} after the {loss.reads}; make them the same"
        )
    if loss.contrasts and loss.reads == "scores":
        raise ValueError(
            f"loss {loss.name!r}: its inputs are {sorted(loss.inputs)}; a cross-encoder has a score for each "
            "pair of its batch, and none for other pairs"
        )
    if loss.contrasts and len(loss.inputs) > 1:
        raise ValueError(
            f"loss {loss.name!r}: its inputs are {sorted(loss.inputs)}; anchors, triples, positive_sets "
            "or scored_lists must be the only input"
        )
    if loss.contrasts and ("positive_sets" in loss.inputs) != (loss.unit == "query"):
        raise ValueError(
            f"loss {loss.name!r}: its inputs are {sorted(loss.inputs)} and its unit is {loss.unit!r}; a loss "
            "that takes positive_sets must have the unit 'query', and no loss that takes anchors may have it"
        )
    if loss.takes_lists != (loss.unit == "list"):
        raise ValueError(
            f"loss {loss.name!r}: its inputs are {sorted(loss.inputs)} and its unit is {loss.unit!r}; a loss "
            "that takes scored_lists must have the unit 'list', and no other loss may have it"
        )
    if loss.needs_hard_negatives != (loss.unit == "triple"):
        raise ValueError(
            f"loss {loss.name!r}: its inputs are {sorted(loss.inputs)} and its unit is {loss.unit!r}; a loss "
            "that takes triples must have the unit 'triple', and no other loss may have it"
        )


def _check_shared_parameters(loss: Loss, other: Loss) -> None:
    """Refuse a parameter that another loss has too, unless both inherit it from the same class."""
    homes = [
        {name: home for home in reversed(one.parameters.__mro__) for name in inspect.get_annotations(home)}
        for one in (loss, other)
    ]
    for name in sorted(homes[0].keys() & homes[1].keys()):
        if homes[0][name] is not homes[1][name]:
            raise ValueError(
                f"loss {loss.name!r}: {other.name!r} has a parameter {name} too; inherit it from "
                f"{homes[1][name].__name__}, or choose another name"
            )
