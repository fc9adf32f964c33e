"""Products that training data marks as right for a query, and why each is excluded from its negatives."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aisle.data.negatives import equality_keys
from aisle.data.pairs import Pairs, query_key
from aisle.mining.reasons import Reason
from aisle.mining.text_keys import text_key, words_of

__all__ = ["ANY_RELEVANCE", "POSITIVE_ABOVE", "UNJUDGED", "KnownProducts", "Passages", "relevance_levels"]

POSITIVE_ABOVE = 0.5
ANY_RELEVANCE = float(np.nextafter(np.float32(0), np.float32(1)))
"""Lowest relevance above 0."""
UNJUDGED = -math.inf
"""In place of the relevance of a product that is not judged."""


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
        return cls(frozenset(ids), tuple(answer for answer in map(words_of, answers) if answer.strip()))


@dataclass
class _Names:
    """Ids and texts of a product."""

    ids: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    """Texts as they are, for pairs without product ids."""
    keys: set[str] = field(default_factory=set)
    """Keys of the texts, see `text_key`."""
    words: set[str] = field(default_factory=set)
    """Words of the texts, without punctuation."""

    def add(self, other: _Names) -> None:
        """Add what names the product in the rows of all queries: not its texts as they are."""
        self.ids |= other.ids
        self.keys |= other.keys
        self.words |= other.words


@dataclass(frozen=True)
class _Judged:
    """Highest relevance of a query's judged products, by each of their names.

    A lookup takes the same time for any number of products and of relevance levels.
    """

    ids: dict[str, float] = field(default_factory=dict)
    texts: dict[str, float] = field(default_factory=dict)
    keys: dict[str, float] = field(default_factory=dict)
    words: dict[str, float] = field(default_factory=dict)

    def add(self, product: _Names, level: float) -> None:
        for levels, names in (
            (self.ids, product.ids),
            (self.texts, product.texts),
            (self.keys, product.keys),
            (self.words, product.words),
        ):
            for name in names:
                levels[name] = max(level, levels.get(name, level))

    def level(self, product_id: str, key: str) -> float:
        """Return the highest relevance of a product; `UNJUDGED` if it has none."""
        return max(self.ids.get(product_id, UNJUDGED), self.keys.get(key, UNJUDGED))


_NOTHING = _Judged()


@dataclass(frozen=True)
class KnownProducts:
    """Products that the training data mark as relevant, by query.

    Two queries are the same if they share a text (apart from case and white space) or an id; two products
    likewise; both directly or through others.

    Attributes:
        query_number: Query to its number, equal for queries that are the same.
    """

    query_number: Mapping[str, int]
    _own: Mapping[str, _Judged]
    """Relevant products in the rows with this text of the query."""
    _connected: Mapping[int, _Judged]
    """All products of the query by its number, and all texts and ids of these products."""
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
        levels = relevance_levels(pairs)
        product_of = equality_keys([text_key(text) for text in products], ids).tolist()
        query_of = equality_keys([query_key(text) for text in queries], pairs.query_ids).tolist()
        names: dict[int, _Names] = defaultdict(_Names)
        own: dict[str, _Judged] = defaultdict(_Judged)
        members: dict[int, dict[int, float]] = defaultdict(dict)
        for row, (query, product, level) in enumerate(zip(queries, products, levels, strict=True)):
            found = _names(product, None if ids is None else ids[row], texts)
            names[product_of[row]].add(found)
            judged = members[query_of[row]]
            judged[product_of[row]] = max(level, judged.get(product_of[row], level))
            if level > 0:
                own[query].add(found, level)
        connected: dict[int, _Judged] = defaultdict(_Judged)
        for number, judged in members.items():
            for product_number, level in judged.items():
                connected[number].add(names[product_number], level)
        return cls(dict(zip(queries, query_of, strict=True)), own, connected, passages or {})

    def positives(self, query: str) -> tuple[frozenset[str], frozenset[str]]:
        """Return the ids and the keys of the texts (`text_key`) of a query's positives.

        Args:
            query: Query of the pairs.
        """
        ids, keys = (
            frozenset(name for name, level in levels.items() if level > POSITIVE_ABOVE)
            for levels in self.levels(query)
        )
        return ids, keys

    def levels(self, query: str) -> tuple[Mapping[str, float], Mapping[str, float]]:
        """Return the highest relevance of a query's judged products, by id and by the key of their text.

        Positive passages of DPR's json have an infinite relevance.

        Args:
            query: Query of the pairs.
        """
        judged, passages = self._connected_to(query), self._passages.get(query, Passages())
        return {**judged.ids, **dict.fromkeys(passages.ids, math.inf)}, judged.keys

    def reason(
        self, query: str, product_id: str, text: str, *, lowest: float = ANY_RELEVANCE
    ) -> Reason | None:
        """Return why a product of the catalogue is not a negative of a query of the pairs, or None.

        Args:
            query: Query of the pairs.
            product_id: Id of the product.
            text: Text of the product.
            lowest: Lowest relevance, above 0, of a judged product that is not a negative.
        """
        key, passages = text_key(text), self._passages.get(query) or Passages()
        own, connected = self._own.get(query, _NOTHING), self._connected_to(query)

        def positive(level: float) -> bool:
            return level >= lowest and level > POSITIVE_ABOVE

        mine = max(own.ids.get(product_id, UNJUDGED), own.texts.get(text, UNJUDGED))
        named = product_id in passages.ids
        checks: Sequence[tuple[Reason, bool]] = (
            ("judged positive", named or positive(mine)),
            ("equal text", positive(own.keys.get(key, UNJUDGED))),
            ("known positive", positive(connected.level(product_id, key))),
            ("partly relevant", connected.level(product_id, key) >= lowest),
            ("equal to the query", key == text_key(query)),
        )
        for reason, excluded in checks:
            if excluded:
                return reason
        words = words_of(text) if passages.answers else ""
        return "has an answer" if any(answer in words for answer in passages.answers) else None

    def has_words_of_relevant(self, query: str, text: str, *, lowest: float) -> bool:
        """Return whether a text has the words of a product with at least this relevance, in their order."""
        words = words_of(text)
        return bool(words.strip()) and self._connected_to(query).words.get(words, UNJUDGED) >= lowest

    def level(self, query: str, product_id: str, text: str) -> float | None:
        """Return the highest relevance that a product is judged with for the query; None if it is not."""
        level = self._connected_to(query).level(product_id, text_key(text))
        return None if level == UNJUDGED else level

    def _connected_to(self, query: str) -> _Judged:
        return self._connected.get(self.query_number[query], _NOTHING)


def relevance_levels(pairs: Pairs) -> list[float]:
    """Return the relevance of each pair; 1 for pairs without labels."""
    relevance = pairs.relevance
    levels: list[float] = [1.0] * len(pairs) if relevance is None else relevance.tolist()
    return levels


def _names(product: str, product_id: str | None, texts: Mapping[str, str]) -> _Names:
    """Return the names of the product of a pair; a pair without an id names it by its text as it is."""
    if product_id is None:
        return _Names(set(), {product}, {text_key(product)}, {words_of(product)})
    found = [product, *([texts[product_id]] if product_id in texts else ())]
    return _Names({product_id}, set(), set(map(text_key, found)), set(map(words_of, found)))
