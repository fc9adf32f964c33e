"""Find where the terms of a query are in a text as it was written, to highlight them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

import regex

from aisle.index.analyser import Analyser, normalise
from aisle.index.languages import Language

__all__ = ["Span", "term_spans", "words_of_terms"]

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
    return _merged(span for _, span in _placed(analyser, text, frozenset(terms)))


def words_of_terms(analyser: Analyser, text: str, terms: Collection[str]) -> dict[str, list[str]]:
    """Return the parts of a text that have each term, as they are written; terms that it lacks are left out.

    The text is analysed once, however many terms there are.

    Args:
        analyser: Analyser of the index.
        text: Text as it is shown.
        terms: Terms to find, as `Analyser.terms_of_query` returns them.
    """
    spans: dict[str, list[Span]] = {}
    for term, span in _placed(analyser, text, frozenset(terms)):
        spans.setdefault(term, []).append(span)
    return {term: [text[start:end] for start, end in _merged(found)] for term, found in spans.items()}


def _placed(analyser: Analyser, text: str, terms: frozenset[str]) -> Iterator[tuple[str, Span]]:
    """Yield each place of each of the terms in a text."""
    aligned = _align(text, analyser.language)
    if aligned is None:
        for piece in _PIECES.finditer(text):
            for term in terms.intersection(analyser.terms_of_text(piece.group())):
                yield term, piece.span()
        return
    for found in analyser.placed_terms(aligned.normalised):
        if found.term in terms:
            yield found.term, (aligned.starts[found.start], aligned.ends[found.end - 1])


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
