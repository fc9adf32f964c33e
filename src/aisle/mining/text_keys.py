"""Normalised forms of texts: texts with equal forms count as equal."""

from __future__ import annotations

import re
import unicodedata

from aisle.data.dpr_json import SEPARATOR
from aisle.data.pairs import query_key

__all__ = ["text_key", "words_of"]

_WORD = re.compile(r"\w+")


def text_key(text: str) -> str:
    """Return a text without case, surplus white space and the separator of DPR's titles."""
    return query_key(text.replace(SEPARATOR, " "))


def words_of(text: str) -> str:
    """Return the words of a text in lower case, with composed accents and a space around each."""
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    return f" {' '.join(_WORD.findall(composed.casefold()))} "
