"""The `Accelerator` of a run, and its experiment trackers."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.commands.config.config_args import default_config_file
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DynamoBackend, TorchDynamoPlugin
from accelerate.utils import set_seed as _set_seed

from aisle.errors import ConfigError, OptionalDependencyError
from aisle.training.process_group import check_count, must_use_cpu

PROJECT = "aisle"
TRACKER_PACKAGES = {
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "comet_ml": "comet_ml",
    "clearml": "clearml",
    "mlflow": "mlflow",
    "aim": "aim",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
    "trackio": "trackio",
}
IN_TRACK_EXTRA = ("wandb", "tensorboard")
ADVICE = "Log in to it first, choose another with --report_to, or set WANDB_MODE=offline"
"""Advice for the user when a tracker cannot be started."""


def make_accelerator(*, mixed_precision: str | None, report_to: str | None, project_dir: Path) -> Accelerator:
    """Return the `Accelerator` for the launch environment and the settings.

    It does not accumulate gradients: the training step does, and weights each batch by its pairs.

    Args:
        mixed_precision: Compute type; None takes the setting of `accelerate launch`.
        report_to: Names of trackers, separated by commas, or `all`; None tracks nothing.
        project_dir: Folder for the trackers' files.

    Raises:
        ConfigError: A tracker is unknown, the device does not support the compute type, or the launched
            processes did not connect.
        OptionalDependencyError: A tracker is not installed.
    """
    trackers = None if report_to is None else tracker_names(report_to)
    try:
        accelerator = Accelerator(
            cpu=must_use_cpu(),
            mixed_precision=mixed_precision,
            log_with=trackers,
            project_dir=str(project_dir),
            dynamo_backend="no",  # kernels.compiled_layers compiles layer by layer, before `prepare`
        )
    except ValueError as error:
        raise ConfigError(f"--mixed_precision {mixed_precision}: {error}") from None
    check_count(accelerator.num_processes)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("--mixed_precision fp16: needs a GPU, and this machine has no GPU; use bf16 or no")
    return accelerator


@contextmanager
def separate_state() -> Iterator[None]:
    """Reset Accelerate's state after the block, so that this process can train again.

    Accelerate keeps the device, the compute type and the process group until the process ends, and would
    refuse a second run with another compute type. State from before the block stays.
    """
    kinds = (AcceleratorState, GradientState, PartialState)
    fresh = [kind for kind in kinds if not kind._shared_state]
    try:
        yield
    finally:
        for kind in fresh:
            kind._reset_state()


def expect_unused_weights(accelerator: Accelerator) -> None:
    """Make DDP accept trained weights without a gradient; call before `prepare`.

    Otherwise DDP waits for the missing gradients, and raises an error in the next step.
    """
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)


def launched_compiler() -> str | None:
    """Return the compiler that `accelerate launch` was given, by flag or configuration file, or None.

    Raises:
        ConfigError: Accelerate has no compiler of that name.
    """
    try:
        backend = TorchDynamoPlugin().backend
    except ValueError as error:
        raise ConfigError(f"--dynamo_backend of accelerate launch: {error}") from None
    return None if backend == DynamoBackend.NO else str(backend.value).lower()


def launch_configuration(file: str | None) -> Mapping[str, Any]:
    """Return the configuration that `accelerate launch` reads, empty if there is none.

    Args:
        file: Value of its `--config_file`; None means the file that `accelerate config` writes.
    """
    path = Path(file or default_config_file)
    read = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return read if isinstance(read, Mapping) else {}


def gpu_computes_bf16() -> bool:
    """Return whether a run in this process uses a GPU that computes bf16; older GPUs only emulate it."""
    if must_use_cpu() or not torch.cuda.is_available():
        return False
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def open_trackers(accelerator: Accelerator, settings: Mapping[str, Any]) -> None:
    """Open the trackers with the run's settings, which contain no secrets.

    Raises:
        Exception: A tracker cannot be started: no key, no server, no network; the type differs.
    """
    plain = {
        name: value if isinstance(value, int | float | str | bool) else str(value)
        for name, value in settings.items()
    }
    project_dir = str(accelerator.project_dir)
    Path(project_dir).mkdir(parents=True, exist_ok=True)
    accelerator.init_trackers(PROJECT, plain, init_kwargs={"wandb": {"dir": project_dir}})


def start_trackers(accelerator: Accelerator, settings: Mapping[str, Any]) -> None:
    """Open the trackers of a training run.

    Raises:
        ConfigError: A tracker cannot be started.
    """
    try:
        open_trackers(accelerator, settings)
    except Exception as error:
        raise ConfigError(f"--with_tracking: a tracker cannot be started: {error}. {ADVICE}") from None


def set_seed(seed: int, *, device_specific: bool = False) -> None:
    """Seed every random number generator; with `device_specific` each rank gets a different seed."""
    _set_seed(seed, device_specific=device_specific)


def tracker_names(report_to: str) -> list[str]:
    """Return the trackers of `--report_to`; `all` means every installed tracker.

    Raises:
        ConfigError: A tracker is unknown or not installed, or the value is empty.
        OptionalDependencyError: A tracker of the extra `track` is not installed.
    """
    names = [name.strip() for name in report_to.split(",") if name.strip()]
    if not names:
        raise ConfigError("--report_to: is empty; name a tracker, or leave the flag out")
    if "all" in names:
        return [name for name, package in TRACKER_PACKAGES.items() if importlib.util.find_spec(package)]
    for name in names:
        if name not in TRACKER_PACKAGES:
            known = ", ".join(TRACKER_PACKAGES)
            raise ConfigError(
                f"--report_to {report_to}: there is no tracker {name!r}; there are {known}, all"
            )
        if importlib.util.find_spec(TRACKER_PACKAGES[name]) is None:
            if name in IN_TRACK_EXTRA:
                raise OptionalDependencyError(name, extra="track")
            raise ConfigError(f"--report_to {report_to}: {name} is not installed; pip install {name}")
    return names
