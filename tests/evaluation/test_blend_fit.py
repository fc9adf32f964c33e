"""Weights of the search's and the reranker's scores: values by hand, and gains measured on other queries."""

import numpy as np
import pytest

from aisle.evaluation.blend_fit import ScoredLists, dcg, fit_weights, held_out_ndcg
from aisle.training.adapter_measure import gain_of


def lists_of(retrieval, rerank, relevance):
    """Return lists with a row for each query."""
    retrieval, rerank, relevance = (np.array(one, np.float64) for one in (retrieval, rerank, relevance))
    queries, depth = retrieval.shape
    ideal = np.array([dcg(np.sort(row)[::-1]) for row in relevance])
    return ScoredLists(
        retrieval.ravel(), rerank.ravel(), relevance.ravel(), np.arange(queries + 1) * depth, ideal
    )


def test_ndcg_of_a_blend_has_the_value_computed_by_hand():
    lists = lists_of([[3, 2, 1]], [[0, 1, 5]], [[0, 1, 0.5]])

    # With a = b = 1 the scores are 3, 3 and 6: the third product comes first, the others keep their order.
    ideal = 1 + 0.5 / np.log2(3)
    assert lists.ndcg(1, 1)[0] == pytest.approx((0.5 + 1 / 2) / ideal)
    assert lists.ndcg(1, 0)[0] == pytest.approx((1 / np.log2(3) + 0.5 / 2) / ideal)
    assert lists.ndcg(0, 0)[0] == lists.ndcg(1, 0)[0]  # equal scores keep the search's order


def test_the_fitted_weights_find_what_neither_score_finds_alone():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(2, 60, 12))
    relevance = (parts.sum(axis=0) > 1.5).astype(float)
    relevance[:, 0] = 1
    order = np.argsort(-parts[0], axis=1)
    retrieval, rerank, relevance = (np.take_along_axis(one, order, 1) for one in (*parts, relevance))
    # Other units: the share is of the spreads, so the order cannot depend on them.
    lists, scaled = (lists_of(retrieval * unit, rerank / unit, relevance) for unit in (1, 1000))

    a, b = fit_weights(lists)

    best = lists.ndcg(a, b).mean()
    assert best > max(lists.ndcg(1, 0).mean(), lists.ndcg(0, 1).mean()) + 0.02
    assert scaled.ndcg(*fit_weights(scaled)).mean() == pytest.approx(best)
    gain = gain_of(*held_out_ndcg(lists))
    assert gain.proven
    assert gain.before == pytest.approx(lists.ndcg(1, 0).mean())
    assert gain.after <= best


def test_a_reranker_of_noise_is_not_proven_and_one_without_use_keeps_the_order():
    rng = np.random.default_rng(1)
    retrieval = -np.sort(rng.normal(size=(40, 10)), axis=1)
    relevance = (retrieval + rng.normal(size=(40, 10)) > 1).astype(float)
    relevance[:, 0] = 1
    noise = lists_of(retrieval, rng.normal(size=(40, 10)), relevance)
    against = lists_of(retrieval, -retrieval, relevance)

    assert not gain_of(*held_out_ndcg(noise)).proven
    a, b = fit_weights(against)
    assert a > 0
    np.testing.assert_array_equal(against.ndcg(a, b), against.ndcg(1, 0))


def test_the_weights_of_a_query_are_fitted_on_other_queries():
    # Reranked, queries of the first fold gain and all others lose: each fold is served what the others want.
    relevance = [[0, 1] if query % 5 == 0 else [1, 0] for query in range(10)]
    lists = lists_of([[1, 0]] * 10, [[0, 1]] * 10, relevance)

    before, after = held_out_ndcg(lists)

    np.testing.assert_array_equal(before, after)
    worse = lists_of(
        [[1, 0]] * 10, [[0, 1]] * 10, [[1, 0] if query % 5 == 0 else [0, 1] for query in range(10)]
    )
    expected = [1 / np.log2(3) if query % 5 == 0 else 1 for query in range(10)]
    np.testing.assert_allclose(held_out_ndcg(worse)[1], expected)
