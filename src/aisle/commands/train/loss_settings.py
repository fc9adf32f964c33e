"""The settings of the loss: `--loss`, and a flag for each parameter of a registered loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields, make_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from tyro.conf import arg

from aisle.commands.shared_settings import Count
from aisle.config.annotations import Help
from aisle.errors import ConfigError
from aisle.losses.parameters import Parameters, Temperature
from aisle.losses.registry import loss_named, registered_losses
from aisle.losses.specification import Loss, Reads

_Parameters = TypeVar("_Parameters", bound=Parameters)
AUTO = "auto"
"""Value of --loss that chooses a loss from the labels, before anything reads it."""
FOR_ALL_LOSSES = frozenset({"loss", "matryoshka_dims"})
"""Settings that every loss reads."""


@dataclass(frozen=True)
class LossSettings:
    """The loss and its parameters. `loss_settings()` returns this class with a field for each parameter."""

    reads: ClassVar[Reads] = "embeddings"

    loss: str | None = None
    """The loss."""
    matryoshka_dims: tuple[Count, ...] | None = None
    """Train the leading components of each embedding too (Matryoshka): the loss is the mean of the losses of
    these prefixes, rescaled to unit norm. Then `aisle build --dimensions` keeps as many. Example:
    --matryoshka_dims 384 256 128 64."""


@dataclass(frozen=True)
class ScoreLossSettings(LossSettings):
    """The loss of a cross-encoder and its parameters; a score has no leading components to train."""

    reads: ClassVar[Reads] = "scores"

    matryoshka_dims: tuple[Count, ...] | None = field(init=False, default=None)


def loss_settings(reads: Reads = "embeddings") -> type[LossSettings]:
    """Return `LossSettings` with the names of the registered losses and a field for each parameter.

    Args:
        reads: Whether the losses are those of encoders or of cross-encoders.
    """
    kind = LossSettings if reads == "embeddings" else ScoreLossSettings
    other: Reads = "scores" if reads == "embeddings" else "embeddings"
    return _made_for(kind, registered_losses(reads), tuple(loss.name for loss in registered_losses(other)))


@cache
def _made_for(
    kind: type[LossSettings], losses: tuple[Loss, ...], of_others: tuple[str, ...]
) -> type[LossSettings]:
    """Return the settings; names of the other kind's losses are read too, and refused in `loss_problems`."""
    own = (*([AUTO] if kind.reads == "embeddings" else []), *(loss.name for loss in losses))
    names = (*own, *(name for name in of_others if name not in own))
    help_text = Help(_loss_help(losses, auto=AUTO in own))
    made: type[LossSettings] = make_dataclass(
        LossSettings.__name__,
        [("loss", Annotated[Literal[names] | None, help_text, _shown(own)], None)],
        bases=(*_most_derived(loss.parameters for loss in losses), kind),
        frozen=True,
        namespace={"__module__": __name__, "__doc__": "The loss and its parameters."},
    )
    return made


def _shown(names: tuple[str, ...]) -> Any:
    """Return the mark with which the help lists these names only."""
    return arg(metavar=f"{{None,{','.join(names)}}}")


def _loss_help(losses: tuple[Loss, ...], *, auto: bool) -> str:
    does = "; ".join(f"{loss.full_name} {loss.help}" for loss in losses)
    default = {loss.default_for: loss.name for loss in losses}
    without = f" with labels, {default['unlabelled']} without" if "unlabelled" in default else ""
    chosen = (
        " auto chooses it from the labels, and with --use_peft rank and learning rate too;" if auto else ""
    )
    return f"The loss.{chosen} {does}. If not given: {default['labelled']}{without}."


def _most_derived(kinds: Iterator[type[Parameters]]) -> tuple[type[Parameters], ...]:
    """Return the classes that no other class inherits from, so that a class can inherit from all of them."""
    distinct = list(dict.fromkeys(kinds))
    inherited = {parent for kind in distinct for parent in kind.__mro__[1:]}
    return tuple(kind for kind in distinct if kind not in inherited)


def parameters_in(settings: LossSettings, kind: type[_Parameters]) -> _Parameters:
    """Return the parameters of class `kind`, with the values of the settings."""
    return kind(**{one.name: getattr(settings, one.name) for one in fields(kind)})


def chosen_loss(settings: LossSettings) -> tuple[Loss, Parameters]:
    """Return the loss of the settings and its parameters; call it after `loss` is resolved."""
    assert settings.loss is not None
    loss = loss_named(settings.loss, settings.reads)
    return loss, parameters_in(settings, loss.parameters)


def needs_teacher_scores(settings: LossSettings) -> bool:
    """Return whether the chosen loss needs a teacher's scores; the default losses and auto's do not."""
    if settings.loss in (None, AUTO):
        return False
    return loss_named(str(settings.loss), settings.reads).needs_teacher_scores


def loss_problems(settings: LossSettings) -> list[str]:
    """Return one message for each setting of a loss that cannot work."""
    losses = registered_losses(settings.reads)
    if settings.loss not in (None, AUTO, *(loss.name for loss in losses)):
        return [_other_kind(str(settings.loss), settings.reads, [loss.name for loss in losses])]
    problems = [
        f"--learn_temperature: {loss.name} has no temperature; use another --loss"
        for loss in losses
        if loss.name == settings.loss
        and not issubclass(loss.parameters, Temperature)
        and getattr(settings, "learn_temperature", False)
    ]
    for loss in losses:
        problems += parameters_in(settings, loss.parameters).problems()
    dims = settings.matryoshka_dims or ()
    if len(set(dims)) < len(dims):
        problems.append(f"--matryoshka_dims {' '.join(map(str, dims))}: give each number once")
    return list(dict.fromkeys(problems))


def _other_kind(name: str, reads: Reads, losses: Sequence[str]) -> str:
    """Return the message for a loss of the other kind of model."""
    trains, other = "an encoder", "cross-encoders (aisle train-reranker)"
    if reads == "scores":
        trains, other = "a cross-encoder", "encoders (aisle train)"
    return f"--loss {name}: is a loss of {other}, and this command trains {trains}; use {', '.join(losses)}"


def check_matryoshka(settings: LossSettings, *, dim: int, log: Callable[[str], None]) -> None:
    """Refuse prefixes that are longer than an embedding; log a note if whole embeddings are not trained.

    Args:
        settings: Settings of the loss.
        dim: Number of components of an embedding.
        log: Logs messages for the user.

    Raises:
        ConfigError: A prefix is longer than an embedding.
    """
    dims = settings.matryoshka_dims
    if not dims:
        return
    flag = f"--matryoshka_dims {' '.join(map(str, dims))}"
    if max(dims) > dim:
        raise ConfigError(f"{flag}: the model's embeddings have {dim} components; give at most {dim}")
    if dim not in dims:
        log(
            f"note: {flag}: does not include the model's {dim}, so components from {max(dims)} on are not "
            f"trained; build the index with --dimensions {max(dims)} or another of them"
        )


def unused_parameters(settings: LossSettings) -> list[str]:
    """Return a line for each parameter that was set although the chosen loss does not have it."""
    loss, parameters = chosen_loss(settings)
    own = {one.name for one in fields(parameters)}
    return [
        f"--{one.name} is not used: the {loss.name} loss has none"
        for one in fields(settings)
        if one.name not in {*own, *FOR_ALL_LOSSES} and _is_set(getattr(settings, one.name), one.default)
    ]


def _is_set(value: Any, default: Any) -> bool:
    """Return whether a value differs from the default; the order of several values does not matter."""
    assert default is not MISSING
    if isinstance(value, tuple) and isinstance(default, tuple):
        return set(value) != set(default)
    return bool(value != default)
