import pytest
import torch
from torch import nn

from aisle.losses.cosine_target import cosine_target
from tests.losses.vectors import at, exact, unit


def test_cosine_target_has_the_values_of_the_formula():
    """Cosines 0.5, 0.5, -0.5, 0.5 and 1 with relevance 1, 0, 0, 0.25 and 1."""
    queries = at(0, 0, 0, 0, 0)
    products = at(60, 60, 120, 60, 0)

    losses = cosine_target(queries, products, exact([1, 0, 0, 0.25, 1]))

    graded = (0.25 * 0.5 + 0.75 * 0.5) ** 2
    torch.testing.assert_close(losses, exact([0.25, 0.25, 0, graded, 0]))


def test_cosine_target_at_a_negative_cosine_only_pulls():
    (loss,) = cosine_target(at(0), at(180), exact([0.25]))

    assert loss.item() == pytest.approx((0.25 * 2) ** 2)


def test_cosine_target_equals_the_formula_of_the_example_on_a_batch():
    queries, products = unit(16), unit(16, seed=1)
    relevance = torch.linspace(0, 1, 16, dtype=torch.float64)

    losses = cosine_target(queries, products, relevance)

    cosine = nn.functional.cosine_similarity(queries, products)
    expected = torch.square(relevance * (1 - cosine) + torch.clamp((1 - relevance) * cosine, min=0.0))
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(("relevance", "sign"), [(1.0, 1), (0.0, -1)])
def test_a_step_of_cosine_target_moves_the_cosine_the_right_way(relevance, sign):
    queries = at(0).requires_grad_()
    products = at(60)

    cosine_target(queries, products, exact([relevance])).sum().backward()

    moved = nn.functional.normalize(queries - 0.1 * queries.grad, dim=1)
    assert sign * ((moved * products).sum() - 0.5).item() > 0
