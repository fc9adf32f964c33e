"""Texts of a catalogue by product id, for pairs and judgements that name products by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from aisle.data.rows import BadRows, Problem, id_text

__all__ = ["CatalogTexts", "ProductIds", "ProductTexts"]


class ProductTexts(Protocol):
    """What pairs name a product by, found by its id."""

    def text(self, column: str, value: object) -> str | Problem:
        """Return the text of the product with an id, or the problem with the id in `column`."""


class ProductIds:
    """Ids in place of texts, for pairs whose products are looked up later."""

    def text(self, column: str, value: object) -> str | Problem:
        """Return the id as a text, or a problem if it is no id."""
        identity = id_text(value)
        return (
            Problem(f"{column} {identity.reason}", identity.found)
            if isinstance(identity, Problem)
            else identity
        )


@dataclass(frozen=True)
class CatalogTexts:
    """Texts of the judged products, by product id, as an index would embed them.

    Attributes:
        texts: Product id to text, for the judged products.
        near: Judged id to a catalogue id with another spelling.
        count: Number of products in the catalogue.
        bad_rows: Report of the rows that were left out.
    """

    texts: Mapping[str, str]
    near: Mapping[str, str]
    count: int
    bad_rows: BadRows

    def text(self, column: str, value: object) -> str | Problem:
        """Return the text of the product with this id, or a problem if the catalogue lacks it."""
        identity = id_text(value)
        if isinstance(identity, Problem):
            return Problem(f"{column} {identity.reason}", identity.found)
        text = self.texts.get(identity)
        if text is not None:
            return text
        near = self.near.get(identity)
        note = "" if near is None else f"; the catalogue has {near!r}"
        return Problem(f"{column} is not in the catalogue", value, note)
