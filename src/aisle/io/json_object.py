"""Read a JSON file that holds one object, and make a checked record of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic_core import SchemaValidator, ValidationError

__all__ = ["InvalidJsonError", "read_object", "record_of"]


class InvalidJsonError(ValueError):
    """The text or the fields of a JSON file break a rule; the message says which rule, and what was found."""


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        InvalidJsonError: The file is not JSON, or not an object.
        OSError: The file cannot be read.
    """
    content = path.read_bytes()
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidJsonError(f"it must be JSON, found: {error}") from None
    if not isinstance(document, dict):
        raise InvalidJsonError(f"it must be a JSON object, found {type(document).__name__}")
    return document


def record_of(document: dict[str, Any], validator: SchemaValidator) -> Any:
    """Return the record that a validator of `record_schema` makes of an object.

    Raises:
        InvalidJsonError: A field is missing, unknown or has another type; the message names the first.
    """
    try:
        # Validate JSON text: in strict mode pydantic makes a dataclass from JSON, but not from a dict.
        return validator.validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidJsonError(f"{where}: {first['msg']}, found {first['input']!r:.80}") from None
