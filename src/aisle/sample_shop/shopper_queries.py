"""Write queries as shoppers type them: synonyms, misspellings, attributes, purposes, negations.

A query is written from a `Need`: the wanted product type, wanted facts and excluded facts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product as pairs_of
from random import Random
from typing import Literal, NamedTuple

from aisle.sample_shop.vocabulary import ProductType, Vocabulary, is_trailing

__all__ = ["Judged", "Kind", "Need", "Query", "Split", "write_queries"]

Kind = Literal["plain", "synonym", "misspelling", "attribute", "purpose", "negation"]
Split = Literal["train", "validation", "test"]

# Five queries per type: three for training, one for the test, and the last alternates. Most kinds of test
# queries are also trained on the same type, with other words or attributes.
_PLANS: tuple[tuple[Kind, Kind, Kind, Kind, Kind], ...] = (
    ("purpose", "attribute", "synonym", "purpose", "negation"),
    ("synonym", "negation", "attribute", "attribute", "misspelling"),
    ("attribute", "misspelling", "purpose", "synonym", "attribute"),
    ("synonym", "negation", "plain", "negation", "attribute"),
    ("misspelling", "purpose", "synonym", "misspelling", "attribute"),
    ("attribute", "synonym", "purpose", "attribute", "plain"),
    ("synonym", "misspelling", "negation", "synonym", "purpose"),
    ("attribute", "synonym", "negation", "plain", "purpose"),
)
_FIFTH_SPLITS: tuple[Split, ...] = ("validation", "test", "validation", "validation")
_ATTEMPTS = 48  # drafts per query; one with 3 to 12 exact products is kept
_FEW, _MANY = 3, 12
_GIFT_SPLITS: tuple[Split, ...] = ("train", "test", "train", "validation", "train")
_GIFTS = (
    "gift for a {who} who likes {likes}",
    "{likes} present for a {who}",
    "birthday gift {who} loves {likes}",
    "what to get a {who} into {likes}",
)
_ANY_COLOUR_BUT = ("not {}", "any colour but {}", "in anything except {}")


class Judged(NamedTuple):
    """A product, with the facts and words that judging it needs."""

    product_id: str
    title: str
    type_name: str
    facts: frozenset[str]
    """Facts such as `colour:grey`, `size:king`, `brand:Haldene`, `is:leather`."""
    words: frozenset[str]
    """Words of the title, to find irrelevant products that look right."""


@dataclass(frozen=True)
class Need:
    """Meaning of a query."""

    type_name: str | None
    """Wanted type; None for a gift, for which any type with the wanted facts will do."""
    wants: frozenset[str] = frozenset()
    avoids: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Query:
    """A query and its meaning."""

    query_id: str
    text: str
    kind: Kind
    split: Split
    need: Need


def write_queries(products: Sequence[Judged], vocabulary: Vocabulary, *, seed: int) -> list[Query]:
    """Return the queries of the sample; texts are distinct, and each has an exact product in `products`."""
    rng = Random(f"queries {seed}")
    by_type: dict[str, list[Judged]] = defaultdict(list)
    for product in products:
        by_type[product.type_name].append(product)
    queries: list[Query] = []
    texts: set[str] = set()
    for kind, split, drafts in _drafts(by_type, vocabulary, rng):
        text, need = _best_draft(drafts, texts)
        texts.add(text)
        queries.append(Query(f"Q{len(queries) + 1:04d}", text, kind, split, need))
    return queries


class _Draft(NamedTuple):
    text: str
    need: Need
    exact: int


def _best_draft(drafts: Iterator[_Draft], taken: set[str]) -> tuple[str, Need]:
    best: _Draft | None = None
    for _, draft in zip(range(_ATTEMPTS), drafts, strict=False):
        if draft.text in taken or not draft.exact:
            continue
        if best is None or abs(draft.exact - _FEW) < abs(best.exact - _FEW):
            best = draft
        if _FEW <= draft.exact <= _MANY:
            break
    if best is None:  # only if a type has too few words
        raise RuntimeError("the sample vocabulary is too small to write every query once")
    return best.text, best.need


def _drafts(
    by_type: dict[str, list[Judged]], vocabulary: Vocabulary, rng: Random
) -> Iterator[tuple[Kind, Split, Iterator[_Draft]]]:
    splits: tuple[Split, ...] = ("train", "train", "train", "test")
    for place, kind_of_product in enumerate(vocabulary.types):
        plan = _PLANS[place % len(_PLANS)]
        fifth = _FIFTH_SPLITS[place // len(_PLANS) % len(_FIFTH_SPLITS)]
        for kind, split in zip(plan, (*splits, fifth), strict=True):
            writer = _Writer(kind_of_product, by_type[kind_of_product.name], vocabulary, rng)
            if kind == "negation" and not writer.can_rule_out():
                kind = "attribute"
            yield kind, split, writer.drafts(kind)
    gifts = [product for name in sorted(vocabulary.gift_types) for product in by_type[name]]
    people = [name for name, wording in vocabulary.attributes.items() if wording.who]
    themes = [name for name, wording in vocabulary.attributes.items() if wording.likes]
    for place, (person, theme) in enumerate(pairs_of(people, themes)):
        wants = frozenset({f"is:{person}", f"is:{theme}"})
        exact = sum(wants <= product.facts for product in gifts)
        if exact:
            split = _GIFT_SPLITS[place % len(_GIFT_SPLITS)]
            yield "purpose", split, _gift_drafts(person, theme, exact, vocabulary, rng)


def _gift_drafts(
    person: str, theme: str, exact: int, vocabulary: Vocabulary, rng: Random
) -> Iterator[_Draft]:
    need = Need(None, frozenset({f"is:{person}", f"is:{theme}"}))
    who, likes = vocabulary.attributes[person].who, vocabulary.attributes[theme].likes
    while True:
        yield _Draft(rng.choice(_GIFTS).format(who=who, likes=likes), need, exact)


@dataclass(frozen=True)
class _Writer:
    """Writer of draft queries for a product type, each from the facts of an existing product."""

    kind: ProductType
    products: Sequence[Judged]
    vocabulary: Vocabulary
    rng: Random

    def drafts(self, kind: Kind) -> Iterator[_Draft]:
        """Yield drafts of a kind endlessly; texts can repeat."""
        draft_of = {
            "plain": self._plain,
            "synonym": self._synonym,
            "misspelling": self._misspelling,
            "attribute": self._attribute,
            "purpose": self._purpose,
            "negation": self._negation,
        }[kind]
        while self.products:
            yield draft_of()

    def _plain(self) -> _Draft:
        sold = " ".join(self.kind.sell).lower()
        nouns = [noun for noun in self.kind.ask if noun in sold] or list(self.kind.ask)
        return self._asking(self.rng.choice(nouns), self.rng.choice((0, 0, 1)))

    def _synonym(self) -> _Draft:
        sold = " ".join(self.kind.sell).lower()
        nouns = [noun for noun in self.kind.ask if noun not in sold] or list(self.kind.ask)
        return self._asking(self.rng.choice(nouns), self.rng.choice((0, 1, 1)))

    def _misspelling(self) -> _Draft:
        return self._asking(self.rng.choice(self.kind.misspelt), self.rng.choice((0, 1, 1)))

    def _attribute(self) -> _Draft:
        return self._asking(self.rng.choice(self.kind.ask), self.rng.choice((1, 1, 2)))

    def _purpose(self) -> _Draft:
        """Return a purpose with at most a colour: "see in the dark waterproof" is not a sentence."""
        like = self.rng.choice(self.products)
        colours = [fact for fact in like.facts if fact.startswith("colour:")]
        wants = colours if self.rng.random() < 0.5 else []
        words = [self._wording("colour", fact.partition(":")[2]) for fact in wants]
        text = ", ".join([self.rng.choice(self.kind.purposes), *words])
        return self._draft(text, Need(self.kind.name, frozenset(wants)))

    def _negation(self) -> _Draft:
        avoided, wording = self.rng.choice(self._ruled_out())
        like = self.rng.choice([p for p in self.products if avoided not in p.facts] or self.products)
        rivals = next((facet for facet in self.kind.facets if avoided.partition(":")[2] in facet), ())
        wants = self._facts_to_ask(like, self.rng.choice((0, 1)), barred={f"is:{name}" for name in rivals})
        noun = self._compose(self.rng.choice(self.kind.ask), wants)
        return self._draft(f"{noun} {wording}", Need(self.kind.name, frozenset(wants), frozenset({avoided})))

    def _asking(self, noun: str, count: int) -> _Draft:
        wants = self._facts_to_ask(self.rng.choice(self.products), count, barred=set())
        return self._draft(self._compose(noun, wants), Need(self.kind.name, frozenset(wants)))

    def _facts_to_ask(self, like: Judged, count: int, *, barred: set[str]) -> list[str]:
        facts = sorted(like.facts - barred)
        if self.rng.random() < 0.9:  # few shoppers name a brand, and BM25 finds those
            facts = [fact for fact in facts if not fact.startswith("brand:")]
        chosen = self.rng.sample(facts, min(count, len(facts)))
        if barred:  # "not navy" is enough about colour
            chosen = [fact for fact in chosen if not fact.startswith("colour:")]
        return sorted(chosen)

    def can_rule_out(self) -> bool:
        """Return whether the type has words that exclude a fact."""
        return bool(self._ruled_out())

    def _ruled_out(self) -> list[tuple[str, str]]:
        """Return the facts of this type that a shopper can exclude, with the words."""
        choices = [
            (f"is:{name}", wording)
            for facet in self.kind.facets
            for name in facet
            for wording in self.vocabulary.attributes[name].without
        ]
        choices += [
            (f"colour:{name}", self.rng.choice(_ANY_COLOUR_BUT).format(self.vocabulary.colours[name].ask[0]))
            for name in self.kind.colours
        ]
        return choices

    def _compose(self, noun: str, wants: Sequence[str]) -> str:
        before: list[str] = []
        after: list[str] = []
        for fact in wants:
            slot, _, name = fact.partition(":")
            wording = self._wording(slot, name)
            if slot == "colour" and self.rng.random() < 0.3:
                wording = f"in {wording}"
            (after if is_trailing(wording) else before).append(wording)
        return " ".join([*before, noun, *after])

    def _wording(self, slot: str, name: str) -> str:
        if slot == "brand":
            return name.lower()
        if slot == "colour":
            return self.rng.choice(self.vocabulary.colours[name].ask)
        if slot == "size":
            return self.rng.choice(self.vocabulary.size(name).ask)
        return self.rng.choice(self.vocabulary.attributes[name].ask)

    def _draft(self, text: str, need: Need) -> _Draft:
        exact = sum(need.wants <= p.facts and not need.avoids & p.facts for p in self.products)
        return _Draft(text, need, exact)
