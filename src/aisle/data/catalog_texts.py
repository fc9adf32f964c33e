"""The texts of a catalogue's products by their ids, for judgements that name products by id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from aisle.data.rows import BadRows, Problem, id_text

__all__ = ["CatalogTexts"]


@dataclass(frozen=True)
class CatalogTexts:
    """What an index of the catalogue embeds, by product id.

    Attributes:
        texts: product id to text, of the products that are judged.
        near: judged id to one of the catalogue that differs only in how it is written.
        count: products of the catalogue.
        bad_rows: the report of the rows that are not among them.
    """

    texts: Mapping[str, str]
    near: Mapping[str, str]
    count: int
    bad_rows: BadRows

    def text(self, column: str, value: object) -> str | Problem:
        """Return the text of the product with this id, or the problem if the catalogue lacks it."""
        identity = id_text(value)
        if isinstance(identity, Problem):
            return Problem(f"{column} {identity.reason}", identity.found)
        text = self.texts.get(identity)
        if text is not None:
            return text
        near = self.near.get(identity)
        note = "" if near is None else f"; the catalogue has {near!r}"
        return Problem(f"{column} is not in the catalogue", value, note)
