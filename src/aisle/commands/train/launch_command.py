"""The command line that started a program, including its launcher, ready to paste into a shell."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from aisle.config.secrets import SECRET_FIELDS

LAUNCHERS = ("accelerate", "accelerate-launch", "torchrun")
LAUNCHER_MODULES = (
    "accelerate.commands.accelerate_cli",
    "accelerate.commands.launch",
    "torch.distributed.run",
)
CHOOSES_THE_MACHINE = (
    *("ACCELERATE_USE_CPU", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"),
    *("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "WANDB_MODE"),
)
"""Variables that a resumed run needs with the same values; they never contain secrets."""


def started_as() -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of the launcher, or of this process without a launcher.

    A launcher is found in /proc, as the parent process.
    """
    parent = Path(f"/proc/{os.getppid()}")
    try:
        words, environment = _strings(parent / "cmdline"), _strings(parent / "environ")
    except OSError:
        words, environment = [], []
    if _launcher(words) is None:
        words = list(sys.orig_argv)
        try:
            environment = _strings(Path("/proc/self/environ"))
        except OSError:
            environment = [f"{name}={value}" for name, value in os.environ.items()]
    return words, dict(entry.split("=", 1) for entry in environment if "=" in entry)


def _strings(path: Path) -> list[str]:
    return [os.fsdecode(part) for part in path.read_bytes().split(b"\0")[:-1]]


def _launcher(words: Sequence[str]) -> str | None:
    """Return the launcher in a command line, or None."""
    if words[1:2] == ["-m"] and words[2:3] and words[2] in LAUNCHER_MODULES:
        return words[2]
    return next((name for word in words[:2] if (name := Path(word).name) in LAUNCHERS), None)


def is_accelerate(words: Sequence[str]) -> bool:
    """Return whether a command line is that of `accelerate launch`."""
    return "accelerate" in (_launcher(words) or "")


def option_of(words: Sequence[str], name: str) -> str | None:
    """Return the value of a flag in a command line, or None if it is not given.

    Args:
        words: The command line.
        name: Name of the flag, with underscores and without the leading hyphens.
    """
    for word, following in zip(words, [*words[1:], ""], strict=True):
        flag, given, value = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            return value if given else following
    return None


def resume_command(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the command line that resumes a run, ready to paste into a shell.

    A Hub token is left out, because tokens are never printed.

    Args:
        words: Command line that started the run, beginning with the interpreter.
        environment: Environment variables of that command.
    """
    kept, skip = [], False
    for word in _called_by_name(words):
        name, given, _ = word.replace("-", "_").partition("=")
        if skip:
            skip = False
        elif name == "__resume_from_checkpoint" or name.removeprefix("__") in SECRET_FIELDS:
            skip = not given
        elif name != "__overwrite_output_dir":
            kept.append(word)
    variables = [
        f"{name}={shlex.quote(environment[name])}" for name in CHOOSES_THE_MACHINE if name in environment
    ]
    return " ".join([*variables, shlex.join([*kept, "--resume_from_checkpoint", "latest"])])


def _called_by_name(words: Sequence[str]) -> list[str]:
    """Return a command line without the interpreter, if the program is executable."""
    interpreter, *rest = words
    if rest and not rest[0].startswith("-") and os.path.isabs(rest[0]) and os.access(rest[0], os.X_OK):
        return [_shortest(rest[0]), *rest[1:]]
    return [_shortest(interpreter), *rest]


def _shortest(program: str) -> str:
    """Return a program's name if the shell finds the same program by it, otherwise its path."""
    found = shutil.which(Path(program).name)
    same = found is not None and os.path.abspath(found) == os.path.abspath(program)
    return Path(program).name if same else program
