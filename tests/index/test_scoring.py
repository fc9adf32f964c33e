"""Exact search against a sort of every score, and recall counted by hand."""

import numpy as np
import pytest

from aisle.index import ann_recall, exact_search, scoring
from aisle.index.scoring import best_per_query, pair_scores, row_scores


def sort_everything(vectors, queries, top_k, ranks):
    """Reference exact search: every score in float64, rounded, sorted with its rank."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    rows = np.array([np.lexsort((ranks, -line))[:top_k] for line in scores])
    return rows, np.take_along_axis(scores, rows, axis=1)


def test_three_products_and_one_query_by_hand():
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)

    rows, scores = exact_search(vectors, np.array([[0, 1]], np.float32), top_k=2)

    assert rows.tolist() == [[2, 1]]
    assert scores.tolist() == [[1.0, np.float32(0.8)]]


@pytest.mark.parametrize("top_k", [1, 7, 400])
def test_exact_search_is_a_sort_of_every_score(clustered, top_k):
    vectors, queries = clustered(400), clustered(150, seed=1)
    ranks = np.random.default_rng(2).permutation(400)

    rows, scores = exact_search(vectors, queries, top_k=top_k, tie_ranks=ranks, chunk_rows=64)

    expected_rows, expected_scores = sort_everything(vectors, queries, top_k, ranks)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("chunk_rows", [1, 3, 64, 300])
def test_chunk_size_changes_nothing(clustered, chunk_rows, dtype):
    vectors = np.repeat(clustered(100, dim=24), 3, axis=0).astype(dtype)  # ties everywhere
    queries = clustered(9, dim=24, seed=1)
    ranks = np.random.default_rng(2).permutation(300)
    whole = exact_search(vectors, queries, top_k=20, tie_ranks=ranks, chunk_rows=1000)

    chunked = exact_search(vectors, queries, top_k=20, tie_ranks=ranks, chunk_rows=chunk_rows)

    np.testing.assert_array_equal(chunked[0], whole[0])
    np.testing.assert_array_equal(chunked[1], whole[1])


def test_number_of_queries_changes_nothing(clustered):
    vectors, queries = clustered(500, dim=48), clustered(140, dim=48, seed=1)
    together = exact_search(vectors, queries, top_k=10)

    alone = [exact_search(vectors, query[None], top_k=10) for query in queries]

    np.testing.assert_array_equal(np.concatenate([rows for rows, _ in alone]), together[0])
    np.testing.assert_array_equal(np.concatenate([scores for _, scores in alone]), together[1])


def test_near_ties_that_float32_products_confuse_are_ordered_by_their_true_scores():
    # Neighbours one float32 step apart in a long vector: a matrix product in float32 mixes them up.
    rng = np.random.default_rng(0)
    base = rng.normal(size=512)
    base = (base / np.linalg.norm(base)).astype(np.float32)
    vectors = np.tile(base, (200, 1))
    for row in range(200):
        vectors[row, row] = np.nextafter(vectors[row, row], np.float32(0))
    query = base[None]
    ranks = np.arange(200)[::-1].copy()

    rows, scores = exact_search(vectors, query, top_k=5, tie_ranks=ranks, chunk_rows=7)

    expected_rows, expected_scores = sort_everything(vectors, query, 5, ranks)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_no_queries_have_no_results(clustered):
    rows, scores = exact_search(clustered(5), np.empty((0, 16), np.float32), top_k=3)

    assert (rows.shape, scores.shape) == ((0, 3), (0, 3))


def test_a_pair_scores_the_same_whatever_the_other_pairs_are(clustered):
    vectors, queries = clustered(300, dim=33), clustered(300, dim=33, seed=1)
    pairs = np.arange(300)
    together = pair_scores(vectors, pairs, queries, pairs)

    alone = [pair_scores(vectors, pairs[at : at + 1], queries, pairs[at : at + 1])[0] for at in pairs]

    np.testing.assert_array_equal(np.array(alone), together)


def test_best_per_query_breaks_ties_by_rank():
    rows, scores = best_per_query(
        np.array([1, 0, 1, 0, 1]),
        np.array([0, 1, 2, 2, 1]),
        np.array([0.5, 0.1, 0.5, 0.9, 0.2], np.float32),
        tie_ranks=np.array([2, 1, 0]),
        top_k=2,
        queries=2,
    )

    assert rows.tolist() == [[2, 1], [2, 0]]
    assert scores.tolist() == [[np.float32(0.9), np.float32(0.1)], [0.5, 0.5]]


def test_recall_counts_shared_rows_and_ties_with_the_last_exact_one():
    recall = ann_recall(
        np.array([[0, 7], [4, 9]]),
        np.array([[0, 1], [4, 5]]),
        approximate_scores=np.array([[0.9, 0.5], [0.8, 0.3]], np.float32),
        exact_scores=np.array([[0.9, 0.5], [0.8, 0.4]], np.float32),
    )

    assert recall == 0.75  # 7 ties with 1; 9 is below 5


@pytest.mark.parametrize(("below", "recall"), [(5e-7, 1.0), (5e-6, 0.0)])
def test_recall_allows_a_tie_the_error_of_a_sum_in_float32(below, recall):
    found = ann_recall(
        np.array([[7]]),
        np.array([[1]]),
        approximate_scores=np.array([[0.5 - below]], np.float32),
        exact_scores=np.array([[0.5]], np.float32),
    )

    assert found == recall


@pytest.mark.parametrize("values", [1, 24, 100, 2**16])
def test_scores_of_rows_are_those_of_their_pairs_however_many_fit_at_once(clustered, monkeypatch, values):
    vectors, queries = clustered(50, dim=24), clustered(7, dim=24, seed=1)
    rows = np.random.default_rng(2).integers(0, 50, (7, 9))
    alone = [
        [pair_scores(vectors, rows[query, place, None], queries, np.array([query]))[0] for place in range(9)]
        for query in range(7)
    ]
    monkeypatch.setattr(scoring, "SCORED_VALUES", values)

    np.testing.assert_array_equal(row_scores(vectors, rows, queries), np.array(alone))
    query_of = np.repeat(np.arange(7), 9)
    np.testing.assert_array_equal(pair_scores(vectors, rows.ravel(), queries, query_of), np.ravel(alone))


def test_no_rows_have_no_scores(clustered):
    assert row_scores(clustered(5), np.empty((3, 0), np.int64), clustered(3)).shape == (3, 0)
