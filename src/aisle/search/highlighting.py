"""Highlights: where the words of a query are in a product's columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from aisle.index.analyser import Analyser
from aisle.index.term_spans import Span, term_spans

__all__ = ["Highlighter", "highlights"]


@dataclass(frozen=True)
class Highlighter:
    """Highlights of a query in any number of products; the query is analysed once.

    Args:
        analyser: Analyser of the index; None if it was built without texts, which gives no highlights.
        query: Text that was searched for.
    """

    analyser: Analyser | None
    query: str

    @cached_property
    def terms(self) -> frozenset[str]:
        """Terms of the query."""
        return frozenset(() if self.analyser is None else self.analyser.terms_of_query(self.query))

    def highlights(
        self, payload: Mapping[str, Any], fields: Iterable[str] | None = None
    ) -> dict[str, list[Span]]:
        """Return the parts of each text of a product; see the function `highlights`."""
        if self.analyser is None:
            return {}
        found = {
            name: term_spans(self.analyser, payload[name], self.terms)
            for name in dict.fromkeys(payload if fields is None else fields)
            if isinstance(payload.get(name), str)
        }
        return {name: spans for name, spans in found.items() if spans}


def highlights(
    analyser: Analyser | None, query: str, payload: Mapping[str, Any], fields: Iterable[str] | None = None
) -> dict[str, list[Span]]:
    """Return the parts of each text that BM25 finds for a query; columns without them are left out.

    Words are compared as the index compares them, so "sofas" highlights "Sofa". A span counts code points
    (Python's characters); JavaScript counts UTF-16 units, which differ after an emoji.

    Args:
        analyser: Analyser of the index; None if it was built without texts, which gives no highlights.
        query: Text that was searched for.
        payload: Columns of a product. Only texts are highlighted, not lists or numbers.
        fields: Columns to highlight; None is all columns.
    """
    return Highlighter(analyser, query).highlights(payload, fields)
