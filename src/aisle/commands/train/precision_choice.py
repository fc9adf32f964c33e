"""Choose the compute type of a run: from its settings, from its launch, or bf16 on a GPU that computes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from aisle.commands.train.launch_command import is_accelerate, option_of
from aisle.commands.train.settings import TrainSettings
from aisle.training.accelerator import launch_configuration

CHOSEN = (
    "nothing names a compute type, so the run computes in bf16, as this GPU does; --mixed_precision no "
    "computes in float32"
)


def with_precision(settings: TrainSettings, *, launched: str | None, computes_bf16: bool) -> TrainSettings:
    """Return the settings, with bf16 if neither they nor the launch name a compute type and the GPU has bf16.

    Args:
        settings: Settings of the run.
        launched: Compute type that the launch names, see `launched_precision`.
        computes_bf16: Whether the run's GPU computes bf16; False on a CPU.
    """
    optim = settings.optim
    if optim.mixed_precision is not None or launched is not None or not computes_bf16:
        return settings
    return replace(settings, optim=replace(optim, mixed_precision="bf16"))


def launched_precision(words: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return the compute type that the launch names, or None if it leaves the choice open.

    `accelerate launch` sets the variable to `no` even if neither its flags nor its configuration name a type.

    Args:
        words: Command line that started the run.
        environment: Environment of this process.
    """
    given = environment.get("ACCELERATE_MIXED_PRECISION", "").strip().lower() or None
    if given != "no" or not is_accelerate(words) or option_of(words, "mixed_precision") is not None:
        return given
    configuration = launch_configuration(option_of(words, "config_file"))
    return None if configuration.get("mixed_precision") is None else given
