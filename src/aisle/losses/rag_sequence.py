"""RAG-Sequence: the likelihood of an answer, summed over the documents that a search retrieved.

Lewis et al. 2020, https://arxiv.org/abs/2005.11401, section 2.1. It is not a loss of `--loss`: those compare
the texts of a batch, and this one needs the retrieved documents of each question and a generator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["document_posterior", "log_marginal", "rag_sequence"]


def log_marginal(
    document_scores: torch.Tensor, answer_log_probs: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Return log sum over z of p(z | x) p(y | x, z) for each question x and its answer y.

    p(z | x) is the softmax of `document_scores / temperature` over the retrieved documents z.

    Args:
        document_scores: (questions, documents) cosines of question and documents.
        answer_log_probs: (questions, documents) log p(y | x, z), the sum over the tokens of the answer.
        temperature: Number by which cosines are divided.

    Returns:
        (questions,) log-likelihoods.
    """
    prior = (document_scores / temperature).log_softmax(dim=-1)
    return (prior + answer_log_probs).logsumexp(dim=-1)


def rag_sequence(
    document_scores: torch.Tensor, answer_log_probs: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Return the negative of `log_marginal`, (questions,), the loss to minimise.

    Its gradient with respect to a scaled score is p(z | x) - p(z | x, y): it raises the scores of documents
    with which the generator finds the answer likelier than with the others.

    Args:
        document_scores: As in `log_marginal`.
        answer_log_probs: As in `log_marginal`.
        temperature: As in `log_marginal`.
    """
    return -log_marginal(document_scores, answer_log_probs, temperature=temperature)


def document_posterior(
    document_scores: torch.Tensor, answer_log_probs: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Return p(z | x, y), (questions, documents): how much each document contributes to the answer.

    Args:
        document_scores: As in `log_marginal`.
        answer_log_probs: As in `log_marginal`.
        temperature: As in `log_marginal`.
    """
    prior = (document_scores / temperature).log_softmax(dim=-1)
    return (prior + answer_log_probs).softmax(dim=-1)
