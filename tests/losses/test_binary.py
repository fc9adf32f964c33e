"""The losses of cross-encoders: values by hand, torch's function, and gradients."""

import numpy as np
import pytest
import torch

from aisle.losses.binary import LOSS, PositiveWeight, binary
from aisle.losses.listwise import listwise
from aisle.losses.listwise_scores import listwise_of_scores
from aisle.losses.registry import find_loss, loss_named, register, registered_losses, unregister
from aisle.losses.specification import Loss

INPUTS = ("relevance",)


def test_binary_has_the_value_computed_by_hand():
    losses = binary(torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 0.0, 0.5]), positive_weight=3.0)

    # 3 log 2; log(1 + e^2); 3/2 log(1 + e) + 1/2 log(1 + 1/e)
    expected = [3 * np.log(2), np.log1p(np.exp(2)), 1.5 * np.log1p(np.e) + 0.5 * np.log1p(1 / np.e)]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_binary_equals_torchs_function_and_gradient_with_a_weight():
    scores = torch.randn(50, generator=torch.Generator().manual_seed(0)).mul(20).requires_grad_()
    relevance = torch.rand(50, generator=torch.Generator().manual_seed(1))

    losses = binary(scores, relevance, positive_weight=2.5)

    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        scores, relevance, reduction="none", pos_weight=torch.tensor(2.5)
    )
    torch.testing.assert_close(losses, expected)
    gradients = [torch.autograd.grad(one.sum(), scores)[0] for one in (losses, expected)]
    torch.testing.assert_close(*gradients)


def test_the_automatic_weight_gives_relevant_and_irrelevant_pairs_the_same_weight():
    relevance = np.array([1, 0, 0, 0, 0.5, 0], np.float32)

    weight = PositiveWeight("auto").resolved(relevance)

    assert weight == pytest.approx(4.5 / 1.5)
    assert PositiveWeight(2.0).resolved(relevance) == 2.0


def test_listwise_of_scores_is_listwise_of_cosines_over_the_temperature():
    generator = torch.Generator().manual_seed(0)
    queries, products = (
        torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1) for _ in range(2)
    )
    relevance, keys = torch.rand(6, generator=generator), torch.tensor([0, 0, 1, 1, 1, 2])

    of_scores = listwise_of_scores((queries * products).sum(1) / 0.1, relevance, keys)

    torch.testing.assert_close(of_scores, listwise(queries, products, relevance, keys, temperature=0.1))


def test_losses_of_encoders_and_of_cross_encoders_are_registered_apart():
    assert [loss.name for loss in registered_losses("scores")] == ["binary", "listwise"]
    assert find_loss("binary") is None
    assert loss_named("listwise").reads == "embeddings"
    assert loss_named("listwise", "scores").function is listwise_of_scores
    register(
        Loss("cosent", lambda scores, relevance: scores, "x", "y", inputs=("relevance",), reads="scores")
    )
    try:
        assert loss_named("cosent", "scores") is not loss_named("cosent")
    finally:
        unregister("cosent", "scores")
    with pytest.raises(ValueError, match="a cross-encoder has a score for each pair"):
        register(Loss("x", lambda scores, anchors: scores, "x", "y", inputs=("anchors",), reads="scores"))


def test_labels_of_a_single_relevance_are_refused_and_rare_positives_get_a_hint():
    assert "every training pair has 1" in LOSS.refuse(np.ones(3, np.float32))
    rare = np.zeros(1000, np.float32)
    rare[:5] = 1
    assert LOSS.refuse(rare) is None
    assert "--positive_weight auto" in LOSS.hint(rare)
    assert LOSS.hint(np.array([1, 0], np.float32)) is None
