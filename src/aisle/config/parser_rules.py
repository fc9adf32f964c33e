"""Rules by which tyro makes flags of settings: numbers as they are typed, and help on one line."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any, get_type_hints

from tyro.conf import Positional, arg
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from aisle.config.annotations import POSITIONAL, REQUIRED
from aisle.config.field_help import help_of

__all__ = ["parser_rules"]


def parser_rules() -> ConstructorRegistry:
    """Return the rules that replace those of tyro."""
    rules = ConstructorRegistry()
    rules.primitive_rule(_number)
    rules.struct_rule(_settings)
    return rules


def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Keep a value that is not a number as text, so that validation reports all wrong values together."""
    kind = info.type
    if kind not in {int, float}:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda args: _number_or_text(kind, args[0]),
        is_instance=lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def _number_or_text(kind: type[int] | type[float], text: str) -> float | str:
    try:
        return kind(text)
    except ValueError:
        return text


def _settings(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Take the help of each setting from its docstring with the lines joined: tyro keeps their breaks."""
    if not dataclasses.is_dataclass(info.type):
        return None
    hints = get_type_hints(info.type, include_extras=True)
    fields = [
        StructFieldSpec(
            name=field.name,
            type=_with_tyros_marks(hints[field.name], getattr(info.default, field.name)),
            default=getattr(info.default, field.name),
            helptext=partial(help_of, info.type, field.name),
        )
        for field in dataclasses.fields(info.type)
        if field.init
    ]
    return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))


def _with_tyros_marks(hint: Any, default: object) -> Any:
    """Return the type of a setting with tyro's marks: whether it has a flag, how the help shows no value."""
    marks = getattr(hint, "__metadata__", ())
    positional: Any = Positional
    if POSITIONAL in marks:
        hint = positional[hint]
    if default not in ("", ()):
        return hint
    return Annotated[hint, arg(help_behavior_hint="(required)" if REQUIRED in marks else "(default: none)")]
