"""Check blocks of commands in Markdown with the commands' own parsers, without running them.

tests/test_docs.py runs the tutorial's blocks unchanged. Other blocks have a comment above them: `<!-- parsed
-->` (parsed, and its aisle commands run on a made-up shop by tests/test_docs_commands.py), `<!-- run: TEST
-->` (run by this test), `<!-- needs: gpu -->`, `<!-- needs: hub -->`, `<!-- needs: root -->`, `<!-- needs:
gpu, hub -->`. A block with a title is a file, not commands.
"""

import contextlib
import dataclasses
import io
import re
import shlex
from pathlib import Path
from typing import get_type_hints

from markdown_it import MarkdownIt

from aisle.commands.command_list import COMMANDS, INDEX_COMMANDS
from aisle.config.load import complete, parse_settings
from aisle.errors import AisleError

ROOT = Path(__file__).parents[1]
COMMAND_LANGUAGES = {"", "bash", "console", "sh"}
MARKER = re.compile(r"^<!-- (parsed|run: (?P<test>\S+)|needs: (gpu|hub|root)(, (gpu|hub|root))*) -->$")
TRAINING_SCRIPTS = {"train_peft.py": "train", "train_reranker.py": "train-reranker"}
SCRIPTS = {*TRAINING_SCRIPTS, "infer_index.py"}
HARMLESS = {
    *(
        ".",
        "aws",
        "cd",
        "chmod",
        "chown",
        "curl",
        "docker",
        "export",
        "grep",
        "journalctl",
        "mkdir",
        "openssl",
        "pip",
    ),
    *("printf", "systemctl", "systemd-analyze", "terraform", "useradd", "/srv/aisle/venv/bin/pip"),
}
"""Shell programs in the docs, without flags of ours."""


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block, and the comment above it."""

    place: str
    language: str
    title: str | None
    comment: str | None
    text: str

    @property
    def has_commands(self):
        return self.language in COMMAND_LANGUAGES and self.title is None

    @property
    def is_run(self):
        return self.has_commands and self.place.startswith("docs/tutorial.md") and self.comment is None

    @property
    def says_why_not(self):
        found = MARKER.match(self.comment or "")
        return found is not None and (found["test"] is None or (ROOT / found["test"]).is_file())

    def is_run_by(self, test):
        """Return whether the comment says that a test, given by its path, runs the block."""
        return self.comment == f"<!-- run: {Path(test).relative_to(ROOT).as_posix()} -->"


def blocks_run_by(test):
    """Return the blocks of all how-tos that a test runs, in their order.

    Args:
        test: Path of the test's module.
    """
    pages = sorted((ROOT / "docs" / "how-to").glob("*.md"))
    blocks = [block for page in pages for block in blocks_of(page.read_text("utf-8"), page.name)]
    return [block for block in blocks if block.is_run_by(test)]


def blocks_of(text, path):
    tokens = MarkdownIt().parse(text)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "fence":
            language, _, rest = token.info.partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            comment = before.content.strip() if before is not None and before.type == "html_block" else None
            place = f"{path}:{token.map[0] + 1}"
            yield Block(place, language, title and title[1], comment, token.content)


def commands_of(block):
    """Yield the words of each command, with pipes and lists split; in a session, only lines after `$`."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if any(line.startswith("$ ") for line in lines):
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    for line in lines:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if word in {"|", ";", "&&", "||"}:
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def problem_of(words):
    """Return the reason that a command would be refused, or None."""
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    program, rest = words[0], words[1:]
    if program in {"accelerate", "torchrun"}:
        return launcher_problem(program, rest)
    if program in {"python", "python3"}:
        if rest[0] in SCRIPTS:
            return our_problem(rest[0], rest[1:])
        return (
            None if rest[:2] == ["-m", "venv"] or (ROOT / rest[0]).is_file() else f"{rest[0]}: no such script"
        )
    if program == "aisle":
        return our_problem("aisle", rest)
    if program == "make":
        targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
        return next((f"make: no target {name}" for name in rest if name not in targets), None)
    if program == "pytest":
        return None if (ROOT / rest[0]).exists() else f"{rest[0]}: no such test"
    return None if program in HARMLESS else f"{program}: add it to the programs that tests/test_docs.py knows"


def our_problem(program, rest):
    name, *arguments = [TRAINING_SCRIPTS[program], *rest] if program in TRAINING_SCRIPTS else rest
    if name not in (INDEX_COMMANDS if program == "infer_index.py" else COMMANDS):
        return f"{program}: no command {name}"
    command = COMMANDS[name]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            settings = parse_settings(command.settings, arguments, prog=name)
        problems = command.problems(settings)
    except SystemExit as stopped:
        return None if stopped.code == 0 else printed.getvalue()
    except AisleError as error:
        return str(error)
    return "\n".join(problems) or None


def launcher_problem(program, rest):
    if program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        parser, rest = launch_command_parser(), rest[1:]
    else:
        from torch.distributed.run import get_args_parser

        parser = get_args_parser()
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            launch = parser.parse_args(rest)
    except SystemExit:
        return printed.getvalue()
    config = getattr(launch, "config_file", None)
    if config is not None and not (ROOT / config).is_file():
        return f"--config_file {config}: no such file"
    return our_problem(launch.training_script, launch.training_script_args)


def problems_of(block):
    return [
        f"{block.place}: {shlex.join(words)}: {p}" for words in commands_of(block) if (p := problem_of(words))
    ]


def names_of(command):
    for name, hint in settable(complete(command.settings)).items():
        yield from settable(hint) if dataclasses.is_dataclass(hint) else (name,)


def settable(kind):
    """Return the types of the fields that can be given."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def run_python(block, *, url):
    """Run a Python block with another address of the service, and return the names that it defines."""
    names = {}
    text = block.text.replace("http://127.0.0.1:8080", url)
    assert text != block.text
    exec(compile(text, block.place, "exec"), names)
    return names
