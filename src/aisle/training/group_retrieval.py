"""Retrieval on texts with their groups: each text ranks the others, and those of its group are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from aisle.training.distributed import gather_rows
from aisle.training.tokenized import TokenizedPairs

CUTOFFS = (1, 10)
"""The values of k of precision@k."""
FIGURES = ("mrr", "r_precision", *(f"precision@{k}" for k in CUTOFFS))
"""Names of the metrics, in the order of the columns of `ranking_figures`."""
BLOCK_BYTES = 2**26
"""Memory for the cosines of a block of texts; sorting takes a few times as much."""


def ranking_figures(
    cosines: torch.Tensor, right: torch.Tensor, ignored: torch.Tensor, *, cutoffs: Sequence[int] = CUTOFFS
) -> torch.Tensor:
    """Return the metrics of each row's ranking of the columns, (rows, 2 + cutoffs) float64.

    mrr is 1 / rank of the first right column. r_precision is the share of right columns among the first R,
    if R columns are right (Manning, Raghavan and Schütze, Introduction to Information Retrieval, section
    8.4). precision@k is the number of right columns among the first k, divided by k. A wrong column with the
    same cosine ranks above a right one, so that a model with the same embedding for all texts finds nothing.

    Args:
        cosines: (rows, columns).
        right: (rows, columns) bool, columns that are right; at least one in each row.
        ignored: (rows, columns) bool, columns that are not ranked, such as the text itself; none is right.
        cutoffs: Values of k of precision@k.
    """
    scores = cosines.masked_fill(ignored, -torch.inf)
    wrong_first = right.to(torch.uint8).argsort(dim=1, stable=True)
    by_score = scores.take_along_dim(wrong_first, dim=1).argsort(dim=1, descending=True, stable=True)
    found = right.take_along_dim(wrong_first.take_along_dim(by_score, dim=1), dim=1).double()
    places = torch.arange(1, found.shape[1] + 1, device=found.device, dtype=found.dtype)
    count = right.sum(dim=1, keepdim=True)
    return torch.stack(
        [
            (found / places).amax(dim=1),
            (found * (places <= count)).sum(dim=1) / count[:, 0],
            *(found[:, :k].sum(dim=1) / k for k in cutoffs),
        ],
        dim=1,
    )


@dataclass(frozen=True)
class GroupTask:
    """Texts with their groups, and those of them that rank the others.

    Args:
        texts: (texts,) int64, distinct text numbers.
        groups: (texts,) int64, group of each text.
        ranking: (queries,) int64, indices of the texts that rank all others; each has another of its group.
    """

    texts: np.ndarray
    groups: np.ndarray
    ranking: np.ndarray

    @classmethod
    def of(cls, pairs: TokenizedPairs, *, first: int, sample: int | None, seed: int) -> GroupTask:
        """Return the task for validation texts.

        Args:
            pairs: Validation rows of a text with its group.
            first: Number of rows, from the first, whose texts are ranked.
            sample: Number of texts that rank the others, drawn at random; None lets all of them rank.
            seed: Seed of the draw.
        """
        texts = np.unique(pairs.products[:first])
        groups = pairs.product_keys[texts]
        _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        return cls(texts, groups, drawn(np.flatnonzero(sizes[member] > 1), sample, seed))


def drawn(numbers: np.ndarray, sample: int | None, seed: int) -> np.ndarray:
    """Return `sample` of the numbers, drawn at random and in their order; all, if that is not fewer."""
    if sample is None or sample >= len(numbers):
        return numbers
    chosen: np.ndarray = np.sort(np.random.default_rng(seed).choice(numbers, sample, replace=False))
    return chosen


def measure_groups(
    accelerator: Any, task: GroupTask, embeddings: torch.Tensor, *, block_bytes: int = BLOCK_BYTES
) -> dict[str, float]:
    """Return the means of `FIGURES` over the ranking texts, the same on every rank; call on all ranks.

    Args:
        accelerator: The run's `Accelerator`.
        task: Texts with their groups.
        embeddings: (texts, dim) float32, unit L2 norm.
        block_bytes: Memory for the cosines of a block of texts; it does not change the result.
    """
    # In float32, sums round differently in blocks of another size, which would change near ties.
    exact = torch.float32 if embeddings.device.type == "mps" else torch.float64
    pool = embeddings.to(exact)
    shares = np.array_split(task.ranking, accelerator.num_processes)
    mine = torch.from_numpy(shares[accelerator.process_index]).to(pool.device)
    groups = torch.from_numpy(task.groups).to(pool.device)
    everyone = torch.arange(len(groups), device=pool.device)
    rows = max(block_bytes // (pool.element_size() * max(len(pool), 1)), 1)
    figures = [pool.new_empty((0, len(FIGURES)))]
    for start in range(0, len(mine), rows):
        block = mine[start : start + rows]
        itself = block[:, None] == everyone
        alike = (groups[block][:, None] == groups) & ~itself
        # Rounded to float32, like the embeddings, equal texts from different batches tie.
        figures.append(ranking_figures((pool[block] @ pool.T).float(), alike, itself).to(exact))
    found = gather_rows(accelerator, torch.cat(figures), tuple(map(len, shares)))
    means = found.cpu().numpy().astype(np.float64).mean(axis=0)
    return dict(zip(FIGURES, means.tolist(), strict=True))
