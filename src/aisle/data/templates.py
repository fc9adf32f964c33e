"""A product's text out of the fields of its row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from aisle.data.rows import Problem, text_problem
from aisle.errors import ConfigError

__all__ = ["TextTemplate", "parse_template"]

_FLAG = "--text_template"


@dataclass(frozen=True)
class TextTemplate:
    """A template in pieces: `(literal, field)` in order; a None field is a literal at the end."""

    pieces: tuple[tuple[str, str | None], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields, each once, in order."""
        return tuple(dict.fromkeys(field for _, field in self.pieces if field is not None))

    def render(self, values: Mapping[str, object]) -> str | Problem:
        """Return the text of a row, or why it has none.

        Values are kept exactly. A field that is null or blank is left out, and so is the white space that it
        would leave double or at an end.
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
    """Return two literals that an absent field held apart, with white space between them once."""
    return re.sub(r"\s{2,}", lambda run: run.group()[0], before + after)


def _field_text(field: str, value: object) -> str | Problem:
    """Return a field's text; empty when the value is null, NaN or blank."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    reason = text_problem(value)
    if reason == "is blank":
        return ""
    return str(value) if reason is None else Problem(f"{field} {reason}", value)


def parse_template(template: str) -> TextTemplate:
    """Return a template such as `"{title} {brand}"`; `{{` and `}}` stand for braces.

    Only names of fields are allowed between braces: attributes, indices, conversions and formats would let a
    template reach into Python's objects.

    Raises:
        ConfigError: the braces do not match, there is no field, or one is more than a name.
    """
    pieces: list[tuple[str, str | None]] = []
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(
            f"{_FLAG}: {template!r} is not a template: {error}. Write {{{{ for a brace."
        ) from None
    for literal, field, form, conversion in parsed:
        named = field is None or (field.strip() and not form and not conversion)
        if not named or re.search(r"[.\[\]]", field or ""):
            raise ConfigError(
                f"{_FLAG}: {template!r} has more or less than a column's name between its braces; "
                "only names are allowed, as in '{title} {brand}'."
            )
        pieces.append((literal, field))
    if all(field is None for _, field in pieces):
        raise ConfigError(f"{_FLAG}: {template!r} has no field; name a column in braces, as in '{{title}}'.")
    return TextTemplate(tuple(pieces))
