"""The accelerator of a run, and the experiment trackers behind it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
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
"""What to do where a tracker does not start."""


def make_accelerator(*, mixed_precision: str | None, report_to: str | None, project_dir: Path) -> Accelerator:
    """Return the accelerator that the launch environment and the settings ask for.

    Accumulation is the training loop's: it weighs batches by their pairs, which Accelerate's does not.

    Args:
        mixed_precision: compute type; None takes that of `accelerate launch`.
        report_to: trackers with commas, or `all`; None tracks nothing.
        project_dir: where trackers write.

    Raises:
        ConfigError: a tracker is unknown, the device has no such compute type, or the processes that were
            launched do not find each other.
        OptionalDependencyError: a tracker is not installed.
    """
    trackers = None if report_to is None else tracker_names(report_to)
    try:
        accelerator = Accelerator(
            cpu=must_use_cpu(),
            mixed_precision=mixed_precision,
            log_with=trackers,
            project_dir=str(project_dir),
            dynamo_backend="no",  # layers are compiled one by one, before they are prepared
        )
    except ValueError as error:
        raise ConfigError(f"--mixed_precision {mixed_precision}: {error}") from None
    check_count(accelerator.num_processes)
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("--mixed_precision fp16: needs a GPU, and there is none; use bf16 or no")
    return accelerator


@contextmanager
def separate_state() -> Iterator[None]:
    """Forget Accelerate's state of this process at the end of the block, so that it can train again.

    Accelerate keeps device, compute type and processes for the whole process; a second run with another
    compute type would be refused. State that was there before the block stays.
    """
    kinds = (AcceleratorState, GradientState, PartialState)
    fresh = [kind for kind in kinds if not kind._shared_state]
    try:
        yield
    finally:
        for kind in fresh:
            kind._reset_state()


def expect_unused_weights(accelerator: Accelerator) -> None:
    """Let processes sum the gradients of all weights though some have none; call before `prepare`.

    Without it each waits, in the next step, for gradients that never come, and stops.
    """
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)


def launched_compiler() -> str | None:
    """Return the compiler that `accelerate launch --dynamo_backend`, or its configuration, asks for.

    Raises:
        ConfigError: Accelerate knows none of that name.
    """
    try:
        backend = TorchDynamoPlugin().backend
    except ValueError as error:
        raise ConfigError(f"--dynamo_backend of accelerate launch: {error}") from None
    return None if backend == DynamoBackend.NO else str(backend.value).lower()


def open_trackers(accelerator: Accelerator, settings: Mapping[str, Any]) -> None:
    """Open the trackers and give them the run's settings; secrets are not among those.

    Raises:
        Exception: a tracker cannot be started; each has errors of its own: no key, no server, no network.
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
        ConfigError: a tracker cannot be started.
    """
    try:
        open_trackers(accelerator, settings)
    except Exception as error:
        raise ConfigError(f"--with_tracking: a tracker cannot be started: {error}. {ADVICE}") from None


def set_seed(seed: int, *, device_specific: bool = False) -> None:
    """Seed every random number generator; with `device_specific` each process gets a seed of its own."""
    _set_seed(seed, device_specific=device_specific)


def tracker_names(report_to: str) -> list[str]:
    """Return the trackers that `--report_to` names; `all` is those that are installed.

    Raises:
        ConfigError: one is unknown or not installed, or none is named.
        OptionalDependencyError: one that the extra `track` brings is not installed.
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
