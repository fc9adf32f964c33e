"""The command line: `aisle COMMAND`, and the two scripts over the same code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from typing import Any

from aisle.commands.command import Command
from aisle.commands.command_list import COMMANDS, INDEX_COMMANDS, CommandList
from aisle.commands.terminal import printable
from aisle.config.plain_arguments import plain_settings
from aisle.config.secrets import forget_secrets
from aisle.errors import AisleError, TrainingStopped
from aisle.system.processors import limit_spinning
from aisle.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `aisle COMMAND ...` and return the exit code."""
    given = _given(arguments)
    if given[:1] == ["--version"]:
        sys.stdout.write(f"aisle {__version__}\n")
        return 0
    return _dispatch("aisle", COMMANDS, given, _main_help)


def train_main(arguments: Sequence[str] | None = None) -> int:
    """Run `train_peft.py ...` and return the exit code."""
    return _guarded(lambda: _run(COMMANDS["train"], _given(arguments), "train_peft.py"))


def train_reranker_main(arguments: Sequence[str] | None = None) -> int:
    """Run `train_reranker.py ...` and return the exit code."""
    return _guarded(lambda: _run(COMMANDS["train-reranker"], _given(arguments), "train_reranker.py"))


def index_main(arguments: Sequence[str] | None = None) -> int:
    """Run `infer_index.py COMMAND ...` and return the exit code."""
    return _dispatch("infer_index.py", INDEX_COMMANDS, _given(arguments), _index_help)


def _main_help() -> str:
    return f"""usage: aisle COMMAND [OPTIONS]

{_list_of(COMMANDS)}

aisle COMMAND --help lists the options of a command; aisle --version prints the version.
In a checkout, train_peft.py is `aisle train`, train_reranker.py is `aisle train-reranker`, and infer_index.py
runs the commands from build to verify.
"""


def _index_help() -> str:
    return f"""usage: infer_index.py COMMAND [OPTIONS]

{_list_of(INDEX_COMMANDS)}

infer_index.py COMMAND --help lists the options of a command.
"""


def _given(arguments: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if arguments is None else arguments)


def _dispatch(prog: str, commands: CommandList, given: Sequence[str], help_text: Callable[[], str]) -> int:
    if not given or given[0] in {"-h", "--help"}:
        (sys.stdout if given else sys.stderr).write(help_text())
        return 0 if given else 2
    name, *rest = given
    if name not in commands:
        sys.stderr.write(f"{prog}: there is no command {name!r}; there are {', '.join(commands)}\n")
        return 2
    return _guarded(lambda: _run(commands[name], rest, f"{prog} {name}"))


def _run(command: Command[Any], arguments: Sequence[str], prog: str) -> None:
    limit_spinning()
    given = command.arguments(arguments)
    settings = plain_settings(command.settings, given)
    if settings is None:
        from aisle.config.load import parse_settings

        settings = parse_settings(command.settings, given, prog=prog)
    forget_secrets(sys.argv)
    command.check(settings)
    command.run(settings)


def _guarded(action: Callable[[], None]) -> int:
    """Run a command and return its exit code: 2 and a message, without a traceback, for a user's mistake."""
    try:
        action()
    except TrainingStopped as stopped:
        sys.stderr.write(f"{printable(str(stopped))}\n")
        return 130
    except AisleError as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of the output has exited (`| head`). Python would print an error about it at exit.
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}:
            raise
        sys.stderr.write(f"error: the machine refuses to read or write a file: {printable(str(error))}\n")
        return 2
    return 0


def _list_of(commands: CommandList) -> str:
    """Return the lines of the help that list commands, with a blank line between sections."""
    width = max(map(len, commands))
    return "\n\n".join(
        "\n".join(f"  {name:<{width}} {commands[name].summary}" for name in section)
        for section in commands.sections
    )


if __name__ == "__main__":
    sys.exit(main())
