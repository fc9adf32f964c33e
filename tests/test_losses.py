import math

import pytest
import torch
from torch import nn

from aisle.losses import cosent, cosine_target, in_batch

# Unit vectors in the plane by their angle in degrees, so that cosines are known by hand.


def at(*degrees):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def unit(count, dim=8, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def test_cosine_target_has_the_values_of_the_formula():
    """Cosines 0.5, 0.5, -0.5, 0.5 and 1 with relevance 1, 0, 0, 0.25 and 1."""
    queries = at(0, 0, 0, 0, 0)
    products = at(60, 60, 120, 60, 0)
    relevance = torch.tensor([1, 0, 0, 0.25, 1], dtype=torch.float64)

    losses = cosine_target(queries, products, relevance)

    graded = (0.25 * 0.5 + 0.75 * 0.5) ** 2
    torch.testing.assert_close(losses, torch.tensor([0.25, 0.25, 0, graded, 0], dtype=torch.float64))


def test_cosine_target_at_a_negative_cosine_only_pulls():
    (loss,) = cosine_target(at(0), at(180), torch.tensor([0.25], dtype=torch.float64))

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

    cosine_target(queries, products, torch.tensor([relevance], dtype=torch.float64)).sum().backward()

    moved = nn.functional.normalize(queries - 0.1 * queries.grad, dim=1)
    assert sign * ((moved * products).sum() - 0.5).item() > 0


def test_in_batch_over_products_has_the_value_computed_by_hand():
    """Own cosine cos 60 = 0.5, the other product's cos 90 = 0, temperature 0.5."""
    losses = in_batch(at(0, 0), at(60, 90), temperature=0.5, negatives="products")

    one = math.log(math.exp(1) + math.exp(0))
    torch.testing.assert_close(losses, torch.tensor([one - 1, one - 0], dtype=torch.float64))


def test_in_batch_over_both_sides_has_the_value_computed_by_hand():
    """Queries at 0 and 90 degrees, products at 0 and 60, temperature 0.5: scores are 2 cos."""
    losses = in_batch(at(0, 90), at(0, 60), temperature=0.5, negatives="both")

    e = math.exp
    c30, c60 = 2 * math.cos(math.radians(30)), 1.0
    first_query = math.log(e(2) + e(c60) + e(0)) - 2  # own product, other product, other query
    first_product = math.log(e(2) + e(0) + e(c60)) - 2  # own query, other query, other product
    second_query = math.log(e(c30) + e(0) + e(0)) - c30
    second_product = math.log(e(c30) + e(c60) + e(c60)) - c30
    expected = [(first_query + first_product) / 2, (second_query + second_product) / 2]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
def test_in_batch_over_products_equals_cross_entropy(temperature):
    queries, products = unit(12), unit(12, seed=1)

    losses = in_batch(queries, products, temperature=temperature, negatives="products")

    scores = queries @ products.T / temperature
    torch.testing.assert_close(
        losses, nn.functional.cross_entropy(scores, torch.arange(12), reduction="none")
    )


def test_in_batch_over_both_sides_equals_two_cross_entropies_with_explicit_negatives():
    count, temperature = 10, 0.05
    queries, products = unit(count), unit(count, seed=1)

    losses = in_batch(queries, products, temperature=temperature, negatives="both")

    target = torch.zeros(1, dtype=torch.long)
    for row in range(count):
        others = [other for other in range(count) if other != row]
        directions = []
        for anchor, positive, left, right in (
            (queries[row], products[row], products[others], queries[others]),
            (products[row], queries[row], queries[others], products[others]),
        ):
            scores = torch.cat([positive[None], left, right]) @ anchor / temperature
            directions.append(nn.functional.cross_entropy(scores[None], target))
        torch.testing.assert_close(losses[row], sum(directions) / 2)


@pytest.mark.parametrize("negatives", ["products", "both"])
def test_rows_that_are_all_distinct_change_nothing(negatives):
    queries, products = unit(6), unit(6, seed=1)

    plain = in_batch(queries, products, temperature=0.05, negatives=negatives)
    named = in_batch(
        queries,
        products,
        temperature=0.05,
        negatives=negatives,
        query_rows=torch.tensor([11, 3, 5, 7, 9, 1]),
        product_rows=torch.tensor([10, 2, 4, 6, 8, 0]),
    )

    torch.testing.assert_close(named, plain, rtol=0, atol=0)


@pytest.mark.parametrize("negatives", ["products", "both"])
def test_a_pair_with_the_same_query_does_not_change_the_loss_of_its_twin(negatives):
    queries, products = unit(4), unit(4, seed=1)
    queries[3] = queries[1]

    losses = in_batch(
        queries, products, temperature=1.0, negatives=negatives, query_rows=torch.tensor([0, 1, 2, 1])
    )

    alone = in_batch(queries[:3], products[:3], temperature=1.0, negatives=negatives)
    torch.testing.assert_close(losses[1], alone[1])
    unmasked = in_batch(queries, products, temperature=1.0, negatives=negatives)
    assert (unmasked[1] - losses[1]).item() > 0.1


@pytest.mark.parametrize("negatives", ["products", "both"])
def test_a_pair_with_the_same_product_does_not_change_the_loss_of_its_twin(negatives):
    queries, products = unit(4), unit(4, seed=1)
    products[3] = products[1]

    losses = in_batch(
        queries, products, temperature=1.0, negatives=negatives, product_rows=torch.tensor([4, 5, 6, 5])
    )

    alone = in_batch(queries[:3], products[:3], temperature=1.0, negatives=negatives)
    torch.testing.assert_close(losses[1], alone[1])
    unmasked = in_batch(queries, products, temperature=1.0, negatives=negatives)
    assert (unmasked[1] - losses[1]).item() > 0.1


@pytest.mark.parametrize("negatives", ["products", "both"])
def test_a_repeated_pair_is_no_negative_to_itself(negatives):
    queries, products = unit(3)[[0, 1, 2, 0]], unit(3, seed=1)[[0, 1, 2, 0]]

    losses = in_batch(
        queries,
        products,
        temperature=1.0,
        negatives=negatives,
        query_rows=torch.tensor([0, 1, 2, 0]),
        product_rows=torch.tensor([3, 4, 5, 3]),
    )

    alone = in_batch(queries[:3], products[:3], temperature=1.0, negatives=negatives)
    torch.testing.assert_close(losses[[0, 3]], alone[[0, 0]])


@pytest.mark.parametrize("negatives", ["products", "both"])
def test_the_order_of_the_pairs_only_orders_the_losses(negatives):
    queries, products = unit(6), unit(6, seed=1)
    rows = torch.tensor([0, 1, 0, 2, 3, 4])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    options = {"temperature": 1.0, "negatives": negatives}

    losses = in_batch(queries, products, query_rows=rows, **options)
    shuffled = in_batch(queries[order], products[order], query_rows=rows[order], **options)

    torch.testing.assert_close(shuffled, losses[order])


@pytest.mark.parametrize("negatives", ["products", "both"])
@pytest.mark.parametrize("count", [1, 4])
def test_with_nothing_to_be_held_against_the_loss_is_zero_with_finite_gradients(count, negatives):
    """All pairs share their query, so that everything but each pair's own product is masked."""
    queries = unit(1).repeat(count, 1).requires_grad_()
    products = unit(count, seed=1).requires_grad_()

    losses = in_batch(
        queries,
        products,
        temperature=0.05,
        negatives=negatives,
        query_rows=torch.zeros(count, dtype=torch.long),
    )
    losses.sum().backward()

    torch.testing.assert_close(losses, torch.zeros(count, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.isfinite(queries.grad).all()
    assert torch.isfinite(products.grad).all()


@pytest.mark.parametrize("negatives", ["products", "both"])
def test_gradients_are_those_of_finite_differences(negatives):
    queries, products = unit(4).requires_grad_(), unit(4, seed=1).requires_grad_()
    rows = torch.tensor([0, 1, 0, 2])

    def mean_loss(queries, products):
        return in_batch(queries, products, temperature=0.5, negatives=negatives, query_rows=rows).mean()

    assert torch.autograd.gradcheck(mean_loss, (queries, products))


def test_in_batch_stays_finite_in_float32_at_a_small_temperature():
    queries, products = unit(32).float().requires_grad_(), unit(32, seed=1).float()

    losses = in_batch(queries, products, temperature=0.001)
    losses.sum().backward()

    assert torch.isfinite(losses).all()
    assert torch.isfinite(queries.grad).all()


JUDGED = torch.tensor([1.0, 0.0, 1.0, 0.1], dtype=torch.float64)


@pytest.mark.parametrize("negatives", ["products", "both"])
def test_relevance_that_is_all_high_changes_nothing(negatives):
    queries, products = unit(4), unit(4, seed=1)
    options = {"temperature": 1.0, "negatives": negatives}

    judged = in_batch(queries, products, relevance=torch.tensor([1.0, 0.9, 0.51, 1.0]), **options)

    torch.testing.assert_close(judged, in_batch(queries, products, **options), rtol=0, atol=0)


def test_a_product_judged_irrelevant_to_the_same_query_is_a_negative():
    """One query with a right product at 60 and a wrong one at 90 degrees, temperature 0.5."""
    losses = in_batch(
        at(0, 0),
        at(60, 90),
        temperature=0.5,
        negatives="products",
        relevance=torch.tensor([1.0, 0.0]),
        query_rows=torch.tensor([0, 0]),
    )

    first = math.log(math.exp(1) + math.exp(0)) - 1
    torch.testing.assert_close(losses, torch.tensor([2 * first, 0], dtype=torch.float64))  # mean: first


@pytest.mark.parametrize("negatives", ["products", "both"])
def test_the_mean_of_the_losses_is_that_of_the_positives(negatives):
    queries, products = unit(4), unit(4, seed=1)
    options = {"temperature": 1.0, "negatives": negatives}

    losses = in_batch(queries, products, relevance=JUDGED, **options)

    every = in_batch(queries, products, **options)  # all rows are distinct: only the weights differ
    torch.testing.assert_close(losses.mean(), every[[0, 2]].mean())
    assert losses[[1, 3]].tolist() == [0, 0]


@pytest.mark.parametrize("negatives", ["products", "both"])
def test_a_batch_without_a_positive_has_no_loss_and_no_gradient(negatives):
    queries, products = unit(3).requires_grad_(), unit(3, seed=1)

    losses = in_batch(queries, products, temperature=0.05, negatives=negatives, relevance=torch.zeros(3))
    losses.mean().backward()

    assert losses.tolist() == [0, 0, 0]
    assert queries.grad.abs().max() == 0


def test_cosent_has_the_value_computed_by_hand():
    """Cosines 0.5, 0 and 1 with relevance 1, 0.1 and 0: two of three orders are wrong."""
    losses = cosent(
        at(0, 0, 0), at(60, 90, 0), torch.tensor([1.0, 0.1, 0.0], dtype=torch.float64), temperature=0.5
    )

    e = math.exp
    expected = math.log(1 + e((0 - 0.5) / 0.5) + e((1 - 0.5) / 0.5) + e((1 - 0) / 0.5))
    torch.testing.assert_close(losses, torch.full((3,), expected, dtype=torch.float64))


def test_cosent_of_equally_relevant_pairs_is_zero_with_finite_gradients():
    queries = unit(3).requires_grad_()

    losses = cosent(queries, unit(3, seed=1), torch.ones(3), temperature=0.05)
    losses.sum().backward()

    assert losses.tolist() == [0, 0, 0]
    assert queries.grad.abs().max() == 0


def test_cosent_falls_when_a_wrong_order_is_put_right():
    relevance = torch.tensor([1.0, 0.0])

    wrong = cosent(at(0, 0), at(90, 0), relevance, temperature=0.05)[0]
    right = cosent(at(0, 0), at(0, 90), relevance, temperature=0.05)[0]

    assert wrong.item() == pytest.approx(20, abs=1e-6)
    assert right.item() == pytest.approx(0, abs=1e-6)
