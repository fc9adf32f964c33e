"""The command line: `aisle COMMAND`, and the two scripts over the same code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

from aisle.errors import AisleError

Command = Callable[[Sequence[str], str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `aisle COMMAND ...` and return the exit code."""
    commands = {
        "train": _train,
        "build": _build,
        "query": _query,
        "evaluate": _evaluate,
        "sample": _sample,
        "quickstart": _quickstart,
        "push": _push,
    }
    return _dispatch("aisle", commands, arguments, _MAIN_HELP)


def train_main(arguments: Sequence[str] | None = None) -> int:
    """Run `train_peft.py ...` and return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    return _guarded(lambda: _train(given, "train_peft.py"))


def index_main(arguments: Sequence[str] | None = None) -> int:
    """Run `infer_index.py COMMAND ...` and return the exit code."""
    commands = {"build": _build, "query": _query, "evaluate": _evaluate}
    return _dispatch("infer_index.py", commands, arguments, _INDEX_HELP)


def _dispatch(
    prog: str, commands: Mapping[str, Command], arguments: Sequence[str] | None, help_text: str
) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in {"-h", "--help"}:
        (sys.stdout if given else sys.stderr).write(help_text)
        return 0 if given else 2
    if given[0] == "--version" and prog == "aisle":
        from importlib.metadata import version

        sys.stdout.write(f"aisle {version('aisle')}\n")
        return 0
    command = commands.get(given[0])
    if command is None:
        sys.stderr.write(f"{prog}: there is no command {given[0]!r}; there are {', '.join(commands)}\n")
        return 2
    return _guarded(lambda: command(given[1:], f"{prog} {given[0]}"))


def _guarded(action: Callable[[], None]) -> int:
    """Run a command: a user's mistake is one message and 2, never a traceback."""
    try:
        action()
    except AisleError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); what it wanted, it has. Python would complain at exit.
        sys.stderr.close()
        return 0
    return 0


def _train(arguments: Sequence[str], prog: str) -> None:
    from aisle.config.load import parse_settings
    from aisle.config.training import TrainSettings, problems_of
    from aisle.errors import ConfigError

    settings = parse_settings(TrainSettings, arguments, prog=prog)
    problems = problems_of(settings)
    if problems:
        raise ConfigError("\n".join(problems))
    from aisle.pipelines.train import train_and_push

    train_and_push(settings)


def _build(arguments: Sequence[str], prog: str) -> None:
    from aisle.config.index import BuildSettings
    from aisle.config.load import parse_settings

    settings = parse_settings(BuildSettings, arguments, prog=prog)
    from aisle.pipelines.build import build

    build(settings)


def _query(arguments: Sequence[str], prog: str) -> None:
    from aisle.config.index import QuerySettings
    from aisle.config.load import parse_settings

    settings = parse_settings(QuerySettings, arguments, prog=prog)
    from aisle.pipelines.query import query

    query(settings)


def _evaluate(arguments: Sequence[str], prog: str) -> None:
    from aisle.config.index import EvaluateSettings
    from aisle.config.load import parse_settings

    settings = parse_settings(EvaluateSettings, arguments, prog=prog)
    from aisle.pipelines.evaluate import evaluate

    evaluate(settings)


def _sample(arguments: Sequence[str], prog: str) -> None:
    from aisle.config.load import parse_settings
    from aisle.config.tools import SampleSettings

    settings = parse_settings(SampleSettings, arguments, prog=prog)
    from aisle.pipelines.sample import sample

    sample(settings)


def _quickstart(arguments: Sequence[str], prog: str) -> None:
    from aisle.config.load import parse_settings
    from aisle.config.tools import QuickstartSettings

    settings = parse_settings(QuickstartSettings, arguments, prog=prog)
    from aisle.pipelines.quickstart import quickstart

    quickstart(settings)


def _push(arguments: Sequence[str], prog: str) -> None:
    from aisle.config.load import parse_settings
    from aisle.config.tools import PushSettings

    settings = parse_settings(PushSettings, arguments, prog=prog)
    from aisle.pipelines.push import push

    push(settings)


_INDEX_HELP = """usage: infer_index.py COMMAND [OPTIONS]

  build      embed a catalogue and write its index
  query      answer queries from an index
  evaluate   measure an index against judgements

infer_index.py COMMAND --help lists the options of a command.
"""

_MAIN_HELP = """usage: aisle COMMAND [OPTIONS]

  train      fine-tune an embedding model on judged pairs (train_peft.py)
  build      embed a catalogue and write its index        (infer_index.py build)
  query      answer queries from an index                 (infer_index.py query)
  evaluate   measure an index against judgements          (infer_index.py evaluate)
  sample     write a synthetic catalogue with judged queries
  quickstart train on that catalogue, index it, compare    (make quickstart)
  push       upload a finished run to the Hub

aisle COMMAND --help lists the options of a command; aisle --version prints the version.
"""

if __name__ == "__main__":
    sys.exit(main())
