"""The command line: `aisle COMMAND`, and the two scripts over the same code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from aisle.commands.terminal import printable
from aisle.errors import AisleError, ConfigError, TrainingStopped
from aisle.extras import require_extra
from aisle.system.processors import limit_spinning
from aisle.version import __version__


@dataclass(frozen=True)
class Command:
    """A command by the names of its parts: nothing heavy is imported before it runs.

    Args:
        settings: module and dataclass of its settings.
        action: module and function that takes them.
        check: module and function that returns what is wrong with a combination of settings.
        inputs: module and function that raises where a file or folder that they name is not there.
        extra: extra of the distribution that it always needs, see `extras`.
    """

    settings: str
    action: str
    check: str | None = None
    inputs: str | None = None
    extra: str | None = None


SECRET_FLAGS = ("hub_token",)
TRAIN = Command(
    "aisle.commands.train.settings:TrainSettings",
    "aisle.commands.train.run:train_and_push",
    check="aisle.commands.train.settings:problems_of",
    inputs="aisle.commands.inputs:train_inputs",
    extra="train",
)
INDEX_COMMANDS = {
    "build": Command(
        "aisle.commands.index_settings:BuildSettings",
        "aisle.commands.indexing.build:build",
        check="aisle.commands.index_problems:build_problems",
        inputs="aisle.commands.inputs:build_inputs",
        extra="encode",
    ),
    "query": Command("aisle.commands.index_settings:QuerySettings", "aisle.commands.query:query"),
    "evaluate": Command(
        "aisle.commands.index_settings:EvaluateSettings",
        "aisle.commands.evaluate.run:evaluate",
        check="aisle.commands.index_problems:evaluation_problems",
        inputs="aisle.commands.inputs:evaluate_inputs",
        extra="eval",
    ),
    "upsert": Command(
        "aisle.commands.maintain_settings:UpsertSettings",
        "aisle.commands.indexing.upsert:upsert",
        inputs="aisle.commands.inputs:upsert_inputs",
        extra="encode",
    ),
    "delete": Command(
        "aisle.commands.maintain_settings:DeleteSettings", "aisle.commands.indexing.maintain:delete"
    ),
    "compact": Command(
        "aisle.commands.maintain_settings:CompactSettings", "aisle.commands.indexing.maintain:compact"
    ),
    "tune": Command("aisle.commands.maintain_settings:TuneSettings", "aisle.commands.indexing.maintain:tune"),
    "versions": Command(
        "aisle.commands.maintain_settings:VersionsSettings", "aisle.commands.indexing.inspect:versions"
    ),
    "rollback": Command(
        "aisle.commands.maintain_settings:RollbackSettings", "aisle.commands.indexing.maintain:roll_back"
    ),
    "info": Command("aisle.commands.maintain_settings:InfoSettings", "aisle.commands.indexing.inspect:info"),
    "verify": Command(
        "aisle.commands.maintain_settings:VerifySettings", "aisle.commands.indexing.inspect:verify"
    ),
}
COMMANDS = {
    "train": TRAIN,
    **INDEX_COMMANDS,
    "sample": Command("aisle.commands.tool_settings:SampleSettings", "aisle.commands.sample:sample"),
    "quickstart": Command(
        "aisle.commands.tool_settings:QuickstartSettings",
        "aisle.commands.quickstart:quickstart",
        extra="quickstart",
    ),
    "average": Command(
        "aisle.commands.tool_settings:AverageSettings",
        "aisle.commands.average:average",
        check="aisle.commands.tool_settings:average_problems",
        inputs="aisle.commands.inputs:average_inputs",
        extra="encode",
    ),
    "push": Command("aisle.commands.tool_settings:PushSettings", "aisle.commands.push:push", extra="encode"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `aisle COMMAND ...` and return the exit code."""
    given = _given(arguments)
    if given[:1] == ["--version"]:
        sys.stdout.write(f"aisle {__version__}\n")
        return 0
    return _dispatch("aisle", COMMANDS, given, _MAIN_HELP)


def train_main(arguments: Sequence[str] | None = None) -> int:
    """Run `train_peft.py ...` and return the exit code."""
    return _guarded(lambda: _run(TRAIN, _given(arguments), "train_peft.py"))


def index_main(arguments: Sequence[str] | None = None) -> int:
    """Run `infer_index.py COMMAND ...` and return the exit code."""
    return _dispatch("infer_index.py", INDEX_COMMANDS, _given(arguments), _INDEX_HELP)


def _given(arguments: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if arguments is None else arguments)


def _dispatch(prog: str, commands: Mapping[str, Command], given: Sequence[str], help_text: str) -> int:
    if not given or given[0] in {"-h", "--help"}:
        (sys.stdout if given else sys.stderr).write(help_text)
        return 0 if given else 2
    name, *rest = given
    if name not in commands:
        sys.stderr.write(f"{prog}: there is no command {name!r}; there are {', '.join(commands)}\n")
        return 2
    return _guarded(lambda: _run(commands[name], rest, f"{prog} {name}"))


def _run(command: Command, arguments: Sequence[str], prog: str) -> None:
    limit_spinning()
    from aisle.config.load import parse_settings

    settings = parse_settings(_named(command.settings), arguments, prog=prog)
    _forget_secrets(sys.argv)
    problems = _named(command.check)(settings) if command.check else []
    if problems:
        raise ConfigError("\n".join(problems))
    if command.extra:
        require_extra(command.extra)
    if command.inputs:
        _named(command.inputs)(settings)
    _named(command.action)(settings)


def _forget_secrets(argv: list[str]) -> None:
    """Blank the token in the process's own copy of the command line, which wandb saves with a run."""
    for at, argument in enumerate(argv):
        name, given, _ = argument.partition("=")
        if name.lstrip("-").replace("-", "_") in SECRET_FLAGS:
            if given:
                argv[at] = f"{name}=***"
            elif at + 1 < len(argv):
                argv[at + 1] = "***"


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _guarded(action: Callable[[], None]) -> int:
    """Run a command: a user's mistake is one message and 2, never a traceback."""
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
        # The reader of our output is gone (`| head`); what it wanted, it has. Python would complain at exit.
        sys.stderr.close()
        return 0
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}:
            raise
        sys.stderr.write(f"error: the machine refuses to read or write a file: {printable(str(error))}\n")
        return 2
    return 0


_KEEPING_HELP = """\
  upsert     add products to an index, and replace changed ones
  delete     remove products from an index
  compact    build the graph anew after many changes
  tune       measure recall again and set ef_search

  versions   list the versions of an index
  rollback   make an older version the current one
  info       show what an index is
  verify     check its files, counts and recall
"""

_INDEX_HELP = f"""usage: infer_index.py COMMAND [OPTIONS]

  build      embed a catalogue and write its index
  query      answer queries from an index
  evaluate   measure an index against judgements

{_KEEPING_HELP}
infer_index.py COMMAND --help lists the options of a command.
"""

_MAIN_HELP = f"""usage: aisle COMMAND [OPTIONS]

  train      fine-tune an embedding model on judged pairs (train_peft.py)
  build      embed a catalogue and write its index        (infer_index.py build)
  query      answer queries from an index                 (infer_index.py query)
  evaluate   measure an index against judgements          (infer_index.py evaluate)

{_KEEPING_HELP}
  sample     write a synthetic catalogue with judged queries
  quickstart train on that catalogue, index it, compare    (make quickstart)
  average    average the weights of several runs into one model
  push       upload a finished run to the Hub

aisle COMMAND --help lists the options of a command; aisle --version prints the version.
"""

if __name__ == "__main__":
    sys.exit(main())
