"""Draw the products of the sample catalogue from the vocabularies.

A single random generator serves all draws in order, so a product does not depend on how many follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from aisle.errors import DataError
from aisle.sample_shop.vocabulary import ProductType, Vocabulary, Wording, is_trailing, load_vocabulary

__all__ = ["Drawn", "Product", "draw_products", "iter_products"]

_MODEL_LETTERS = "ABCDEFGHKLMNPRSTVX"
_PRAISE = ("New", "Gift Idea", "Bestseller", "Updated Design", "Boxed", "Limited Run")
_RANGE_ONLY, _RANGE_AND_NOUN = 0.2, 0.4
"""Draws below the first number give a title with the house range and no noun; below the second, with both."""


class Product(NamedTuple):
    """A row of the catalogue."""

    product_id: str
    title: str
    brand: str
    colour: str
    """Colour as the seller names it; empty for a type without colours."""
    size: str
    price: float
    department: str
    product_type: str
    description: str


class Drawn(NamedTuple):
    """A product, and the facts that its title states in the words of a seller."""

    product: Product
    facts: tuple[str, ...]
    """Facts such as `colour:grey`, `size:king`, `brand:Haldene`, `is:leather`."""


def iter_products(count: int, *, seed: int = 0) -> Iterator[Product]:
    """Yield the first `count` products of the shop of a seed; a larger count adds products at the end.

    Raises:
        DataError: `count` is negative.
    """
    if count < 0:
        raise DataError(f"products: must be 0 or more, found {count}; ask for as many products as you need")
    return (drawn.product for drawn in draw_products(count, seed=seed))


@dataclass(frozen=True)
class _Choice:
    """A value of a slot: the fact, and the ways to print it (text, whether it follows the noun)."""

    fact: str
    printed: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class _Plan:
    """A product type with all its wordings, ready to draw from."""

    kind: ProductType
    facets: tuple[tuple[_Choice, ...], ...]
    colours: tuple[_Choice, ...]
    sizes: tuple[_Choice, ...]


def draw_products(count: int, *, seed: int) -> Iterator[Drawn]:
    """Yield the first `count` products with their facts; each round has every type once, in random order."""
    plans = _plans(load_vocabulary())
    rng = Random(seed)
    order: list[_Plan] = []
    for number in range(1, count + 1):
        if not order:
            order = list(plans)
            rng.shuffle(order)
        yield _draw_one(f"P{number:07d}", order.pop(), rng.random)


def _plans(vocabulary: Vocabulary) -> tuple[_Plan, ...]:
    return tuple(
        _Plan(
            kind=kind,
            facets=tuple(
                tuple(_choice("is", name, vocabulary.attributes[name]) for name in facet)
                for facet in kind.facets
            ),
            colours=tuple(_choice("colour", name, vocabulary.colours[name]) for name in kind.colours),
            sizes=tuple(_choice("size", name, vocabulary.size(name)) for name in kind.sizes),
        )
        for kind in vocabulary.types
    )


def _choice(slot: str, name: str, wording: Wording) -> _Choice:
    return _Choice(f"{slot}:{name}", tuple((text, is_trailing(text)) for text in wording.sell))


def _draw_one(product_id: str, plan: _Plan, draw: Callable[[], float]) -> Drawn:
    # int(draw() * n) is 3 times faster than Random.choice, which matters for a million products.
    kind = plan.kind
    brand = kind.brands[int(draw() * len(kind.brands))]
    facts = [f"brand:{brand}"]
    before: list[str] = []
    after: list[str] = []
    for facet in plan.facets:
        text, follows = _pick(facet, facts, draw)
        (after if follows else before).append(text)
    colour = _pick(plan.colours, facts, draw)[0] if plan.colours else ""
    size = _pick(plan.sizes, facts, draw)[0] if plan.sizes else ""
    noun = _noun(kind, draw)
    title = _title(brand, noun, before, after, colour, size, kind.ask, draw)
    low, high = kind.price
    price = round(low + (high - low) * draw() ** 2) - 0.01  # most products are cheap
    description = _describe(kind, brand, before + after, colour, size, draw)
    product = Product(product_id, title, brand, colour, size, price, kind.department, kind.name, description)
    return Drawn(product, tuple(facts))


def _pick(choices: tuple[_Choice, ...], facts: list[str], draw: Callable[[], float]) -> tuple[str, bool]:
    choice = choices[int(draw() * len(choices))]
    facts.append(choice.fact)
    return choice.printed[int(draw() * len(choice.printed))]


def _noun(kind: ProductType, draw: Callable[[], float]) -> str:
    chance = draw()
    noun = kind.sell[int(draw() * len(kind.sell))]
    if chance >= _RANGE_AND_NOUN:
        return noun
    house_range = kind.ranges[int(draw() * len(kind.ranges))]
    return house_range if chance < _RANGE_ONLY else f"{house_range} {noun}"


def _title(
    brand: str,
    noun: str,
    before: list[str],
    after: list[str],
    colour: str,
    size: str,
    keywords: tuple[str, ...],
    draw: Callable[[], float],
) -> str:
    """Return a title in one of four orders that sellers use; some end with a keyword that shoppers type."""
    front, back, details = " ".join(before), " ".join(after), ", ".join(filter(None, (colour, size)))
    style = int(draw() * 4)
    if style == 0:
        parts = [brand, front, noun, back]
        tail = f", {details}" if details else ""
    elif style == 1:
        parts = [brand, noun, back, "-" if before else "", ", ".join(before)]
        tail = f", {details}" if details else ""
    elif style == 2:
        parts = [front, noun, back, "by", brand]
        tail = f" ({details})" if details else ""
    else:
        parts = [brand, colour, size, front, noun, back]
        tail = ""
    title = " ".join(filter(None, parts)) + tail
    extra = draw()
    if extra < 0.45:
        letters = _MODEL_LETTERS[int(draw() * 18)] + _MODEL_LETTERS[int(draw() * 18)]
        return f"{title} {letters}{100 + int(draw() * 900)}"
    if extra < 0.75:
        keyword = keywords[int(draw() * len(keywords))].title()
        return title if keyword in title else f"{title} - {keyword}"
    return f"{title} - {_PRAISE[int(draw() * len(_PRAISE))]}" if extra < 0.85 else title


def _describe(
    kind: ProductType, brand: str, features: list[str], colour: str, size: str, draw: Callable[[], float]
) -> str:
    noun = kind.ask[int(draw() * len(kind.ask))]
    listed = "; ".join(filter(None, [*features, colour, size]))
    return f"{noun.capitalize()} from {brand}. {listed}."
