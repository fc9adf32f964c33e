"""Embeddings of the validation pairs, each text once, shared among the processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from aisle.data.batching import distinct
from aisle.models.encoder import EncoderSettings
from aisle.models.tokens import TokenBudget, length_groups, pad, tokenize


@dataclass(frozen=True)
class PairEmbeddings:
    """Embeddings of pairs.

    Args:
        queries: (pairs, dim) float32, unit L2 norm.
        products: (pairs, dim) float32, unit L2 norm.
    """

    queries: np.ndarray
    products: np.ndarray

    def scores(self) -> np.ndarray:
        """Return the cosine of each pair: (pairs,) float32."""
        cosines: np.ndarray = np.einsum("ij,ij->i", self.queries, self.products)
        return cosines


def embed_pairs(
    accelerator: Any,
    model: torch.nn.Module,
    *,
    tokenizer: Any,
    settings: EncoderSettings,
    queries: Sequence[str],
    products: Sequence[str],
    max_texts: int,
    budget: TokenBudget,
) -> PairEmbeddings:
    """Return the embeddings of pairs on every process; call on all of them.

    Each process encodes every n-th of the distinct texts; none is lost or counted twice, whatever their
    number is.

    Args:
        accelerator: gathers over the processes.
        model: the prepared embedder.
        tokenizer: the model's tokenizer.
        settings: prompts and maximum length.
        queries: one text per pair.
        products: one text per pair.
        max_texts: the most texts of a forward pass.
        budget: how texts are grouped.
    """
    prompted = [settings.query_prompt + query for query in queries]
    prompted += [settings.product_prompt + product for product in products]
    texts = distinct(prompted)
    world, rank = accelerator.num_processes, accelerator.process_index
    share = -(-len(texts.texts) // world)
    # Every process encodes equally many texts, so that gathered tensors are equal; the surplus is cut off.
    mine = [texts.texts[(rank + world * n) % len(texts.texts)] for n in range(share)]
    was_training = model.training
    model.eval()
    with torch.inference_mode(), accelerator.autocast():
        local = _embed_texts(accelerator.device, model, tokenizer, settings, mine, max_texts, budget)
        gathered = accelerator.gather(local).float().cpu().numpy()
    model.train(was_training)
    in_order = gathered.reshape(world, share, -1).transpose(1, 0, 2).reshape(world * share, -1)
    embeddings = in_order[: len(texts.texts)]
    return PairEmbeddings(
        queries=embeddings[texts.rows[: len(queries)]], products=embeddings[texts.rows[len(queries) :]]
    )


def _embed_texts(
    device: torch.device,
    model: torch.nn.Module,
    tokenizer: Any,
    settings: EncoderSettings,
    texts: list[str],
    max_texts: int,
    budget: TokenBudget,
) -> torch.Tensor:
    ids = tokenize(tokenizer, texts, prompt="", max_length=settings.max_length)
    groups = [
        rows[start : start + max_texts]
        for rows in length_groups([len(one) for one in ids], budget)
        for start in range(0, len(rows), max_texts)
    ]
    embedded = [
        model([pad([ids[row] for row in rows], tokenizer.pad_token_id).to(device)]) for rows in groups
    ]
    back = torch.from_numpy(np.argsort(np.concatenate(groups))).to(device)
    result: torch.Tensor = torch.cat(embedded)[back]
    return result
