"""Recognise texts that are numbers, true or false, dates or lists, and convert them to a column type."""

from __future__ import annotations

import json
import math
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from aisle.types.columns import kind_of_type

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "are_amounts",
    "are_dates",
    "are_integers",
    "are_numbers",
    "are_true_or_false",
    "blank_as_null",
    "comes_back",
    "read_texts",
]

# 007 is a code. A plus is a sign only before short numbers: +4915112345678 is a telephone number.
_WHOLE = r"(-?(0|[1-9][0-9]*)|\+(0|[1-9][0-9]{0,5}))"
_INTEGER = r"^(-?(0|[1-9][0-9]{0,17})|\+(0|[1-9][0-9]{0,5}))$"
_NUMBER = rf"^({_WHOLE}(\.[0-9]*)?|[+-]?\.[0-9]+)([eE][+-]?[0-9]{{1,3}})?$"
_TRUE_OR_FALSE = r"^(true|false|True|False|TRUE|FALSE)$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
# A double holds every decimal number of 15 digits, so it is written back unchanged.
_LONG_OR_EXPONENT = r"([0-9]\.?){16}|[eE]"
_CURRENCY = r"(\p{Sc}|AUD|BRL|CAD|CHF|CNY|CZK|DKK|EUR|GBP|INR|JPY|NOK|PLN|SEK|TRY|USD|kr|%)"
_AMOUNT = (
    rf"^({_CURRENCY} ?)?-?({_CURRENCY} ?)?(0|[1-9][0-9]{{0,2}})"
    rf"([., '\x{{00a0}}]?[0-9]{{3}})*([.,][0-9]{{1,2}})?( ?{_CURRENCY})?$"
)


def blank_as_null(texts: pa.Array) -> pa.Array:
    """Return the texts with null for empty ones and white space."""
    import pyarrow as pa
    import pyarrow.compute as pc

    blank = pc.or_(pc.equal(texts, ""), pc.utf8_is_space(texts))
    return pc.if_else(blank, pa.scalar(None, texts.type), texts)


def are_integers(texts: pa.Array) -> pa.Array:
    """Return whether each text is a whole number of at most 18 digits."""
    return _match(texts, _INTEGER)


def are_numbers(texts: pa.Array) -> pa.Array:
    """Return whether each text is a number: `-12`, `.5`, `12.`, `+5`, `1e-05`; never `007` or `1,5`."""
    return _match(texts, _NUMBER)


def are_true_or_false(texts: pa.Array) -> pa.Array:
    """Return whether each text is true or false: in lower case, upper case or capitalised."""
    return _match(texts, _TRUE_OR_FALSE)


def are_dates(texts: pa.Array) -> pa.Array:
    """Return whether each text is an existing date such as `2026-01-31`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    looks = _match(texts, _DATE)
    if not pc.any(looks).as_py():
        return looks
    return pa.array([bool(look) and _date(text) is not None for look, text in _pairs(looks, texts)])


def are_amounts(texts: pa.Array) -> pa.Array:
    """Return whether each text is an amount as people write it: `$1,299.00`, `12,50`, `20 EUR`, `5 %`."""
    return _match(texts, _AMOUNT)


def comes_back(numbers: pa.Array) -> pa.Array:
    """Return whether each number, read as a double, keeps its value and would be written the same.

    `1E10` would come back as 10000000000.0, and 20 digits as different ones. Zeros at the end of a decimal
    are ignored here, because they mean something only next to other values.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    doubtful = _match(numbers, _LONG_OR_EXPONENT)
    if not pc.any(doubtful).as_py():
        return pc.invert(doubtful)
    return pa.array([not doubt or _survives(text) for doubt, text in _pairs(doubtful, numbers)])


def _survives(text: str) -> bool:
    written = repr(float(text))
    if "e" in text.lower():
        return text == written
    return float(text) not in (float("inf"), float("-inf")) and Decimal(text) == Decimal(written)


def read_texts(texts: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return the texts as values of a type, null for texts that do not fit, and whether each fits or is null.

    Numbers must pass `are_numbers`; dates and times are ISO 8601; a list is JSON.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = kind_of_type(wanted)
    if kind == "texts":
        return texts.cast(wanted), pa.array([True] * len(texts), pa.bool_())
    if kind == "true or false":
        fits = pc.fill_null(are_true_or_false(texts), True)
        return pc.if_else(fits, pc.equal(pc.utf8_lower(texts), "true"), pa.scalar(None, pa.bool_())), fits
    if kind == "numbers" and not pa.types.is_decimal(wanted):
        whole = pa.types.is_integer(wanted)
        fits = pc.fill_null((are_integers if whole else are_numbers)(texts), True)
        plain = pc.replace_substring_regex(texts, r"^\+", "")
        plain = pc.if_else(fits, plain, pa.scalar(None, texts.type))
        try:
            values = plain.cast(pa.int64() if whole else pa.float64()).cast(wanted)
        except pa.ArrowException:
            return _one_by_one(texts, wanted)
        if whole or pc.all(pc.is_finite(values)).as_py() is not False:
            return values, fits
    return _one_by_one(texts, wanted)


def _one_by_one(texts: pa.Array, wanted: pa.DataType) -> tuple[pa.Array, pa.Array]:
    import pyarrow as pa
    import pyarrow.compute as pc

    values: list[Any] = []
    for text in texts.to_pylist():
        try:
            value = None if text is None else pa.scalar(_read(text, wanted), wanted).as_py()
        except (pa.ArrowException, ValueError, ArithmeticError, TypeError):
            value = None
        values.append(value)
    read = pa.array(values, wanted)
    return read, pc.or_(texts.is_null(), read.is_valid())


def _read(text: str, wanted: pa.DataType) -> Any:
    """Return a text as a value of a type, or raise."""
    import pyarrow as pa

    kind = kind_of_type(wanted)
    if kind == "dates":
        return date.fromisoformat(text)
    if kind == "times":
        return pa.scalar(text).cast(wanted)
    if kind == "lists":
        value = json.loads(text)
        if isinstance(value, list):
            return value
    if kind == "numbers" and are_numbers(pa.array([text]))[0].as_py():
        number = Decimal(text)
        if pa.types.is_decimal(wanted):
            return number
        if pa.types.is_floating(wanted) and math.isfinite(float(number)):
            return float(number)
        if pa.types.is_integer(wanted) and number == int(number):
            return int(number)
    raise ValueError(f"{text!r} is no {wanted}")


def _date(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        return None


def _match(texts: pa.Array, pattern: str) -> pa.Array:
    import pyarrow.compute as pc

    return pc.match_substring_regex(texts, pattern)


def _pairs(mask: pa.Array, texts: pa.Array) -> zip[tuple[Any, Any]]:
    return zip(mask.to_pylist(), texts.to_pylist(), strict=True)
