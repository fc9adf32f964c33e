"""Train a query tower through the answers that a generator finds in what it retrieves (RAG-Sequence)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import normalize

from aisle.index import SearchIndex
from aisle.losses.rag_sequence import rag_sequence
from aisle.models.generator import Generator
from aisle.models.tower import Tower
from aisle.text.token_batches import pad
from aisle.text.tokens import TokenizedTexts

__all__ = ["RagTrainer"]


@dataclass(frozen=True)
class RagTrainer:
    """Questions with answers, the query tower to train, and the frozen index and generator.

    Args:
        tower: Query tower; its weights are trained, without dropout.
        tokens: Tokens of the distinct questions.
        place: (questions,) text of each question in `tokens`.
        pad_token_id: Id of the tower's padding token.
        index: Index of the documents, whose vectors stay as they are.
        generator: Generator, which stays as it is.
        questions: Questions.
        answers: Answer to each question.
        prompt: Function from a question and a document to the generator's input.
        top_k: Documents to retrieve for a question.
        temperature: Number by which cosines are divided.
    """

    tower: Tower
    tokens: TokenizedTexts
    place: np.ndarray
    pad_token_id: int
    index: SearchIndex
    generator: Generator
    questions: Sequence[str]
    answers: Sequence[str]
    prompt: Callable[[str, str], str]
    top_k: int
    temperature: float

    def losses(self, rows: np.ndarray) -> torch.Tensor:
        """Return the loss of each question, (rows,), with a gradient for the tower.

        Args:
            rows: Numbers of questions.
        """
        embeddings = normalize(self.tower([pad(self.tokens, self.place[rows], self.pad_token_id)]), dim=-1)
        found = self.index.search(embeddings.detach().numpy(), top_k=self.top_k)
        vectors = torch.from_numpy(self.index.embeddings[found.rows].astype(np.float32))
        scores = torch.einsum("qd,qkd->qk", embeddings, vectors)
        inputs, answers = [], []
        for number, row in enumerate(rows):
            for hit in found[number]:
                inputs.append(self.prompt(self.questions[row], str(hit.text)))
                answers.append(self.answers[row])
        log_probs = self.generator.log_probs(inputs, answers).view_as(scores)
        return rag_sequence(scores, log_probs, temperature=self.temperature)

    def mean_loss(self, rows: np.ndarray, *, batch_size: int) -> float:
        """Return the mean loss of questions, without a gradient."""
        with torch.no_grad():
            parts = [self.losses(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)]
        return float(torch.cat(parts).mean())

    def train_epoch(
        self, rows: np.ndarray, optimizer: torch.optim.Optimizer, *, batch_size: int, max_grad_norm: float
    ) -> float:
        """Take a step per batch of questions, in the order given, and return the mean loss."""
        seen = []
        for at in range(0, len(rows), batch_size):
            losses = self.losses(rows[at : at + batch_size])
            optimizer.zero_grad()
            torch.autograd.backward(losses.mean())
            torch.nn.utils.clip_grad_norm_(self.tower.parameters(), max_grad_norm)
            optimizer.step()
            seen.append(losses.detach())
        return float(torch.cat(seen).mean())
