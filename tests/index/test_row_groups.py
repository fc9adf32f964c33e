"""Rows with equal embeddings share a node."""

import numpy as np
import pytest

from aisle.index.row_groups import RowGroups, first_of_equals, number_nodes, row_digests


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], []), ([7], [0]), ([3, 3, 3], [0, 0, 0]), ([9, 2, 9, 5, 2, 9], [0, 1, 0, 3, 1, 0])],
)
def test_first_of_equals(values, expected):
    digests = np.frombuffer(b"".join(value.to_bytes(16, "big") for value in values), "V16")

    assert first_of_equals(digests).tolist() == expected


def test_first_of_equals_distinguishes_digests_that_differ_in_one_byte():
    digests = np.frombuffer(b"".join(bytes(place) + b"x" + bytes(15 - place) for place in range(16)), "V16")

    assert first_of_equals(digests).tolist() == list(range(16))


def test_first_of_equals_is_that_of_unique():
    drawn = np.random.default_rng(0).integers(0, 300, 1000)
    digests = np.frombuffer(b"".join(int(value).to_bytes(16, "little") for value in drawn), "V16")

    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(first_of_equals(digests), first[inverse])


def test_nodes_are_counted_up_in_the_order_of_the_rows():
    embeddings = np.array([[0, 1], [1, 0], [0, 1], [-1, 0], [1, 0]], np.float32)

    assert number_nodes(embeddings).tolist() == [0, 1, 0, 2, 1]
    assert number_nodes(embeddings[:0]).tolist() == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_digests_of_chosen_rows_are_those_of_all(dtype):
    embeddings = np.random.default_rng(1).standard_normal((5000, 3)).astype(dtype)
    rows = np.array([4999, 0, 4096, 17])

    assert row_digests(embeddings, rows).tolist() == row_digests(embeddings)[rows].tolist()
    assert len(np.unique(row_digests(embeddings))) == 5000


def test_groups_hold_their_rows_by_rank_of_id():
    groups = RowGroups.of(np.array([0, 1, 0, 2, 0]), np.array([4, 0, 1, 2, 3]), nodes=4)

    assert groups.rows.tolist() == [2, 4, 0, 1, 3]
    assert groups.starts.tolist() == [0, 3, 4, 5, 5]
    assert (len(groups), groups.live) == (4, 3)
    assert groups.first(np.array([0, 2])).tolist() == [2, 3]
    assert groups.sizes(np.array([0, 3])).tolist() == [3, 0]
    assert groups.first_rows(np.array([0, 2]), np.array([2, 1])).tolist() == [2, 4, 3]
