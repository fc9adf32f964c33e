"""Anchors for tests of in-batch losses, built from pairs and their exclusions."""

import numpy as np
import torch

from aisle.losses.anchors import Anchors, Exclusions


def exclusions(rows):
    """Return exclusions, given a list of columns for each row."""
    ends = np.cumsum([0, *(len(columns) for columns in rows)])
    columns = [column for row in rows for column in row]
    return Exclusions.of(ends, np.array(columns, dtype=np.int64))


def anchors_of(pairs, *, products=None, queries=None):
    """Return anchors that exclude their own texts and the given columns of each row."""
    queries_of, products_of = [query for query, _ in pairs], [product for _, product in pairs]

    def with_own(own, more):
        more = more or [[] for _ in own]
        return exclusions([[column, *columns] for column, columns in zip(own, more, strict=True)])

    return Anchors(
        queries=torch.tensor(queries_of, dtype=torch.int64),
        products=torch.tensor(products_of, dtype=torch.int64),
        not_negative_products=with_own(products_of, products),
        not_negative_queries=with_own(queries_of, queries),
    )


def diagonal(count):
    return anchors_of([(row, row) for row in range(count)])


def random_anchors(count, query_count, product_count, *, seed=0):
    """Return anchors over more products than queries, some repeated, with random exclusions."""
    random = np.random.default_rng(seed)
    pairs = [(int(random.integers(query_count)), int(random.integers(product_count))) for _ in range(count)]
    pairs[-1] = pairs[0]

    def more(columns):
        return [random.permutation(columns)[: random.integers(columns)].tolist() for _ in pairs]

    return anchors_of(pairs, products=more(product_count), queries=more(query_count))
