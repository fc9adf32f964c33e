"""mkdocs hook: generate a page per command from its settings, and add it to the navigation.

The pages use the same sources as the command line: names, types, limits and defaults from the settings of
`aisle.commands`, and explanations from the docstrings below the fields.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from pydantic.fields import FieldInfo
from tyro.constructors import PrimitiveConstructorSpec

from aisle.commands.command import Command
from aisle.commands.command_list import COMMANDS, INDEX_COMMANDS
from aisle.config.annotations import POSITIONAL
from aisle.config.field_help import description_of, help_of
from aisle.config.load import complete

FOLDER = "reference/commands"
TRAINING_SCRIPTS = {"train": "train_peft.py", "train-reranker": "train_reranker.py"}
NOUNS = {int: "whole number", float: "number", str: "text", bool: "on or off"}
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
GROUPS = {
    "data": "Data",
    "model": "Model",
    "lora": "Adapter",
    "head": "Head",
    "towers": "Two towers",
    "objective": "Loss",
    "distillation": "Teacher",
    "optim": "Objective, batches, learning rate, precision",
    "run": "The run",
    "served": "The list that will be served",
    "searching": "The search",
}


def on_config(config: Any) -> Any:
    """Put every command's page in the navigation, at the entry for the folder of the pages.

    Raises:
        PluginError: If the navigation lacks the entry.
    """
    if not _fill_navigation(config.nav):
        raise PluginError(f"mkdocs.yml: the navigation must have one entry whose value is {FOLDER}/")
    return config


def _fill_navigation(entries: list[Any]) -> bool:
    for entry in entries:
        for title, value in entry.items() if isinstance(entry, dict) else ():
            if value == f"{FOLDER}/":
                entry[title] = [{name: f"{FOLDER}/{name}.md"} for name in COMMANDS]
                return True
            if isinstance(value, list) and _fill_navigation(value):
                return True
    return False


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages to the site's files."""
    for name, command in COMMANDS.items():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=page_of(name, command)))
    return files


def page_of(name: str, command: Command[Any]) -> str:
    """Return a command's page in Markdown."""
    settings = complete(command.settings)
    lines = [f"# aisle {name}", "", description_of(settings), "", *_calls(name)]
    for title, group, names in _tables(settings):
        lines += ["", f"## {title}"]
        lines += [line for name in names for line in _entry(group, name)]
    return "\n".join(lines) + "\n"


def _calls(name: str) -> Iterator[str]:
    script = TRAINING_SCRIPTS.get(name, f"infer_index.py {name}")
    if name in {*TRAINING_SCRIPTS, *INDEX_COMMANDS}:
        yield f"`python {script}` is the same command in a checkout."
    yield "Every flag is a key of the same name in a `--config` file."
    yield "`--no_` before its name turns a switch off."


def _tables(settings: type[Any]) -> Iterator[tuple[str, type[Any], list[str]]]:
    """Yield the heading, the dataclass and the setting names of each table."""
    hints = _settable(settings)
    groups = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    for name, group in groups.items():
        yield GROUPS[name], group, list(_settable(group))
    yield ("Settings file" if groups else "Flags"), settings, [name for name in hints if name not in groups]


def _settable(kind: type[Any]) -> dict[str, Any]:
    """Return the types of the settings that can be given; a command fixes some of another's."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _entry(group: type[Any], name: str) -> Iterator[str]:
    """Yield a setting as an item of a definition list."""
    hint = get_type_hints(group, include_extras=True)[name]
    positional = get_origin(hint) is Annotated and POSITIONAL in get_args(hint)
    shown = f"`{name.upper()}`, without a flag" if positional else f"`--{name}`"
    yield ""
    yield f'<a id="{name}"></a>{shown}: {takes(hint)}{_default(group.__dataclass_fields__[name])}'
    yield f":   {help_of(group, name)}"


def takes(hint: Any) -> str:
    """Describe the values of a type: `whole number, at least 1`."""
    metadata: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        metadata = tuple(rest)
    for extra in metadata:
        if isinstance(extra, PrimitiveConstructorSpec):
            return f"`{extra.metavar}`"
        if getattr(extra, "metavar", None):  # of the choices, those to show
            return ", ".join(f"`{choice}`" for choice in extra.metavar.strip("{}").split(",")[1:])
    limits = [limit for extra in metadata for limit in _limits(extra)]
    return ", ".join([_noun(hint), *limits])


def _noun(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(takes(argument) for argument in arguments if argument is not type(None))
    if origin is tuple:
        return f"one or more: {takes(arguments[0])}"
    return takes(hint) if origin is Annotated else NOUNS[hint]


def _limits(extra: object) -> Iterator[str]:
    """Describe the limits in an annotation: an `Interval`, or a field of pydantic with several rules."""
    for rule in extra.metadata if isinstance(extra, FieldInfo) else [extra]:
        for name, words in LIMITS.items():
            limit = getattr(rule, name, None)
            if isinstance(limit, int | float):
                yield f"{words} {limit:,}"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "; required"
    if field.default is None or field.default == ():
        return ""
    if isinstance(field.default, bool):
        return "; on by default" if field.default else ""
    values = field.default if isinstance(field.default, tuple) else (field.default,)
    return "; default `" + " ".join(map(str, values)) + "`"
