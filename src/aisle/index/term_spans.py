"""Find where the terms of a query are in a text as it was written, to highlight them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import regex

from aisle.index.analyser import Analyser, normalise
from aisle.index.languages import Language

__all__ = ["Span", "term_spans"]

Span = tuple[int, int]
"""Start and end of a part of a text, in code points."""

_UNITS = regex.compile(r"[\x00-\x7f]+(?![^\x00-\x7f])|\X")
"""Parts of a text that are normalised by themselves: ASCII, and characters with their marks."""
_PIECES = regex.compile(r"\S+")


def term_spans(analyser: Analyser, text: str, terms: Collection[str]) -> list[Span]:
    """Return the parts of a text that have one of the terms, in order, not overlapping or touching.

    A part of a compound is found by itself: of "iphone-15/128GB", the query "15" highlights 15.

    Args:
        analyser: Analyser of the index.
        text: Text as it is shown.
        terms: Terms to find, as `Analyser.terms_of_query` returns them.
    """
    aligned = _align(text, analyser.language)
    if aligned is None:
        pieces = ((found.group(), found.span()) for found in _PIECES.finditer(text))
        return _merged(
            span for piece, span in pieces if not set(terms).isdisjoint(analyser.terms_of_text(piece))
        )
    found = (each for each in analyser.placed_terms(aligned.normalised) if each.term in terms)
    return _merged((aligned.starts[each.start], aligned.ends[each.end - 1]) for each in found)


class _Aligned(NamedTuple):
    """A normalised text, and the place of each of its characters in the text as it was written."""

    normalised: str
    starts: Sequence[int]
    ends: Sequence[int]


def _align(text: str, language: Language) -> _Aligned | None:
    """Return the normalised text with its places; None if its parts do not give the whole.

    Parts differ from the whole where normalisation looks further than a character and its marks, as for the
    fraction in "2½".
    """
    if text.isascii():
        places = range(len(text) + 1)
        return _Aligned(normalise(text, language), places[:-1], places[1:])
    parts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for unit in _UNITS.finditer(text):
        part = normalise(unit.group(), language)
        parts.append(part)
        start, end = unit.span()
        if len(part) == end - start:
            starts += range(start, end)
            ends += range(start + 1, end + 1)
        else:
            starts += [start] * len(part)
            ends += [end] * len(part)
    whole = normalise(text, language)
    return _Aligned(whole, starts, ends) if "".join(parts) == whole else None


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Return spans in order, with those that overlap or touch joined."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged
