import ast
import dataclasses
import inspect
import re
import sys
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest

from aisle.commands.command_list import COMMANDS
from aisle.config.load import complete, parse_settings

SETTINGS = {name: complete(command.settings) for name, command in COMMANDS.items()}


def documented_fields(settings_type):
    """Yield (name, docstring) of each field, groups dissolved, as the source has them."""
    hints = get_type_hints(settings_type, include_extras=True)
    docstrings = {
        name: text for kind in reversed(settings_type.__mro__) for name, text in docstrings_in(kind).items()
    }
    for field in (one for one in dataclasses.fields(settings_type) if one.init):
        given = [extra.help for extra in get_args(hints[field.name])[1:] if getattr(extra, "help", None)]
        group = get_args(hints[field.name])[:1] or (hints[field.name],)
        if dataclasses.is_dataclass(group[0]):
            yield from documented_fields(group[0])
        else:
            yield field.name, given[0] if given else docstrings.get(field.name)


def docstrings_in(kind):
    """Return the docstring of each field that a class of the source declares itself."""
    if kind is object or kind is not getattr(sys.modules[kind.__module__], kind.__name__, None):
        return {}  # made from the registered losses
    body = ast.parse(inspect.getsource(kind)).body[0].body
    return {
        node.target.id: following.value.value
        for node, following in pairwise(body)
        if isinstance(node, ast.AnnAssign)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    }


@pytest.fixture
def shown_help(capsys, monkeypatch):
    """A function from settings to the help of their command, as on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")

    def shown(settings_type):
        with pytest.raises(SystemExit) as caught:
            parse_settings(settings_type, ["--help"], prog="prog")
        assert caught.value.code == 0
        return capsys.readouterr().out

    return shown


def words(text):
    """Return the text without the frames, breaks and spaces that the help puts into it."""
    return re.sub(r"[\s│╭╮╰╯─]", "", text)


def broken_lines(shown):
    """Yield each line of a flag's text that goes on below, and the line below, without their frames."""
    lines = [line[2:-2].rstrip() for line in shown.splitlines() if line.startswith((" ", "│"))]
    for line, below in pairwise(lines):
        column = len(below) - len(below.lstrip())
        if column >= 6 and len(line) > column and line[column - 2 : column].isspace():
            yield line, below


@pytest.mark.parametrize("settings_type", SETTINGS.values(), ids=SETTINGS)
def test_help_shows_every_flag_with_its_docstring(settings_type, shown_help):
    shown = words(shown_help(settings_type))
    fields = dict(documented_fields(settings_type))

    assert [name for name, docstring in fields.items() if docstring is None] == []
    assert re.search(r"\(default:(''|\"\")?\)", shown) is None, (
        "a required setting, or none, is shown as such"
    )
    positional = {"text", "run_dir", "runs", "product_ids"}
    assert [name for name in fields if name not in positional and f"--{name}" not in shown] == []
    assert [name for name, docstring in fields.items() if words(docstring) not in shown] == []


@pytest.mark.parametrize("settings_type", SETTINGS.values(), ids=SETTINGS)
def test_help_breaks_a_line_only_where_the_next_word_does_not_fit(settings_type, shown_help):
    lines = list(broken_lines(shown_help(settings_type)))

    assert lines
    width = max(len(line) for line, _ in lines)
    assert 90 <= width <= 96
    assert [line for line, below in lines if len(line) + 1 + len(below.split()[0]) <= width] == []


@pytest.mark.parametrize("settings_type", SETTINGS.values(), ids=SETTINGS)
def test_help_shows_the_settings_docstring_with_a_line_for_each_paragraph(settings_type, shown_help):
    paragraphs = {" ".join(text.split()) for text in inspect.getdoc(settings_type).split("\n\n")}

    assert paragraphs <= set(shown_help(settings_type).splitlines())


def test_no_training_flag_is_defined_twice():
    names = [name for name, _ in documented_fields(SETTINGS["train"])]

    assert len(names) == len(set(names))


def test_flags_are_shown_with_underscores(capsys):
    with pytest.raises(SystemExit):
        parse_settings(SETTINGS["train"], ["--help"], prog="prog")

    assert not re.search(r"--\w+-\w", capsys.readouterr().out)


def test_help_marks_required_lists_and_shows_empty_ones_as_none(shown_help):
    def shown_default(command, flag):
        return re.search(
            rf"{flag}\[STR.*?\((required|default:[^)]*)\)", words(shown_help(SETTINGS[command]))
        )[1]

    assert shown_default("upsert", "--catalog") == "required"
    assert shown_default("build", "--text_columns") == "default:none"
