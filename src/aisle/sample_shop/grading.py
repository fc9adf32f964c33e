"""Judge products of the sample catalogue as exact, substitute, complement or irrelevant.

A label depends on the meaning of the query and the facts of the product, never on their words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from random import Random
from typing import Literal, NamedTuple

from aisle.sample_shop.shopper_queries import Judged, Need, Query
from aisle.sample_shop.vocabulary import Vocabulary

__all__ = ["Judgement", "Label", "judge", "label_of", "words_of"]

Label = Literal["E", "S", "C", "I"]

_WORD = re.compile(r"[a-z0-9]+")
_STOP_WORDS = frozenset(
    "a an and any but for i in is it my not no of on or that the to with without".split()  # noqa: SIM905
)


class Judgement(NamedTuple):
    """A judged product and its label."""

    product: Judged
    label: Label


def label_of(need: Need, product: Judged, vocabulary: Vocabulary) -> Label:
    """Return E, S, C or I for a product against a need.

    Exact: the wanted type, with every wanted fact and no excluded one. Substitute: the wanted type with a
        wrong
    fact, or a type that can replace it. Complement: a type that goes with it. For a gift, E has the age and
    the theme, S has either, C has the theme but is not made for an age (a toy box).

    Args:
        need: Meaning of the query.
        product: Product to judge.
        vocabulary: Vocabulary, with the types that replace or complement each other.
    """
    fits = need.wants <= product.facts and not need.avoids & product.facts
    if need.type_name is None:
        if product.type_name in vocabulary.gift_types:
            return "E" if fits else "S" if need.wants & product.facts else "I"
        return "C" if need.wants & product.facts else "I"
    if product.type_name == need.type_name:
        return "E" if fits else "S"
    wanted = vocabulary.by_name[need.type_name]
    if product.type_name in wanted.instead:
        return "S"
    return "C" if product.type_name in wanted.goes_with else "I"


def judge(
    query: Query, products: Sequence[Judged], vocabulary: Vocabulary, *, most: dict[Label, int], seed: int
) -> list[Judgement]:
    """Return the judged products of a query, exact ones first, at most `most[label]` of each label.

    Half of the irrelevant products share the most words with the query; the others are drawn at random.
    """
    rng = Random(f"{query.query_id} {seed}")
    of_label: dict[Label, list[Judged]] = {"E": [], "S": [], "C": [], "I": []}
    for product in products:
        of_label[label_of(query.need, product, vocabulary)].append(product)
    # Substitutes of the same type are harder, so they come before those of other types.
    same = [product for product in of_label["S"] if product.type_name == query.need.type_name]
    other = [product for product in of_label["S"] if product.type_name != query.need.type_name]
    spare = max(most["S"] // 4, most["S"] - len(same))
    substitutes = _sample(rng, other, spare)
    substitutes = _sample(rng, same, most["S"] - len(substitutes)) + substitutes
    hard = _most_alike(query.text, of_label["I"], most["I"] // 2)
    found = {product.product_id for product in hard}
    easy = _sample(rng, [p for p in of_label["I"] if p.product_id not in found], most["I"] - len(hard))
    chosen: list[tuple[Label, list[Judged]]] = [
        ("E", _sample(rng, of_label["E"], most["E"])),
        ("S", substitutes),
        ("C", _sample(rng, of_label["C"], most["C"])),
        ("I", hard + easy),
    ]
    return [Judgement(product, label) for label, group in chosen for product in group]


def _sample(rng: Random, products: Sequence[Judged], most: int) -> list[Judged]:
    return rng.sample(products, min(most, len(products)))


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text in lower case, without stop words."""
    return frozenset(_WORD.findall(text.lower())) - _STOP_WORDS


def _most_alike(text: str, products: Iterable[Judged], most: int) -> list[Judged]:
    words = words_of(text)
    shared = [(len(words & product.words), product) for product in products]
    ranked = sorted((pair for pair in shared if pair[0]), key=lambda pair: (-pair[0], pair[1].product_id))
    return [product for _, product in ranked[:most]]
