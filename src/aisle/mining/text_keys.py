"""Normalised forms of texts: texts with equal forms count as equal."""

from __future__ import annotations

import unicodedata

import regex

from aisle.data.dpr_json import SEPARATOR
from aisle.data.pairs import query_key

__all__ = ["text_key", "words_of"]

_WORD = regex.compile(
    r"(?:(?<![\p{L}\p{N}])\.(?=\p{N}))?[\p{L}\p{N}_](?:[\p{L}\p{N}\p{M}_]|(?<=\p{N})[.,](?=\p{N}))*"
    r"(?:[+#]+(?![\p{L}\p{N}]))?"
)
"""A word with its vowel signs and tones (`\\w` lacks them), a number with its decimals, or C++ and C#."""


def text_key(text: str) -> str:
    """Return a text without case, surplus white space and the separator of DPR's titles."""
    return query_key(text.replace(SEPARATOR, " "))


def words_of(text: str) -> str:
    """Return the words of a text in lower case, with composed accents and a space around each.

    Texts with equal words differ in punctuation, case or white space alone: 1.5 and 1-5, C and C++ are not
    equal.
    """
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    return f" {' '.join(_WORD.findall(composed.casefold()))} "
