"""Read JSON as a dataclass and check every field, with pydantic's core only.

Why: importing pydantic and making its `TypeAdapter` takes 0.13 s, a quarter of the time that a new program
needs for its first answer. The core takes 0.02 s; it is the part of pydantic that validates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from pydantic_core import SchemaValidator, core_schema
from pydantic_core.core_schema import CoreSchema

__all__ = ["ALIAS", "Limits", "Number", "Positive", "Sha256", "record_validator"]

ALIAS = "alias"
"""Key of a field's metadata: name of the field in JSON, if it is not the field's own name."""

_SCHEMAS: dict[Any, Callable[..., CoreSchema]] = {
    Any: core_schema.any_schema,
    bool: core_schema.bool_schema,
    float: core_schema.float_schema,
    int: core_schema.int_schema,
    str: core_schema.str_schema,
}


@dataclass(frozen=True)
class Limits:
    """Limits of a number or a text, for `Annotated`; None means no limit."""

    ge: float | None = None
    """Lowest number."""
    le: float | None = None
    """Highest number."""
    pattern: str | None = None
    """Regular expression that the text must match."""


Sha256: TypeAlias = Annotated[str, Limits(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in lower-case hexadecimal."""
Number: TypeAlias = Annotated[int, Limits(ge=0)]
Positive: TypeAlias = Annotated[int, Limits(ge=1)]


def record_validator(record: type) -> SchemaValidator:
    """Return a strict validator that makes a dataclass from JSON text and allows no unknown keys.

    The type of a field may be a key of `_SCHEMAS`, alone or in `Annotated` with `Limits`; another dataclass;
    `Literal`, `dict[..., ...]` or `tuple[..., ...]`; or any of these `| None`.
    """
    return SchemaValidator(_record(record))


def _record(record: type) -> CoreSchema:
    types = get_type_hints(record, include_extras=True)
    own = [_field(field, types[field.name]) for field in fields(record)]
    return core_schema.dataclass_schema(
        record,
        core_schema.dataclass_args_schema(record.__name__, own),
        [field.name for field in fields(record)],
        config=core_schema.CoreConfig(extra_fields_behavior="forbid", strict=True),
    )


def _field(field: Field[Any], type_: Any) -> core_schema.DataclassField:
    schema = _value(type_)
    if field.default is not MISSING:
        schema = core_schema.with_default_schema(schema, default=field.default)
    return core_schema.dataclass_field(field.name, schema, validation_alias=field.metadata.get(ALIAS))


def _value(type_: Any) -> CoreSchema:
    if isinstance(type_, type) and is_dataclass(type_):
        return _record(type_)
    origin, arguments = get_origin(type_), get_args(type_)
    if origin is Annotated:
        limits = {name: limit for name, limit in vars(arguments[1]).items() if limit is not None}
        return _SCHEMAS[arguments[0]](**limits)
    if origin is Literal:
        return core_schema.literal_schema(list(arguments))
    if origin is dict:
        return core_schema.dict_schema(*map(_value, arguments))
    if origin is tuple:
        return core_schema.tuple_schema([_value(arguments[0])], variadic_item_index=0)
    if NoneType in arguments:
        return core_schema.nullable_schema(_value(arguments[0]))
    return _SCHEMAS[type_]()
