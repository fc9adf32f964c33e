"""Number the pairs in rows of clicks, and find the pairs whose clicks are summed."""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np

from aisle.data.click_counts import Ints
from aisle.data.digests import text_digest
from aisle.data.pair_cells import read_product_group
from aisle.data.pair_columns import PairColumns
from aisle.data.pairs import query_key
from aisle.data.rows import Problem, id_text, text_problem

__all__ = ["PairNumbers"]

NO_GROUP = -1


class PairNumbers:
    """Numbers of the pairs of a query and a product, with the groups of the products.

    Queries are equal if they differ only in case and white space. A product has the group of its first row
    that names a group, in all its rows; a row that names another is a bad row.

    Args:
        columns: Columns of query, product and group.
    """

    def __init__(self, columns: PairColumns) -> None:
        self.columns = columns
        self._pairs: dict[bytes, int] = {}
        self._queries: dict[bytes, int] = {}
        self._products: dict[bytes, int] = {}
        self._groups: dict[str, int] = {}
        self._group_names: list[str] = []
        self._query_of, self._product_of = array("q"), array("q")  # of each pair
        self._group_of = array("q")  # of each product

    def __len__(self) -> int:
        return len(self._pairs)

    def add(self, values: Mapping[str, object]) -> int | Problem:
        """Return the number of a row's pair, which may be new, or the problem with the row."""
        named = self._named(values)
        if isinstance(named, Problem):
            return named
        query, product, group = named
        number = self._products.setdefault(text_digest(product), len(self._products))
        if number == len(self._group_of):
            self._group_of.append(NO_GROUP)
        if group is not None and self._group_of[number] == NO_GROUP:
            if group not in self._groups:
                self._groups[group] = len(self._group_names)
                self._group_names.append(group)
            self._group_of[number] = self._groups[group]
        pair = self._pairs.setdefault(_pair_digest(query, product), len(self._pairs))
        if pair == len(self._query_of):
            self._query_of.append(self._queries.setdefault(text_digest(query), len(self._queries)))
            self._product_of.append(number)
        return pair

    def find(self, values: Mapping[str, object]) -> int | Problem:
        """Return the number of the pair of a row that was added, or the problem with the row."""
        named = self._named(values)
        return named if isinstance(named, Problem) else self._pairs[_pair_digest(*named[:2])]

    def items(self) -> Ints:
        """Return the item of each pair, (pairs,): equal for a query with the products of a group."""
        query, product = np.asarray(self._query_of), np.asarray(self._product_of)
        group = np.asarray(self._group_of)[product]
        alone = len(self._groups) + product
        codes = query * (len(self._groups) + len(self._products)) + np.where(group == NO_GROUP, alone, group)
        return np.asarray(np.unique(codes, return_inverse=True)[1], np.int64)

    def groups(self) -> list[str | None]:
        """Return the group of each pair's product; None for a product without a group."""
        names: list[str | None] = [*self._group_names, None]  # the last is that of NO_GROUP
        return [names[self._group_of[product]] for product in self._product_of]

    def _named(self, values: Mapping[str, object]) -> tuple[str, str, str | None] | Problem:
        """Return the key of the query, the product and the group that a row names, or the problem with it."""
        columns = self.columns
        query, product = values.get(columns.query or ""), values.get(columns.product or "")
        for column, value in ((columns.query, query), (columns.product, product)):
            reason = None if column is None else text_problem(value)
            if reason is not None:
                return Problem(f"{column} {reason}", value)
        if columns.product_id is not None:
            product = id_text(values.get(columns.product_id))
            if isinstance(product, Problem):
                return Problem(f"{columns.product_id} {product.reason}", product.found)
        group = (
            None if columns.group is None else read_product_group(columns.group, values.get(columns.group))
        )
        if isinstance(group, Problem):
            return group
        number = self._products.get(text_digest(str(product)))
        known = NO_GROUP if number is None else self._group_of[number]
        if group is not None and known not in (NO_GROUP, self._groups.get(group)):
            reason = f"{columns.group} is not the group that an earlier row of the product has"
            return Problem(reason, group, f" (there: {self._group_names[known]!r})")
        return query_key(str(query)), str(product), group


def _pair_digest(query: str, product: str) -> bytes:
    return text_digest(f"{query}\0{product}")
