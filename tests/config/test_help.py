import ast
import dataclasses
import inspect
import re
from itertools import pairwise
from typing import get_type_hints

import pytest

from aisle.commands.registry import COMMANDS
from aisle.commands.train.settings import TrainSettings
from aisle.config.load import parse_settings

SETTINGS = {name: command.settings for name, command in COMMANDS.items()}


def documented_fields(settings_type):
    """Yield (name, docstring) of each field, groups dissolved, as the source has them."""
    hints = get_type_hints(settings_type)
    body = ast.parse(inspect.getsource(settings_type)).body[0].body
    docstrings = {
        node.target.id: following.value.value
        for node, following in pairwise(body)
        if isinstance(node, ast.AnnAssign)
        and isinstance(following, ast.Expr)
        and isinstance(following.value, ast.Constant)
    }
    for field in dataclasses.fields(settings_type):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from documented_fields(hints[field.name])
        else:
            yield field.name, docstrings.get(field.name)


def words(text):
    """Return the text without the frames, breaks and spaces that the help puts into it."""
    return re.sub(r"[\s│╭╮╰╯─]", "", text)


@pytest.mark.parametrize("settings_type", SETTINGS.values(), ids=SETTINGS)
def test_help_shows_every_flag_with_its_docstring(settings_type, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as caught:
        parse_settings(settings_type, ["--help"], prog="prog")

    shown = words(capsys.readouterr().out)
    assert caught.value.code == 0
    fields = dict(documented_fields(settings_type))
    assert [name for name, docstring in fields.items() if docstring is None] == []
    positional = {"text", "run_dir", "runs", "product_ids"}
    assert [name for name in fields if name not in positional and f"--{name}" not in shown] == []
    assert [name for name, docstring in fields.items() if words(docstring) not in shown] == []


def test_training_flags_have_one_home_each():
    names = [name for name, _ in documented_fields(TrainSettings)]

    assert len(names) == len(set(names))


def test_flags_are_shown_with_underscores(capsys):
    with pytest.raises(SystemExit):
        parse_settings(TrainSettings, ["--help"], prog="prog")

    assert not re.search(r"--\w+-\w", capsys.readouterr().out)
