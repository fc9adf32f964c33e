"""Losses of prefixes of the embeddings (Matryoshka)."""

import math

import numpy as np
import pytest
import torch

from aisle.losses.registry import loss_named
from aisle.training import objective
from aisle.training.objective import Objective
from tests.training.conftest import (
    assert_same,
    collator_of,
    labelled,
    moved_by,
    texts_of,
    tokenized,
    trainer_of,
)

LOSSES = ["cosine_target", "cosent", "listwise", "in_batch"]


def objective_of(loss, dims):
    return Objective(loss_named(loss), loss_named(loss).parameters(), dims)


def batches_of(base, loss, *, processes=1):
    random = np.random.default_rng(0)
    queries = (texts_of(4, seed=1) * 3)[:9]
    pairs = tokenized(base.tokenizer, queries, texts_of(9, seed=2), random.random(9))
    ranks = range(processes)
    return [collator_of(pairs, loss=loss, process=(rank, processes))(np.arange(9)) for rank in ranks]


def embeddings_of(batch, dim=8):
    random = torch.randn(sum(batch.texts), dim, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(random, dim=1)


def test_the_loss_is_the_mean_over_prefixes_computed_by_hand(base):
    """A pair of relevance 1 with cosines of 1 (one component), .6 (two) and .36 (all)."""
    batch = collator_of(tokenized(base.tokenizer, ["red"], ["blue"], [1.0]))(np.arange(1))
    embeddings = torch.empty(2, 3)
    embeddings[batch.query_rows[0]] = torch.tensor([0.6, 0.8, 0.0])
    embeddings[batch.product_rows[0]] = torch.tensor([0.6, 0.0, 0.8])

    (total,) = [sum(objective_of("cosine_target", (3, 2, 1)).parts(embeddings, batch))]

    assert total.item() == pytest.approx(((1 - 0.36) ** 2 + (1 - 0.6) ** 2 + 0) / 3)


@pytest.mark.parametrize("loss", LOSSES)
def test_value_and_gradient_equal_a_loop_over_cut_embeddings(base, loss):
    (batch,) = batches_of(base, loss)
    embeddings = embeddings_of(batch).requires_grad_()
    whole = objective_of(loss, ())

    found = sum(objective_of(loss, (8, 5, 2)).parts(embeddings, batch))
    (gradient,) = torch.autograd.grad(found, embeddings)

    expected = 0
    for dim in (8, 5, 2):
        # Whole embeddings come from the model at unit norm, and are not rescaled.
        cut = embeddings if dim == 8 else embeddings[:, :dim] / embeddings[:, :dim].norm(dim=1, keepdim=True)
        expected = expected + sum(whole.parts(cut, batch)) / 3
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, embeddings)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_without_prefixes_and_with_the_whole_as_only_prefix_the_loss_is_the_same(base, loss):
    (batch,) = batches_of(base, loss)
    embeddings = embeddings_of(batch)
    plain, whole = (sum(objective_of(loss, dims).parts(embeddings, batch)) for dims in ((), (8,)))
    assert plain.item() == whole.item()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_shares_of_three_processes_add_up(base, loss):
    (whole,), shares = batches_of(base, loss), batches_of(base, loss, processes=3)
    embedded = embeddings_of(whole)
    rows, ranked = (torch.cat([one.query_rows, one.product_rows]) for one in (whole, shares[0]))
    gathered = torch.empty_like(embedded)
    gathered[ranked] = embedded[rows]  # in the order of the ranks
    computed = objective_of(loss, (8, 3))

    found = sum(float(sum(computed.parts(gathered, batch))) for batch in shares)

    assert found == pytest.approx(float(sum(computed.parts(embedded, whole))), rel=1e-5)


@pytest.mark.parametrize("loss", ["cosine_target", "in_batch"])
def test_gradient_caching_moves_the_weights_like_a_plain_step(base, loss, monkeypatch):
    pairs = labelled(base)
    dims = (base.backbone.config.hidden_size, 7, 3)
    plain = moved_by(trainer_of(base, pairs, loss=loss, matryoshka_dims=dims))
    cached = moved_by(trainer_of(base, pairs, loss=loss, matryoshka_dims=dims, cached=True, max_tokens=32))
    assert_same(plain, cached)
    monkeypatch.setattr(objective, "SCORES_AT_A_TIME", 3 * 48)
    assert_same(plain, moved_by(trainer_of(base, pairs, loss=loss, matryoshka_dims=dims)))
    without = moved_by(trainer_of(base, pairs, loss=loss))
    assert any(not math.isclose(float(plain[name].sum()), float(without[name].sum())) for name in plain)
