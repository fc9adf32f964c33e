import math

import numpy as np
import pytest
import torch

from aisle.losses.batch_weight import batch_weight
from aisle.losses.listwise import listwise
from tests.losses.vectors import at, exact, gradients, unit


def listwise_by_loops(queries, products, relevance, query_keys, *, temperature):
    """Compute the terms of the cross-entropy with a loop over queries."""
    scores = (queries * products).sum(dim=1) / temperature
    losses = torch.zeros_like(scores)
    for key in set(query_keys.tolist()):
        rows = query_keys == key
        if relevance[rows].sum() > 0:
            targets = relevance[rows] / relevance[rows].sum()
            losses[rows] = -targets * scores[rows].log_softmax(dim=0)
    return losses


def test_listwise_has_the_value_computed_by_hand():
    """Cosines 0.5, 0 and 1 of one query, relevance 0.5, 0 and 0.25: targets 2/3, 0 and 1/3."""
    losses = listwise(
        at(0, 0, 0), at(60, 90, 0), exact([0.5, 0, 0.25]), torch.tensor([0, 0, 0]), temperature=0.5
    )

    total = math.log(math.exp(1) + math.exp(0) + math.exp(2))
    torch.testing.assert_close(losses, exact([2 / 3 * (total - 1), 0, 1 / 3 * (total - 2)]))


@pytest.mark.parametrize("temperature", [0.01, 1.0])
def test_listwise_equals_a_loop_over_queries(temperature):
    """Five queries in mixed order, one without a relevant pair, one with a single pair."""
    queries, products = unit(12), unit(12, seed=1)
    keys = torch.tensor([2, 0, 2, 4, 3, 0, 2, 4, 4, 1, 0, 2])
    relevance = exact([1, 0.1, 0, 0, 0.3, 1, 0.01, 0, 0, 1, 0, 1])

    losses = listwise(queries, products, relevance, keys, temperature=temperature)
    found = gradients(
        lambda q, p: listwise(q, p, relevance, keys, temperature=temperature), queries, products
    )

    expected = listwise_by_loops(queries, products, relevance, keys, temperature=temperature)
    torch.testing.assert_close(losses, expected)
    expected = gradients(
        lambda q, p: listwise_by_loops(q, p, relevance, keys, temperature=temperature), queries, products
    )
    torch.testing.assert_close(found, expected)


def test_listwise_losses_of_a_query_do_not_depend_on_the_other_queries():
    queries, products = unit(6), unit(6, seed=1)
    keys, relevance = torch.tensor([1, 0, 1, 0, 1, 2]), exact([1, 1, 0, 0.1, 0.1, 1])

    losses = listwise(queries, products, relevance, keys, temperature=0.05)

    for key in range(3):
        rows = keys == key
        alone = listwise(queries[rows], products[rows], relevance[rows], 0 * keys[rows], temperature=0.05)
        torch.testing.assert_close(losses[rows], alone)


def test_only_proportions_of_relevance_count_in_listwise():
    queries, products, keys = unit(4), unit(4, seed=1), torch.tensor([0, 0, 1, 1])
    relevance = exact([1, 0.5, 0.2, 0.8])

    losses = listwise(queries, products, relevance, keys, temperature=0.05)
    halved = listwise(queries, products, relevance / 2, keys, temperature=0.05)

    torch.testing.assert_close(halved, losses)


def test_listwise_of_queries_without_relevance_is_zero_with_gradients_zero():
    queries = unit(3).requires_grad_()

    losses = listwise(queries, unit(3, seed=1), torch.zeros(3), torch.tensor([0, 0, 1]), temperature=0.05)
    losses.sum().backward()

    assert losses.tolist() == [0, 0, 0]
    assert torch.equal(queries.grad, torch.zeros_like(queries))


def test_gradients_of_listwise_equal_finite_differences():
    relevance, keys = exact([0, 1, 0.1, 0.5, 0, 1]), torch.tensor([0, 1, 0, 0, 1, 2])

    def loss(queries, products, temperature):
        return listwise(queries, products, relevance, keys, temperature=temperature)

    inputs = [unit(6), unit(6, seed=1), exact(0.5)]
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_listwise_is_float32_and_finite_at_a_low_temperature():
    """Scores of 1000 and -1000 in one query, of -1000 alone in the other: each softmax has its own peak."""
    queries = at(0, 0, 0, 0).float().requires_grad_()
    products, keys = at(0, 180, 180, 180).float(), torch.tensor([0, 0, 1, 1])

    losses = listwise(queries, products, exact([1, 1, 1, 1]), keys, temperature=0.001)
    losses.sum().backward()

    half = math.log(2) / 2
    torch.testing.assert_close(losses, torch.tensor([0, 1000, half, half]))
    assert torch.isfinite(queries.grad).all()


def test_a_mean_over_queries_counts_queries_with_a_relevant_pair():
    keys = np.array([5, 5, -3, 9, 9, 9, 7])
    relevance = np.array([0, 0.1, 0, 1, 0.5, 0, 1])

    assert batch_weight("query", relevance=relevance, query_keys=keys) == 3
    assert batch_weight("query", relevance=np.zeros(7), query_keys=keys) == 0
    none = np.array([], dtype=np.int64)
    assert batch_weight("query", relevance=np.array([]), query_keys=none) == 0
