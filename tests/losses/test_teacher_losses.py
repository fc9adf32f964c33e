"""Losses on a teacher's scores: values by hand, nested loops, gradients, and blocks."""

import math

import pytest
import torch

from aisle.losses.kl_divergence import kl_divergence
from aisle.losses.margin_mse import margin_mse
from aisle.losses.scored_lists import ScoredLists
from tests.losses.anchors import exclusions
from tests.losses.vectors import at, exact, gradients, unit


def lists(queries, products, scores):
    flat = [score for row in scores for score in row]
    return ScoredLists(torch.tensor(queries), exclusions(products), torch.tensor(flat))


def both(temperature=0.5, teacher_temperature=2.0):
    return {
        "margin_mse": lambda *given: margin_mse(*given, temperature=temperature),
        "kl_divergence": lambda *given: kl_divergence(
            *given, temperature=temperature, teacher_temperature=teacher_temperature
        ),
    }


def test_margin_mse_of_a_positive_and_a_negative_is_the_square_of_the_difference_of_margins():
    # cosines 1 and 1/2 at temperature 1/2: scores 2 and 1, a margin of 1; the teacher's margin is 4.
    found = margin_mse(at(0), at(0, 60), lists([0], [[0, 1]], [[3.0, -1.0]]), temperature=0.5)
    torch.testing.assert_close(found, exact([9.0]))


def test_margin_mse_of_three_products_is_the_mean_over_their_three_pairs():
    # Scores 1, 1/2 and 0; the teacher's are 1, 2 and 0: pairs differ by 3/2, 0 and 3/2.
    given = lists([0], [[0, 1, 3]], [[1.0, 2.0, 0.0]])
    found = margin_mse(at(0), at(0, 60, 180, 90), given, temperature=1.0)
    torch.testing.assert_close(found, exact([(1.5**2 + 0 + 1.5**2) / 3]))


def test_kl_divergence_of_two_products_by_hand():
    # The teacher's odds are 3 to 1, the student's e to 1: log 3 / 2 * 2 = log 3, and (1 - 1/2) / (1/2) = 1.
    given = lists([0], [[0, 1]], [[2 * math.log(3), 0.0]])
    found = kl_divergence(at(0), at(0, 60), given, temperature=0.5, teacher_temperature=2.0)
    own = math.e / (1 + math.e)
    expected = 0.75 * math.log(0.75 / own) + 0.25 * math.log(0.25 / (1 - own))
    torch.testing.assert_close(found, exact([expected]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["margin_mse", "kl_divergence"])
def test_scores_that_agree_with_the_teacher_up_to_a_shift_have_no_loss(name):
    queries, products = unit(1), unit(3, seed=1)
    cosines = (queries @ products.T)[0]
    agreed = lists([0], [[0, 1, 2]], [(cosines / 0.5 + 7).tolist()])
    assert both(teacher_temperature=1.0)[name](queries, products, agreed).item() == pytest.approx(0, abs=1e-9)


LISTS = ([1, 0, 1], [[0, 3], [1, 2, 4], [0, 1, 2, 3, 4]], [[0.5, -2], [1, 4, -3], [0, 1, 2, 3, 9]])


def by_loops(name, queries, products, given):
    found = []
    for row in range(len(given)):
        start, end = given.products.ends[row : row + 2]
        columns, teacher = given.products.columns[start:end], given.scores[start:end].double()
        scores = torch.stack([queries[given.queries[row]] @ products[column] / 0.5 for column in columns])
        if name == "margin_mse":
            pairs = [(i, j) for i in range(len(columns)) for j in range(i)]
            terms = [((scores[i] - scores[j]) - (teacher[i] - teacher[j])) ** 2 for i, j in pairs]
            found.append(sum(terms) / len(terms))
        else:
            probability = (teacher / 2).softmax(0)
            found.append(
                sum(p * (p.log() - q.log()) for p, q in zip(probability, scores.softmax(0), strict=True))
            )
    return torch.stack(found)


@pytest.mark.parametrize("name", ["margin_mse", "kl_divergence"])
def test_losses_and_gradients_equal_those_of_nested_loops_whole_and_in_blocks(name):
    queries, products, given = unit(2), unit(5, seed=1), lists(*LISTS)
    loss = both()[name]

    def in_blocks(queries, products):
        return torch.cat([loss(queries, products, given.block(row, row + 1)) for row in range(len(given))])

    expected = by_loops(name, queries, products, given)
    wanted = gradients(lambda q, p: by_loops(name, q, p, given), queries, products)
    for computed in (lambda q, p: loss(q, p, given), in_blocks):
        torch.testing.assert_close(computed(queries, products), expected)
        torch.testing.assert_close(gradients(computed, queries, products), wanted)


@pytest.mark.parametrize("name", ["margin_mse", "kl_divergence"])
def test_products_without_a_score_have_no_gradient_and_far_scores_stay_finite(name):
    queries, products = unit(1).float(), unit(4, seed=1).float()
    given = lists([0], [[0, 2]], [[2000.0, -2000.0]])
    of_query, of_products = gradients(lambda q, p: both(0.01)[name](q, p, given), queries, products)
    assert torch.isfinite(of_query).all()
    assert torch.isfinite(of_products).all()
    assert of_products[[1, 3]].abs().sum() == 0
    assert of_products[[0, 2]].abs().sum() > 0
