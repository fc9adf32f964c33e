"""The loss in_batch with its own gradient, compared with autograd."""

import math

import pytest
import torch

from aisle.losses.in_batch import in_batch
from aisle.losses.in_batch_gradient import in_batch_gradient
from tests.losses.anchors import anchors_of, diagonal, random_anchors
from tests.losses.vectors import at, unit

DIRECTIONS = ("query_to_product", "product_to_query", "query_to_query", "product_to_product")
QUERIES, PRODUCTS = torch.tensor([4, 0, 6, 2]), torch.tensor([1, 5, 3, 7, 8])
"""Rows of the texts in the embeddings of a batch."""


def by_autograd(embeddings, anchors, *, scale=1.0, temperature=0.3):
    embeddings = embeddings.clone().requires_grad_()
    sides = embeddings[QUERIES], embeddings[PRODUCTS]
    loss = in_batch(*sides, anchors, temperature=temperature, directions=DIRECTIONS).sum() * scale
    loss.backward()
    return loss.detach(), embeddings.grad


def directly(embeddings, anchors, *, scale=1.0, temperature=0.3, directions=DIRECTIONS):
    return in_batch_gradient(
        embeddings,
        QUERIES,
        PRODUCTS,
        anchors,
        temperature=temperature,
        directions=directions,
        scale=scale,
    )


@pytest.mark.parametrize("temperature", [0.3, 0.01])
def test_loss_and_gradient_are_those_of_autograd(temperature):
    """Repeated texts and random exclusions; the first anchor is given twice."""
    anchors = random_anchors(9, len(QUERIES), len(PRODUCTS))
    found = directly(unit(9), anchors, scale=0.25, temperature=temperature)
    expected = by_autograd(unit(9), anchors, scale=0.25, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_value_computed_by_hand():
    """Query at 0 degrees, product at 60, another pair at 90 and 90; temperature 0.5: scores are 2 cos."""
    embeddings = at(0, 60, 90, 90)
    loss, _ = in_batch_gradient(
        embeddings,
        torch.tensor([0, 2]),
        torch.tensor([1, 3]),
        diagonal(2),
        temperature=0.5,
        directions=DIRECTIONS,
        scale=1.0,
    )
    near = 2 * math.cos(math.radians(30))
    first = math.log1p(2 * math.exp(0 - 1)), math.log1p(2 * math.exp(near - 1))
    second = math.log1p(math.exp(0 - 2) + math.exp(near - 2))
    assert loss.item() == pytest.approx(sum(first) / 2 + second)


def test_anchors_without_negatives_have_no_loss_and_a_finite_gradient():
    pairs = [(0, 0), (1, 1), (2, 2), (3, 3), (3, 4)]
    all_products, all_queries = list(range(5)), list(range(4))
    loss, gradient = directly(
        unit(9), anchors_of(pairs, products=[all_products] * 5, queries=[all_queries] * 5)
    )
    assert loss == 0
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))

    some = [[], [], [], []]
    partly = anchors_of(pairs, products=[all_products, *some], queries=[all_queries, *some])
    torch.testing.assert_close(directly(unit(9), partly), by_autograd(unit(9), partly))


def test_what_it_does_not_cover_is_left_to_autograd():
    anchors = random_anchors(9, 4, 5)
    assert directly(unit(9), anchors) is not None
    assert directly(unit(9), anchors, directions=DIRECTIONS[:3]) is None
    assert directly(unit(9), anchors_of([(0, 0), (1, 1)])) is None  # most texts are of no positive
    assert directly(unit(8), anchors) is None  # a text is a query and a product
