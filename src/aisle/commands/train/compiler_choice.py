"""Choose the compiler of a run: from its settings, or from `accelerate launch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from aisle.commands.train.settings import TrainSettings
from aisle.errors import ConfigError
from aisle.kernels.compiled_layers import compilers
from aisle.training.accelerator import launched_compiler


def with_compiler(settings: TrainSettings, *, log: Callable[[str], None]) -> TrainSettings:
    """Return the settings, with the compiler of `accelerate launch` if one is set there.

    Raises:
        ConfigError: torch has no compiler of that name.
    """
    optim, launched = settings.optim, launched_compiler()
    if launched is not None:
        optim = replace(optim, torch_compile=True, torch_compile_backend=launched)
        log(
            f"accelerate launch sets the dynamo backend {launched}: layers are compiled one by one, as "
            f"with --torch_compile --torch_compile_backend {launched}"
        )
    if optim.torch_compile and optim.torch_compile_backend not in (known := compilers()):
        raise ConfigError(
            f"--torch_compile_backend {optim.torch_compile_backend}: torch has {', '.join(known)}"
        )
    return replace(settings, optim=optim)
