"""Equality keys, and texts of a batch to exclude from its negatives, compared with nested loops."""

from __future__ import annotations

import numpy as np
import pytest

from aisle.data.negatives import Csr, KnownPositives, equality_keys


def rows_of(lists: Csr) -> list[list[int]]:
    """Return the rows as lists, as the arrays promise them: int64, from 0 to the end."""
    assert lists.indptr.dtype == lists.columns.dtype == np.int64
    assert lists.indptr[0] == 0
    assert lists.indptr[-1] == len(lists.columns)
    bounds = zip(lists.indptr[:-1], lists.indptr[1:], strict=True)
    return [lists.columns[start:stop].tolist() for start, stop in bounds]


def known_of(pairs) -> KnownPositives:
    """Return the known positives of (query key, product key, positive) triples."""
    queries, products, positive = (np.array(part) for part in zip(*pairs, strict=True))
    return KnownPositives.of(queries, products, positive.astype(bool))


def exclusions_of(known, *, anchors, query_keys, product_keys):
    anchors = np.array(anchors, dtype=np.int64).reshape(-1, 2)
    found = known.exclusions(
        anchor_queries=anchors[:, 0],
        anchor_products=anchors[:, 1],
        query_keys=np.array(query_keys, dtype=np.int64),
        product_keys=np.array(product_keys, dtype=np.int64),
    )
    return rows_of(found.products), rows_of(found.queries)


def keys_by_merging(texts, ids):
    """Return keys by giving connected entries the smaller key until nothing changes."""
    keys = list(range(len(texts)))
    changed = True
    while changed:
        changed = False
        for one in range(len(texts)):
            for other in range(one):
                connected = texts[one] == texts[other] or (ids is not None and ids[one] == ids[other])
                if connected and keys[one] != keys[other]:
                    keys[one] = keys[other] = min(keys[one], keys[other])
                    changed = True
    order = list(dict.fromkeys(keys))
    return [order.index(key) for key in keys]


def test_without_ids_keys_number_the_texts_as_they_appear():
    assert equality_keys(["b", "a", "b", "c", "a"], None).tolist() == [0, 1, 0, 2, 1]
    assert equality_keys(np.array([7, -1, 7, 3, -1]), None).tolist() == [0, 1, 0, 2, 1]


def test_keys_are_equal_by_text_by_id_and_through_others():
    # a-1 and c-2 have neither text nor id in common; b-1 and b-2 connect them. d-3 and e-3 share an id.
    keys = equality_keys(["d", "a", "b", "b", "c", "e", "f"], ["3", "1", "1", "2", "2", "3", "4"])
    assert keys.dtype == np.int64
    assert keys.tolist() == [0, 1, 1, 1, 1, 0, 2]


def test_a_text_and_an_id_that_read_the_same_are_not_the_same():
    assert equality_keys(["x", "y"], ["y", "x"]).tolist() == [0, 1]


@pytest.mark.parametrize("seed", range(30))
def test_keys_are_those_of_merging_until_nothing_changes(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 25))
    numbers = rng.integers(0, count, count)
    texts, ids = (
        [f"t{number}" for number in numbers],
        [f"i{number}" for number in rng.integers(0, count, count)],
    )
    expected = keys_by_merging(texts, ids)
    assert equality_keys(texts, ids).tolist() == expected
    assert equality_keys(numbers, ids).tolist() == expected
    assert equality_keys(texts, None).tolist() == keys_by_merging(texts, None)


def test_a_thousand_equal_entries_have_one_key():
    assert equality_keys(["t"] * 1000 + ["u"], ["i"] * 1000 + ["j"]).tolist() == [0] * 1000 + [1]


def test_no_entries_have_no_keys():
    for keys in (equality_keys([], []), equality_keys([], None), equality_keys(np.zeros(0, np.int64), [])):
        assert (keys.dtype, keys.shape) == (np.int64, (0,))


def test_another_number_of_ids_than_texts_is_refused():
    with pytest.raises(ValueError, match="1 ids for 2 texts"):
        equality_keys(["a", "b"], ["1"])


def test_rows_are_taken_in_any_order_and_again():
    rows = Csr(np.array([0, 2, 2, 3]), np.array([4, 6, 5]))
    assert rows.rows.tolist() == [0, 0, 2]
    assert rows_of(rows.take(np.array([2, 0, 1, 0]))) == [[5], [4, 6], [], [4, 6]]
    assert rows_of(rows.take(np.zeros(0, dtype=np.int64))) == []


def test_no_negatives_are_the_own_the_equal_and_the_known():
    # Query 0 has the positive products 10, 11 and 12; query 1 has 11; 13 is wrong for query 0.
    known = known_of([(0, 10, 1), (0, 11, 1), (0, 12, 1), (1, 11, 1), (0, 13, 0)])
    products, queries = exclusions_of(
        known,
        anchors=[(0, 0), (1, 2)],
        query_keys=[0, 1],
        # Columns 0 and 3 are one product under two titles; 13 and the hard negative 99 are negatives.
        product_keys=[10, 13, 11, 10, 99],
    )
    # 12 is not in the batch; query 1 has only its own product as a positive.
    assert products == [[0, 2, 3], [2]]
    # Product 10 is a positive for query 0 only, product 11 for both.
    assert queries == [[0], [0, 1]]


def test_an_anchor_that_is_not_a_known_positive_still_excludes_its_own_columns():
    known = known_of([(0, 10, 1)])
    products, queries = exclusions_of(
        known,
        anchors=[(0, 1), (0, 0), (1, 1), (0, 1)],
        query_keys=[0, 5, 0],
        product_keys=[10, 77, 10, 77],
    )
    assert products == [[0, 1, 2, 3], [0, 2], [1, 3], [0, 1, 2, 3]]
    assert queries == [[0, 2], [0, 2], [1], [0, 2]]


def test_keys_outside_the_training_pairs_have_no_known_positives():
    known = known_of([(3, 3, 1), (4, 5, 1)])
    for unknown in (-1, 4, 10**15):
        products, queries = exclusions_of(
            known, anchors=[(0, 0)], query_keys=[unknown + 1, 3], product_keys=[unknown, 3]
        )
        assert (products, queries) == ([[0]], [[0]])


def test_repeated_pairs_are_known_once():
    known = known_of([(0, 10, 1), (0, 10, 1), (0, 10, 0)])
    assert known.products_of.neighbours.columns.tolist() == [10]
    assert exclusions_of(known, anchors=[(0, 0)], query_keys=[0], product_keys=[10]) == ([[0]], [[0]])


def test_nothing_known_leaves_the_own_columns():
    known = known_of([(0, 10, 0)])
    assert exclusions_of(known, anchors=[(0, 1)], query_keys=[0], product_keys=[11, 10]) == ([[1]], [[0]])


def test_a_batch_without_anchors_has_no_rows():
    known = known_of([(0, 10, 1)])
    assert exclusions_of(known, anchors=[], query_keys=[0], product_keys=[10]) == ([], [])
    assert exclusions_of(known, anchors=[], query_keys=[], product_keys=[]) == ([], [])


@pytest.mark.parametrize("seed", range(60))
def test_exclusions_are_those_of_nested_loops(seed):
    rng = np.random.default_rng(seed)
    query_kinds, product_kinds = rng.integers(1, 9, 2)
    pairs = int(rng.integers(1, 40))
    training = (rng.integers(0, query_kinds, pairs), rng.integers(0, product_kinds, pairs))
    positive = rng.random(pairs) < rng.choice([0.2, 0.7, 1.0])
    # Two keys more than the training pairs have: texts that occur only in this batch.
    query_keys = rng.integers(0, query_kinds + 2, rng.integers(1, 12))
    product_keys = rng.integers(0, product_kinds + 2, rng.integers(1, 12))
    rows = int(rng.integers(0, 20))
    anchors = [
        (int(query), int(product))
        for query, product in zip(
            rng.integers(0, len(query_keys), rows), rng.integers(0, len(product_keys), rows), strict=True
        )
    ]
    right = {
        (int(query), int(product)) for query, product, yes in zip(*training, positive, strict=True) if yes
    }

    products, queries = exclusions_of(
        KnownPositives.of(*training, positive),
        anchors=anchors,
        query_keys=query_keys,
        product_keys=product_keys,
    )

    assert products == [
        [
            column
            for column, key in enumerate(product_keys)
            if key == product_keys[product] or (query_keys[query], key) in right
        ]
        for query, product in anchors
    ]
    assert queries == [
        [
            column
            for column, key in enumerate(query_keys)
            if key == query_keys[query] or (key, product_keys[product]) in right
        ]
        for query, product in anchors
    ]


def test_a_thousand_anchors_with_one_title_exclude_each_others_queries():
    # Queries 0 to 999 all have product 0; query 1000 has product 1.
    queries = np.arange(1001)
    products = np.where(queries < 1000, 0, 1)
    known = KnownPositives.of(queries, products, np.ones(1001, dtype=bool))
    found = known.exclusions(
        anchor_queries=queries, anchor_products=products, query_keys=queries, product_keys=np.arange(2)
    )
    assert rows_of(found.products) == [[0]] * 1000 + [[1]]
    assert rows_of(found.queries) == [list(range(1000))] * 1000 + [[1000]]


def test_titles_of_one_id_are_one_product_from_keys_to_exclusions():
    texts, ids = ["Red shoe", "Red shoe, new", "Blue shoe"], ["B1", "B1", "B2"]
    product_keys = equality_keys(texts, ids)
    known = KnownPositives.of(np.array([0, 1]), product_keys[[0, 2]], np.ones(2, dtype=bool))
    products, _ = exclusions_of(known, anchors=[(0, 0)], query_keys=[0, 1], product_keys=product_keys)
    assert products == [[0, 1]]
