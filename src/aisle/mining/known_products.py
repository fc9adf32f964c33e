"""Products that training data marks as right for a query, and why each is excluded from its negatives."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aisle.data.dpr_json import SEPARATOR
from aisle.data.negatives import equality_keys
from aisle.data.pairs import Pairs, query_key

__all__ = ["REASONS", "KnownProducts", "Passages", "Reason", "text_key"]

Reason = Literal[
    "judged positive",
    "equal text",
    "known positive",
    "partly relevant",
    "equal to the query",
    "has an answer",
    "duplicate",
]
REASONS: Mapping[Reason, str] = {
    "judged positive": "a row of the training data has the product as a positive of the query",
    "equal text": "its text equals that of a positive of the query, apart from case and white space",
    "known positive": "it is a positive of another spelling of the query, or another text of a positive",
    "partly relevant": "it is judged with a relevance above 0 and up to 0.5",
    "equal to the query": "its text equals the query",
    "has an answer": "DPR's json lists an answer to the question that its text contains",
    "duplicate": "its text equals that of a negative that ranks above it",
}
"""Reasons for which a product is not a negative of a query, in the order in which they are checked."""
POSITIVE_ABOVE = 0.5
_WORD = re.compile(r"\w+")


def text_key(text: str) -> str:
    """Return a text without case, surplus white space and the separator of DPR's titles."""
    return query_key(text.replace(SEPARATOR, " "))


@dataclass(frozen=True)
class Passages:
    """What DPR's json has of a question besides its texts.

    Attributes:
        ids: Ids of the positive passages.
        answers: Answers to the question, as words with a space around each.
    """

    ids: frozenset[str] = frozenset()
    answers: tuple[str, ...] = ()

    @classmethod
    def of(cls, ids: Iterable[str], answers: Iterable[str]) -> Passages:
        """Return the passages of a question; an answer without words is ignored."""
        return cls(frozenset(ids), tuple(answer for answer in map(_words, answers) if answer.strip()))


@dataclass
class _Known:
    """Products of a query, by id and by text."""

    ids: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    """Texts as they are, for pairs without product ids."""
    keys: set[str] = field(default_factory=set)
    """Keys of the texts, see `text_key`."""

    def has(self, product_id: str, key: str) -> bool:
        return product_id in self.ids or key in self.keys

    def add_all(self, other: _Known) -> None:
        self.ids |= other.ids
        self.keys |= other.keys


@dataclass(frozen=True)
class KnownProducts:
    """Products that the training data mark as relevant, by query.

    Two queries are the same if they share a text (apart from case and white space) or an id; two products
    likewise; both directly or through others.
    """

    _own: Mapping[str, _Known]
    """Positives in the rows with this text of the query."""
    _connected: Mapping[str, _Known]
    """All positives of the query, and all texts and ids of these products."""
    _partly: Mapping[str, _Known]
    _passages: Mapping[str, Passages]

    @classmethod
    def of(
        cls, pairs: Pairs, texts: Mapping[str, str], *, passages: Mapping[str, Passages] | None = None
    ) -> KnownProducts:
        """Return the relevant products among pairs.

        Args:
            pairs: Training pairs.
            texts: Product id to text in the catalogue; both this and the text of the pair are the product's.
            passages: Question to its passages in DPR's json.
        """
        queries, products, ids = pairs.queries, pairs.products, pairs.product_ids
        relevance = pairs.relevance
        levels = [1.0] * len(pairs) if relevance is None else relevance.tolist()
        product_of = equality_keys([text_key(text) for text in products], ids).tolist()
        query_of = equality_keys([query_key(text) for text in queries], pairs.query_ids).tolist()
        same: dict[int, _Known] = defaultdict(_Known)
        own: dict[str, _Known] = defaultdict(_Known)
        members: dict[int, set[int]] = defaultdict(set)
        partly: dict[int, set[int]] = defaultdict(set)
        for row, (query, product, level) in enumerate(zip(queries, products, levels, strict=True)):
            kinds = [same[product_of[row]]]
            if level > POSITIVE_ABOVE:
                members[query_of[row]].add(product_of[row])
                kinds.append(own[query])
            elif level > 0:
                partly[query_of[row]].add(product_of[row])
            for known in kinds:
                _note(known, product, None if ids is None else ids[row], texts)
        group_of = dict(zip(queries, query_of, strict=True))
        return cls(
            own,
            {query: _union(same, members[group]) for query, group in group_of.items()},
            {query: _union(same, partly[group]) for query, group in group_of.items()},
            passages or {},
        )

    def reason(self, query: str, product_id: str, text: str) -> Reason | None:
        """Return why a product of the catalogue is not a negative of a query of the pairs, or None."""
        key, own, passages = text_key(text), self._own.get(query, _Known()), self._passages.get(query)
        passages = passages or Passages()
        checks: Sequence[tuple[Reason, bool]] = (
            ("judged positive", product_id in own.ids or product_id in passages.ids or text in own.texts),
            ("equal text", key in own.keys),
            ("known positive", self._connected[query].has(product_id, key)),
            ("partly relevant", self._partly[query].has(product_id, key)),
            ("equal to the query", key == text_key(query)),
        )
        for reason, excluded in checks:
            if excluded:
                return reason
        words = _words(text) if passages.answers else ""
        return "has an answer" if any(answer in words for answer in passages.answers) else None


def _note(known: _Known, product: str, product_id: str | None, texts: Mapping[str, str]) -> None:
    known.keys.add(text_key(product))
    if product_id is None:
        known.texts.add(product)
        return
    known.ids.add(product_id)
    if product_id in texts:
        known.keys.add(text_key(texts[product_id]))


def _union(products: Mapping[int, _Known], numbers: Iterable[int]) -> _Known:
    union = _Known()
    for number in numbers:
        union.add_all(products[number])
    return union


def _words(text: str) -> str:
    """Return the words of a text in lower case and with composed accents, with a space around each."""
    composed = text if text.isascii() else unicodedata.normalize("NFC", text)
    return f" {' '.join(_WORD.findall(composed.casefold()))} "
