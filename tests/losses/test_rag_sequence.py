"""RAG-Sequence against the formula of the paper, by loops, and its gradient."""

import math

import pytest
import torch

from aisle.losses.rag_sequence import document_posterior, log_marginal, rag_sequence


def test_the_loss_is_the_formula_of_the_paper():
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.2, 0.3]], dtype=torch.float64)
    token_probs = [
        [[0.5, 0.4], [0.9, 0.9], [0.01, 0.2]],
        [[0.3, 0.3], [0.2, 0.5], [0.7, 0.1]],
    ]  # p(y_i | x, z, y_<i) of each question, document and token
    temperature = 0.1
    expected = []
    for row, documents in zip(scores.tolist(), token_probs, strict=True):
        weights = [math.exp(score / temperature) for score in row]
        prior = [weight / sum(weights) for weight in weights]
        expected.append(-math.log(sum(p * math.prod(y) for p, y in zip(prior, documents, strict=True))))
    answer_log_probs = torch.tensor(token_probs, dtype=torch.float64).log().sum(dim=-1)

    found = rag_sequence(scores, answer_log_probs, temperature=temperature)

    assert found.tolist() == pytest.approx(expected)
    assert (-log_marginal(scores, answer_log_probs, temperature=temperature)).tolist() == found.tolist()


def test_the_gradient_of_a_score_is_prior_less_posterior():
    torch.manual_seed(0)
    scores = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    log_probs = -5 * torch.rand(3, 4, dtype=torch.float64)
    rag_sequence(scores, log_probs, temperature=0.2).sum().backward()
    prior = (scores / 0.2).softmax(dim=-1)
    posterior = document_posterior(scores, log_probs, temperature=0.2)

    assert torch.allclose(scores.grad, (prior - posterior) / 0.2)
    assert torch.allclose(posterior.sum(dim=-1), torch.ones(3, dtype=torch.float64))


def test_answers_too_unlikely_for_a_float_have_a_finite_loss():
    found = rag_sequence(torch.tensor([[0.5, 0.4]]), torch.tensor([[-900.0, -950.0]]), temperature=0.05)
    assert found.tolist() == pytest.approx([900 - math.log(1 / (1 + math.exp(-2)))])
