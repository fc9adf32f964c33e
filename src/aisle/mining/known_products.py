"""Products that training data marks as right for a query, and why each is excluded from its negatives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from aisle.data.negatives import equality_keys
from aisle.data.pairs import Pairs, query_key
from aisle.mining.reasons import Reason
from aisle.mining.text_keys import text_key, words_of

__all__ = ["ANY_RELEVANCE", "POSITIVE_ABOVE", "KnownProducts", "Passages", "relevance_levels"]

POSITIVE_ABOVE = 0.5
ANY_RELEVANCE = float(np.nextafter(np.float32(0), np.float32(1)))
"""Lowest relevance above 0."""


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
class _Known:
    """Products of a query, by id and by text."""

    ids: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    """Texts as they are, for pairs without product ids."""
    keys: set[str] = field(default_factory=set)
    """Keys of the texts, see `text_key`."""
    words: set[str] = field(default_factory=set)
    """Words of the texts, without punctuation."""

    def has(self, product_id: str, key: str) -> bool:
        return product_id in self.ids or key in self.keys

    def add_all(self, other: _Known) -> None:
        self.ids |= other.ids
        self.keys |= other.keys
        self.words |= other.words


_ByLevel = Mapping[float, _Known]
"""Products of a query by the relevance that they are judged with."""


@dataclass(frozen=True)
class KnownProducts:
    """Products that the training data mark as relevant, by query.

    Two queries are the same if they share a text (apart from case and white space) or an id; two products
    likewise; both directly or through others.

    Attributes:
        query_number: Query to its number, equal for queries that are the same.
    """

    query_number: Mapping[str, int]
    _own: Mapping[str, _ByLevel]
    """Relevant products in the rows with this text of the query."""
    _connected: Mapping[int, _ByLevel]
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
        same: dict[int, _Known] = defaultdict(_Known)
        own: dict[str, dict[float, _Known]] = defaultdict(lambda: defaultdict(_Known))
        members: dict[int, dict[float, set[int]]] = defaultdict(lambda: defaultdict(set))
        for row, (query, product, level) in enumerate(zip(queries, products, levels, strict=True)):
            kinds = [same[product_of[row]]]
            members[query_of[row]][level].add(product_of[row])
            if level > 0:
                kinds.append(own[query][level])
            for known in kinds:
                _note(known, product, None if ids is None else ids[row], texts)
        return cls(
            dict(zip(queries, query_of, strict=True)),
            own,
            {
                number: {level: _union(same, numbers) for level, numbers in by_level.items()}
                for number, by_level in members.items()
            },
            passages or {},
        )

    def positives(self, query: str, *, lowest: float | None = None) -> tuple[frozenset[str], frozenset[str]]:
        """Return the ids and the keys of the texts (`text_key`) of a query's positives.

        Args:
            query: Query of the pairs.
            lowest: Lowest relevance of a positive; None for all above 0.5.
        """
        passages = self._passages.get(query, Passages())
        union = _Known()
        for level, known in self._connected.get(self.query_number[query], {}).items():
            if level > POSITIVE_ABOVE if lowest is None else level >= lowest:
                union.add_all(known)
        return frozenset(union.ids | passages.ids), frozenset(union.keys)

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
        own, connected = (
            [(level, known) for level, known in by_level.items() if level >= lowest]
            for by_level in (self._own.get(query, {}), self._connected.get(self.query_number[query], {}))
        )
        mine = [known for level, known in own if level > POSITIVE_ABOVE]
        right = [known for level, known in connected if level > POSITIVE_ABOVE]
        partly = [known for level, known in connected if level <= POSITIVE_ABOVE]
        named = product_id in passages.ids
        checks: Sequence[tuple[Reason, bool]] = (
            ("judged positive", named or any(product_id in one.ids or text in one.texts for one in mine)),
            ("equal text", any(key in one.keys for one in mine)),
            ("known positive", any(one.has(product_id, key) for one in right)),
            ("partly relevant", any(one.has(product_id, key) for one in partly)),
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
        levels = self._connected.get(self.query_number[query], {})
        return bool(words.strip()) and any(
            words in known.words for level, known in levels.items() if level >= lowest
        )

    def level(self, query: str, product_id: str, text: str) -> float | None:
        """Return the highest relevance that a product is judged with for the query; None if it is not."""
        levels, key = self._connected.get(self.query_number[query], {}), text_key(text)
        return max((level for level, known in levels.items() if known.has(product_id, key)), default=None)


def relevance_levels(pairs: Pairs) -> list[float]:
    """Return the relevance of each pair; 1 for pairs without labels."""
    relevance = pairs.relevance
    levels: list[float] = [1.0] * len(pairs) if relevance is None else relevance.tolist()
    return levels


def _note(known: _Known, product: str, product_id: str | None, texts: Mapping[str, str]) -> None:
    known.keys.add(text_key(product))
    known.words.add(words_of(product))
    if product_id is None:
        known.texts.add(product)
        return
    known.ids.add(product_id)
    if product_id in texts:
        known.keys.add(text_key(texts[product_id]))
        known.words.add(words_of(texts[product_id]))


def _union(products: Mapping[int, _Known], numbers: Iterable[int]) -> _Known:
    union = _Known()
    for number in numbers:
        union.add_all(products[number])
    return union
