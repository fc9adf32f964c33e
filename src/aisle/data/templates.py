"""Templates that make the text of a product from the fields of its row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from aisle.data.rows import Problem, text_problem
from aisle.errors import ConfigError

__all__ = ["TextTemplate", "parse_template"]

_FLAG = "--text_template"
_BRACES = re.compile(r"\{\{|\}\}|\{(?P<field>[^{}]*)\}|[{}]")


@dataclass(frozen=True)
class TextTemplate:
    """A parsed template: pairs of `(literal, field)` in order; field None marks a literal at the end."""

    pieces: tuple[tuple[str, str | None], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields, each once, in order."""
        return tuple(dict.fromkeys(field for _, field in self.pieces if field is not None))

    def render(self, values: Mapping[str, object]) -> str | Problem:
        """Return the text of a row, or the problem if every field is blank or a field is not text.

        Values are kept exactly. A null or blank field is left out, together with white space that would be
        doubled or stand at an end.
        """
        text, gap, left_out, some = "", "", False, False
        for literal, field in self.pieces:
            gap = _joined(gap, literal) if left_out else gap + literal
            if field is None:
                continue
            value = _field_text(field, values.get(field))
            if isinstance(value, Problem):
                return value
            left_out = not value
            if value:
                text, gap, some = text + (gap if some else gap.lstrip()) + value, "", True
        if not some:
            shown = {field: values.get(field) for field in self.fields}
            return Problem(f"{' and '.join(self.fields)} {'is' if len(shown) == 1 else 'are'} blank", shown)
        return text + (gap.rstrip() if left_out else gap)


def _joined(before: str, after: str) -> str:
    """Join the literals around a field that is left out, without doubling white space between them."""
    return re.sub(r"\s{2,}", lambda run: run.group()[0], before + after)


def _field_text(field: str, value: object) -> str | Problem:
    """Return the text of a field, the items of a list joined by commas; empty for null, NaN or blank."""
    if isinstance(value, list | tuple):
        texts = [_field_text(field, item) for item in value if not isinstance(item, list | tuple)]
        if len(texts) < len(value) or any(isinstance(text, Problem) for text in texts):
            return Problem(f"{field} is a list with items other than texts and numbers", value)
        return ", ".join(str(text) for text in texts if text)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal | date):
        return str(value)
    reason = text_problem(value)
    if reason == "is blank":
        return ""
    return str(value) if reason is None else Problem(f"{field} {reason}", value)


def parse_template(template: str) -> TextTemplate:
    """Parse a template such as `"{title} {brand}"`; `{{` and `}}` are literal braces.

    The text between braces is the exact name of a column: `{attr.size}` and `{Colour (EU)}` are the columns
    `attr.size` and `Colour (EU)`.

    Raises:
        ConfigError: The braces do not match, or there is no field.
    """
    pieces: list[tuple[str, str | None]] = []
    literal, at = "", 0
    for found in _BRACES.finditer(template):
        literal += template[at : found.start()]
        at = found.end()
        if found.group() in {"{{", "}}"}:
            literal += found.group()[0]
        elif found["field"] is None or not found["field"].strip():
            what = "an empty field" if found["field"] is not None else f"a brace {found.group()!r} alone"
            raise ConfigError(
                f"{_FLAG}: {template!r} has {what} at character {found.start() + 1}; write a column's "
                "name between braces, as in '{title} {brand}', and {{ for a brace itself."
            )
        else:
            pieces.append((literal, found["field"]))
            literal = ""
    if not pieces:
        raise ConfigError(f"{_FLAG}: {template!r} has no field; name a column in braces, as in '{{title}}'.")
    literal += template[at:]
    return TextTemplate((*pieces, (literal, None)) if literal else tuple(pieces))
