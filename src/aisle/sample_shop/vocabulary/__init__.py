"""Read the hand-written vocabularies of the sample catalogue: product types, words, nonsense queries.

`departments/*.yaml` holds the product types; `attributes.yaml`, `colours.yaml` and `sizes.yaml` hold how a
seller prints a property and how a shopper types it. They differ on purpose: a model learns the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ProductType", "Vocabulary", "Wording", "is_trailing", "load_vocabulary", "nonsense_queries"]

# A wording that starts with one of these words follows the noun: "sofa with drawers", not "with drawers
# sofa".
_LEADING_WORDS = frozenset(
    "with without for from in to that not no by ages age on and set like".split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Wording:
    """Words of sellers and shoppers for a property."""

    sell: tuple[str, ...]
    """Words of sellers, in titles."""
    ask: tuple[str, ...]
    """Words of shoppers, in queries."""
    without: tuple[str, ...] = ()
    """Words of shoppers that exclude the property."""
    who: str | None = None
    """Person in "gift for a ... who likes ...", if the property is an age."""
    likes: str | None = None
    """Subject in the same phrase, if the property is a theme."""


@dataclass(frozen=True)
class ProductType:
    """A type of product that the shop sells."""

    name: str
    department: str
    brands: tuple[str, ...]
    sell: tuple[str, ...]
    """Nouns of titles."""
    ask: tuple[str, ...]
    """Nouns of queries."""
    misspelt: tuple[str, ...]
    ranges: tuple[str, ...]
    """House ranges; some titles have a range and no noun."""
    facets: tuple[tuple[str, ...], ...]
    """A product has one attribute of each facet."""
    colours: tuple[str, ...]
    sizes: tuple[str, ...]
    price: tuple[float, float]
    purposes: tuple[str, ...]
    """Queries that state the purpose of the product without its name."""
    instead: tuple[str, ...]
    """Types that a shopper might buy instead."""
    goes_with: tuple[str, ...]
    """Types that are bought together with it."""


@dataclass(frozen=True)
class Vocabulary:
    """Product types, and the words for their properties."""

    types: tuple[ProductType, ...]
    attributes: dict[str, Wording]
    colours: dict[str, Wording]
    sizes: dict[str, Wording]

    @cached_property
    def by_name(self) -> dict[str, ProductType]:
        """The types by their names."""
        return {kind.name: kind for kind in self.types}

    @cached_property
    def gift_types(self) -> frozenset[str]:
        """Names of the types that have both an age and a theme, so that gift queries suit them."""
        return frozenset(
            kind.name
            for kind in self.types
            if any(self.attributes[name].who for facet in kind.facets for name in facet)
            and any(self.attributes[name].likes for facet in kind.facets for name in facet)
        )

    def size(self, name: str) -> Wording:
        """Return the words for a size; shoppers and sellers use the same for one that `sizes.yaml` lacks."""
        return self.sizes.get(name) or Wording(sell=(name,), ask=(name.lower(),))


def is_trailing(wording: str) -> bool:
    """Return whether a wording follows the noun ("with drawers") instead of preceding it ("oak")."""
    return wording.split(maxsplit=1)[0].lower() in _LEADING_WORDS


@lru_cache(maxsize=1)
def load_vocabulary() -> Vocabulary:
    """Return the vocabularies of the package, read once per process."""
    folder = Path(__file__).parent
    departments = sorted(folder.joinpath("departments").glob("*.yaml"))
    types = [
        _product_type(name, entry, document)
        for document in map(_read_yaml, departments)
        for name, entry in document["types"].items()
    ]
    attributes, colours, sizes = (
        {str(name): _wording(entry) for name, entry in _read_yaml(folder.joinpath(file)).items()}
        for file in ("attributes.yaml", "colours.yaml", "sizes.yaml")
    )
    return Vocabulary(types=tuple(types), attributes=attributes, colours=colours, sizes=sizes)


def nonsense_queries() -> dict[str, tuple[str, ...]]:
    """Return queries that no product of the shop answers, by their kind: noise, elsewhere, empty."""
    document = _read_yaml(Path(__file__).parent / "nonsense.yaml")
    return {kind: _strings(queries) for kind, queries in document.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader reads these files 8 times faster
    document: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return document


def _strings(values: list[object]) -> tuple[str, ...]:
    return tuple(str(value) for value in values)


def _wording(entry: dict[str, Any]) -> Wording:
    return Wording(
        sell=_strings(entry["sell"]),
        ask=_strings(entry["ask"]),
        without=_strings(entry.get("without", [])),
        who=entry.get("who"),
        likes=entry.get("likes"),
    )


def _product_type(name: str, entry: dict[str, Any], document: dict[str, Any]) -> ProductType:
    low, high = entry["price"]
    return ProductType(
        name=name,
        department=document["department"],
        brands=_strings(document["brands"]),
        sell=_strings(entry["sell"]),
        ask=_strings(entry["ask"]),
        misspelt=_strings(entry["misspelt"]),
        ranges=_strings(entry["ranges"]),
        facets=tuple(_strings(facet) for facet in entry["facets"]),
        colours=_strings(entry.get("colours", [])),
        sizes=_strings(entry.get("sizes", [])),
        price=(float(low), float(high)),
        purposes=_strings(entry["purposes"]),
        instead=_strings(entry["instead"]),
        goes_with=_strings(entry["with"]),
    )
