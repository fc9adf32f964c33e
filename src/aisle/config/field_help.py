"""Help texts from docstrings: of a settings class, and of each of its fields."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any, get_args, get_type_hints

__all__ = ["description_of", "help_of"]


def help_of(settings_type: type[Any], name: str) -> str | None:
    """Return the help of a field on one line: from its annotation, or the docstring below it.

    Args:
        settings_type: Dataclass with the field, itself or by inheritance.
        name: Name of the field.
    """
    hint = get_type_hints(settings_type, include_extras=True)[name]
    given = [text for extra in get_args(hint)[1:] if isinstance(text := getattr(extra, "help", None), str)]
    declared = (_field_docstrings(kind).get(name) for kind in settings_type.__mro__)
    text = next((text for text in (*given, *declared) if text is not None), None)
    return None if text is None else _joined(text)


def description_of(settings_type: type[Any]) -> str:
    """Return the docstring of a settings class, with each paragraph on one line."""
    return "\n\n".join(map(_joined, re.split(r"\n\s*\n", inspect.getdoc(settings_type) or "")))


def _joined(text: str) -> str:
    return " ".join(text.split())


@cache
def _field_docstrings(kind: type[Any]) -> Mapping[str, str]:
    """Return the docstring below each field in the source of a class; empty if there is no source."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    [statement] = ast.parse(source).body
    assert isinstance(statement, ast.ClassDef)
    return {
        field.target.id: below.value.value
        for field, below in pairwise(statement.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
