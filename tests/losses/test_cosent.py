import math
from itertools import combinations

import pytest
import torch

from aisle.losses.cosent import cosent
from tests.losses.vectors import at, exact, gradients, unit


def cosent_by_pairs(queries, products, relevance, *, temperature):
    """Return the loss from the matrix of all margins."""
    cosine = (queries * products).sum(dim=1)
    margins = (cosine[:, None] - cosine[None, :]) / temperature
    total = (margins.exp() * (relevance[:, None] < relevance[None, :])).sum()
    return torch.log1p(total).expand(len(cosine))


def test_cosent_has_the_value_computed_by_hand():
    """Cosines 0.5, 0 and 1 with relevance 1, 0.1 and 0: two of three orders are wrong."""
    losses = cosent(at(0, 0, 0), at(60, 90, 0), exact([1.0, 0.1, 0.0]), temperature=0.5)

    e = math.exp
    expected = math.log(1 + e((0 - 0.5) / 0.5) + e((1 - 0.5) / 0.5) + e((1 - 0) / 0.5))
    torch.testing.assert_close(losses, exact([expected] * 3))


@pytest.mark.parametrize(
    "relevance",
    [
        [0.1, 1, 0, 0.01, 1, 0, 0.1, 0.1, 0, 1, 0.01, 0],
        [0, 1] * 6,
        [1, 0.5, *[0] * 10],
        [0, *[1] * 11],
        [row / 11 for row in range(12)],
        [1 - row / 11 for row in range(12)],
    ],
    ids=["graded", "binary", "few high", "one low", "rising", "falling"],
)
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_cosent_equals_the_sum_over_all_pairs_of_pairs(relevance, temperature):
    queries, products, relevance = unit(12), unit(12, seed=1), exact(relevance)

    losses = cosent(queries, products, relevance, temperature=temperature)
    found = gradients(lambda q, p: cosent(q, p, relevance, temperature=temperature), queries, products)

    expected = cosent_by_pairs(queries, products, relevance, temperature=temperature)
    torch.testing.assert_close(losses, expected)
    expected = gradients(
        lambda q, p: cosent_by_pairs(q, p, relevance, temperature=temperature), queries, products
    )
    torch.testing.assert_close(found, expected)


def test_the_order_of_the_pairs_does_not_change_cosent():
    queries, products = unit(9), unit(9, seed=1)
    relevance = exact([0, 1, 0.1, 0.1, 0, 1, 0, 0.1, 0.01])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))

    losses = cosent(queries, products, relevance, temperature=0.05)
    shuffled = cosent(queries[order], products[order], relevance[order], temperature=0.05)

    torch.testing.assert_close(shuffled, losses)


@pytest.mark.parametrize(("count", "relevance"), [(1, 0.0), (1, 1.0), (3, 0.0), (3, 1.0)])
def test_cosent_of_equally_relevant_pairs_is_zero_with_gradients_zero(count, relevance):
    queries, temperature = unit(count).requires_grad_(), exact(0.05).requires_grad_()

    losses = cosent(queries, unit(count, seed=1), torch.full((count,), relevance), temperature=temperature)
    losses.sum().backward()

    assert losses.tolist() == [0] * count
    assert torch.equal(queries.grad, torch.zeros_like(queries))
    assert temperature.grad.item() == 0


def test_cosent_falls_when_a_wrong_order_is_corrected():
    relevance = torch.tensor([1.0, 0.0])

    wrong = cosent(at(0, 0), at(90, 0), relevance, temperature=0.05)[0]
    right = cosent(at(0, 0), at(0, 90), relevance, temperature=0.05)[0]

    assert wrong.item() == pytest.approx(20, abs=1e-6)
    assert right.item() == pytest.approx(0, abs=1e-6)


def test_gradients_of_cosent_equal_finite_differences():
    relevance = exact([0, 1, 0.1, 0.1, 0, 1])

    def loss(queries, products, temperature):
        return cosent(queries, products, relevance, temperature=temperature)

    inputs = [unit(6), unit(6, seed=1), exact(0.5)]
    assert torch.autograd.gradcheck(loss, [value.requires_grad_() for value in inputs])


def test_cosent_is_finite_if_all_orders_are_wrong_at_a_low_temperature():
    queries = at(0, 0, 0, 0).float().requires_grad_()

    losses = cosent(queries, at(180, 180, 0, 0).float(), torch.tensor([1.0, 1, 0, 0]), temperature=0.001)
    losses.sum().backward()

    assert losses[0].item() == pytest.approx(2000 + math.log(4), rel=1e-6)
    assert torch.isfinite(queries.grad).all()


@pytest.mark.parametrize("levels", [4, 20_000])
def test_cosent_of_twenty_thousand_pairs_in_float32_is_close_to_float64(levels):
    queries, products = unit(20_000, 4), unit(20_000, 4, seed=1)
    relevance = torch.randint(levels, (20_000,), generator=torch.Generator().manual_seed(2)) / levels

    def loss(queries):
        return cosent(queries, products.to(queries.dtype), relevance, temperature=0.05)[:1]

    exactly = loss(queries)
    torch.testing.assert_close(loss(queries.float()).double(), exactly, rtol=1e-5, atol=0)
    (found,), (expected,) = gradients(loss, queries.float()), gradients(loss, queries)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)


def test_cosent_of_twenty_thousand_pairs_equals_the_sum_over_pairs_of_levels():
    """For levels a < b, the sum of exp(s_i - s_j) is the sum of exp(s_i) times the sum of exp(-s_j)."""
    queries, products = unit(20_000, 4), unit(20_000, 4, seed=1)
    levels = torch.randint(4, (20_000,), generator=torch.Generator().manual_seed(2))

    losses = cosent(queries, products, levels / 4, temperature=0.5)

    scores = (queries * products).sum(dim=1) / 0.5
    total = sum(
        scores[levels == low].exp().sum() * (-scores[levels == high]).exp().sum()
        for low, high in combinations(range(4), 2)
    )
    torch.testing.assert_close(losses, torch.log1p(total).expand(20_000))
