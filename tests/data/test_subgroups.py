"""Exclusions with subgroups equal nested loops over their definition."""

import numpy as np
import pytest

from aisle.data.negatives import KnownPositives
from aisle.data.subgroups import Subgroups


def random_pairs(seed, count=60):
    random = np.random.default_rng(seed)
    queries, products = random.integers(8, size=count), random.integers(12, size=count)
    return queries, products, random.random(count) < 0.5, random.integers(4, size=count)


def excluded_by_loops(pairs, anchor, column_keys, *, of_products):
    """Return the columns that are no negatives of an anchor, given as query, product and subgroup."""
    query, product, subgroup = anchor
    queries, products, positive, subgroups = pairs
    found = []
    for column, key in enumerate(column_keys):
        own, other = (products, queries) if of_products else (queries, products)
        same, partner = (product, query) if of_products else (query, product)
        with_partner = (own == key) & (other == partner)
        right = key == same or (with_partner & positive).any()
        unjudged = ((own == key) & (subgroups == subgroup)).any() and not (with_partner & ~positive).any()
        if right or unjudged:
            found.append(column)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_exclusions_with_subgroups_equal_loops(seed):
    pairs = queries, products, positive, subgroups = random_pairs(seed)
    known = KnownPositives.of(queries, products, positive)
    of_pairs = Subgroups.of(subgroups, queries, products, ~positive)
    random = np.random.default_rng(seed + 10)
    query_keys, product_keys = random.integers(9, size=10), random.integers(14, size=15)
    anchors = np.array([(random.integers(10), random.integers(15), random.integers(5)) for _ in range(20)])

    found = KnownPositives(known.products_of, known.queries_of, of_pairs).exclusions(
        anchor_queries=anchors[:, 0],
        anchor_products=anchors[:, 1],
        query_keys=query_keys,
        product_keys=product_keys,
        anchor_subgroups=anchors[:, 2],
    )

    judged_wrong = 0
    for row, (query, product, subgroup) in enumerate(anchors):
        anchor = query_keys[query], product_keys[product], subgroup
        for csr, keys, of_products in (
            (found.products, product_keys, True),
            (found.queries, query_keys, False),
        ):
            columns = csr.columns[csr.indptr[row] : csr.indptr[row + 1]].tolist()
            assert columns == excluded_by_loops(pairs, anchor, keys, of_products=of_products)
            judged_wrong += len(keys) - len(columns)
    assert judged_wrong > 0
