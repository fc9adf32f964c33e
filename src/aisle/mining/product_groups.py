"""Groups of products: variants of a product are never negatives of each other's queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aisle.data.pairs import Pairs
from aisle.mining.known_products import UNJUDGED, KnownProducts, relevance_levels
from aisle.mining.reasons import Reason
from aisle.mining.text_keys import text_key

__all__ = ["GroupColumns", "ProductGroups"]


@dataclass(frozen=True)
class GroupColumns:
    """Columns of the catalogue with groups; None without.

    Attributes:
        group: Column whose products are variants of each other if they have the same value.
        subgroup: Column of the subgroup of pairs.
    """

    group: str | None = None
    subgroup: str | None = None

    def names(self) -> list[str]:
        """Return the columns that there are."""
        return [name for name in (self.group, self.subgroup) if name is not None]


@dataclass(frozen=True)
class ProductGroups:
    """Groups and subgroups of the queries' products.

    Attributes:
        columns: Columns of the catalogue.
    """

    columns: GroupColumns
    _group_by_id: Mapping[str, str]
    """Product id to group, from the pairs."""
    _group_by_key: Mapping[str, str]
    """Key of a product's text to group, from the pairs."""
    _relevant: Mapping[int, Mapping[str, float]]
    """Number of a query to the groups of its relevant products, with the highest relevance, by the pairs."""
    _subgroups: Mapping[int, set[str]]
    """Number of a query to the subgroups of its pairs."""

    @classmethod
    def of(cls, pairs: Pairs, known: KnownProducts, columns: GroupColumns) -> ProductGroups:
        """Return the groups that pairs have.

        Args:
            pairs: Training pairs, with or without `product_group` and `subgroup`.
            known: Relevant products of the pairs.
            columns: Columns of the catalogue that have groups too.
        """
        by_id: dict[str, str] = {}
        by_key: dict[str, str] = {}
        relevant: dict[int, dict[str, float]] = defaultdict(dict)
        subgroups: dict[int, set[str]] = defaultdict(set)
        numbers = [known.query_number[query] for query in pairs.queries]
        if pairs.product_groups is not None:
            ids: Sequence[str | None] = pairs.product_ids or [None] * len(pairs)
            rows = zip(
                pairs.product_groups, pairs.products, ids, numbers, relevance_levels(pairs), strict=True
            )
            for group, product, product_id, number, level in rows:
                if group is None:
                    continue
                by_key[text_key(product)] = group
                if product_id is not None:
                    by_id[product_id] = group
                if level > 0:
                    _raise_level(relevant[number], group, level)
        for number, subgroup in zip(numbers, pairs.subgroups or (), strict=False):
            subgroups[number].add(subgroup)
        return cls(columns, by_id, by_key, relevant, subgroups)

    def of_relevant(
        self, number: int, payload: Iterable[Mapping[str, object]], levels: Iterable[float]
    ) -> Mapping[str, float]:
        """Return the groups of a query's relevant products, with their highest relevance.

        Args:
            number: Number of the query.
            payload: Values of those that the catalogue has.
            levels: Relevance of those.
        """
        found = dict(self._relevant.get(number, {}))
        for values, level in zip(payload, levels, strict=True):
            name = _name(values.get(str(self.columns.group)))
            if name is not None:
                _raise_level(found, name, level)
        return found

    def reasons(
        self,
        number: int,
        relevant: Mapping[str, float],
        *,
        lowest: float,
        product_id: str,
        text: str,
        payload: Mapping[str, object],
    ) -> Sequence[Reason]:
        """Return which of the two reasons hold for a product: "same group", "same subgroup".

        Args:
            number: Number of the query.
            relevant: Groups of its relevant products, see `of_relevant`.
            lowest: Lowest relevance of products that exclude their group.
            product_id: Id of the product.
            text: Text of the product.
            payload: Values of the product in the catalogue.
        """
        groups = {
            _name(payload.get(str(self.columns.group))),
            self._group_by_id.get(product_id),
            self._group_by_key.get(text_key(text)) if self._group_by_key else None,
        }
        found: list[Reason] = []
        if any(name is not None and relevant.get(name, UNJUDGED) >= lowest for name in groups):
            found.append("same group")
        if _name(payload.get(str(self.columns.subgroup))) in self._subgroups.get(number, set()):
            found.append("same subgroup")
        return found


def _raise_level(levels: dict[str, float], group: str, level: float) -> None:
    levels[group] = max(level, levels.get(group, level))


def _name(value: object) -> str | None:
    """Return the name of a group, as pairs have it; None if the product has none."""
    name = "" if value is None else str(value).strip()
    return name or None
