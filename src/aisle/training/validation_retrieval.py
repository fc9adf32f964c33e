"""Retrieval on validation pairs: each query ranks the products of all pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from aisle.data.adjacency import Csr
from aisle.data.pairs import Pairs, query_key
from aisle.errors import EvaluationError
from aisle.training.distributed import gather_rows
from aisle.training.group_retrieval import drawn
from aisle.training.tokenized import TokenizedPairs

CUTOFF = 10
"""The k of recall@k and ndcg@k."""
FIGURES = ("mrr", f"recall@{CUTOFF}", f"ndcg@{CUTOFF}", "precision@1")
"""Names of the metrics, in the order of the columns of `query_figures`."""
BLOCK_BYTES = 2**26
"""Memory for the cosines of a block of queries; masks and ranks take another three times as much."""


@dataclass(frozen=True)
class RetrievalTask:
    """Queries, products to rank, and the relevant products of each query.

    Texts with the same product id, or the same text, are a single product; its score is the highest of
    theirs.

    Args:
        queries: (queries,) int64, text number of each distinct query with a relevant product.
        texts: (texts,) int64, text numbers of the products' distinct texts.
        products: (texts,) int64, product of each of those texts, counted from 0.
        right: (right,) int64, relevant products of all queries, concatenated in the order of the queries.
        right_offsets: (queries + 1,) int64, start of each query's relevant products in `right`.
    """

    queries: np.ndarray
    texts: np.ndarray
    products: np.ndarray
    right: np.ndarray
    right_offsets: np.ndarray

    @classmethod
    def of(
        cls, pairs: TokenizedPairs, *, first: int | None = None, also: np.ndarray | None = None
    ) -> RetrievalTask:
        """Return the retrieval task for validation pairs.

        Args:
            pairs: Validation pairs; the product of every positive is relevant to its query.
            first: Number of pairs, from the first, whose queries and products are ranked; None ranks all.
            also: (2, more) int64, further queries and their relevant products, from `known_elsewhere`.
        """
        texts = np.unique(pairs.products[:first])
        keys, products = np.unique(pairs.product_keys[texts], return_inverse=True)
        positive = np.flatnonzero(pairs.positive(np.arange(len(pairs))))
        texts_of = np.stack([pairs.queries[positive], pairs.products[positive]])
        if also is not None:
            texts_of = np.concatenate([texts_of, also], axis=1)
        right_keys = pairs.product_keys[texts_of[1]]
        ranked = np.isin(right_keys, keys)
        known = np.unique(
            np.stack([pairs.query_keys[texts_of[0, ranked]], np.searchsorted(keys, right_keys[ranked])]),
            axis=1,
        )
        queries = np.unique(pairs.queries[:first])
        begin, end = (
            np.searchsorted(known[0], pairs.query_keys[queries], side=side) for side in ("left", "right")
        )
        queries, begin, end = queries[end > begin], begin[end > begin], end[end > begin]
        right = [known[1, low:high] for low, high in zip(begin, end, strict=True)]
        return cls(
            queries=queries,
            texts=texts,
            products=products,
            right=np.concatenate([np.empty(0, np.int64), *right]),
            right_offsets=np.concatenate([[0], np.cumsum(end - begin)]),
        )

    def sampled(self, sample: int | None, seed: int) -> RetrievalTask:
        """Return the task with `sample` of the queries, drawn at random; None keeps all."""
        kept = drawn(np.arange(len(self.queries)), sample, seed)
        right = Csr(self.right_offsets, self.right).take(kept)
        return replace(self, queries=self.queries[kept], right=right.columns, right_offsets=right.indptr)

    @property
    def product_count(self) -> int:
        """Number of products that each query ranks."""
        return int(self.products.max(initial=-1)) + 1


def known_elsewhere(pairs: Pairs, tokenized: TokenizedPairs, others: Pairs) -> np.ndarray:
    """Find relevant products in other pairs: (2, found) int64, text numbers of queries and products.

    If a product is relevant to a query in the training pairs, it must not count as wrong. Queries are the
    same if their text (without case and surplus white space) or id is; products, if their text, id or group
    is.

    Args:
        pairs: Validation pairs.
        tokenized: The same pairs, tokenised.
        others: Training pairs, or the validation pairs, for queries that differ only in case.
    """
    numbers = tokenized.queries.tolist()
    by_key = _numbers_by(map(query_key, pairs.queries), numbers)
    by_query_id = _numbers_by(pairs.query_ids or (), numbers)
    products = [
        (name, _numbers_by(_products_by(pairs, name), tokenized.products.tolist()))
        for name in ("product", "product_id", "product_group")
    ]
    keys, ids = [query_key(query) for query in others.queries], others.query_ids or [""] * len(others)
    rows = [row for row, key in enumerate(keys) if key in by_key or ids[row] in by_query_id]
    if not rows:
        return np.empty((2, 0), dtype=np.int64)
    shared = others.select(rows)
    relevance = [1.0] * len(shared) if shared.relevance is None else shared.relevance.tolist()
    named = [(list(_products_by(shared, name)), known) for name, known in products]
    found = [
        (query, product)
        for place, (row, value) in enumerate(zip(rows, relevance, strict=True))
        if value > 0.5
        for product in {n for names, known in named if names for n in known.get(names[place], ())}
        for query in by_key.get(keys[row], set()) | by_query_id.get(ids[row], set())
    ]
    return np.array([[query for query, _ in found], [product for _, product in found]], dtype=np.int64)


def _products_by(pairs: Pairs, name: str) -> Sequence[str | None]:
    """Return the text, id or group of each pair's product; nothing if the pairs have none."""
    if name == "product":
        return pairs.products
    return (pairs.product_ids if name == "product_id" else pairs.product_groups) or ()


def _numbers_by(names: Iterable[str | None], numbers: Sequence[int]) -> dict[str | None, set[int]]:
    """Return the text numbers of each name; texts without a name are left out."""
    found: dict[str | None, set[int]] = {}
    for name, number in zip(names, numbers, strict=False):
        if name is not None:
            found.setdefault(name, set()).add(number)
    return found


def measure_retrieval(
    accelerator: Any, task: RetrievalTask, queries: torch.Tensor, texts: torch.Tensor
) -> dict[str, float]:
    """Return the means of `FIGURES` over the queries, the same on every rank; call on all ranks.

    Each rank evaluates its share of the queries, in blocks of bounded memory.

    Args:
        accelerator: The run's `Accelerator`.
        task: Queries, and the products to rank.
        queries: (queries, dim) float32, unit L2 norm.
        texts: (texts, dim) float32, unit L2 norm.

    Raises:
        EvaluationError: An embedding is not finite.
    """
    count, world = len(task.queries), accelerator.num_processes
    bounds = [count * index // world for index in range(world + 1)]
    start, end = bounds[accelerator.process_index : accelerator.process_index + 2]
    mine = query_figures(task, queries, texts, first=start, last=end)
    found = gather_rows(accelerator, mine, tuple(int(size) for size in np.diff(bounds)))
    means = found.cpu().numpy().astype(np.float64).mean(axis=0)
    return dict(zip(FIGURES, means.tolist(), strict=True))


def query_figures(
    task: RetrievalTask,
    queries: torch.Tensor,
    texts: torch.Tensor,
    *,
    first: int = 0,
    last: int | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> torch.Tensor:
    """Return `FIGURES` of the queries from number `first` to before `last`: (queries, 4).

    The rank of a relevant product is 1 + the number of products above it. A wrong product with the same
    cosine counts as above it, so that a model with the same embedding for all texts finds nothing. mrr is
    1 / rank of the first relevant product. recall@10 is the share of the relevant products that are among the
    first ten. ndcg@10 is the sum of 1 / log2(rank + 1) over those, divided by the highest possible sum
    (Järvelin and Kekäläinen, ACM TOIS 20(4), 2002). precision@1 is 1 if the first product is relevant.

    Args:
        task: Queries, and the products to rank.
        queries: (all queries, dim) float32, unit L2 norm.
        texts: (texts, dim) float32, unit L2 norm.
        first: Number of the first query.
        last: Number after the last query; None means all queries.
        block_bytes: Memory for the cosines of a block of queries; it does not change the result.

    Raises:
        EvaluationError: An embedding is not finite.
    """
    for name, embeddings in (("queries", queries), ("products", texts)):
        broken = int((~torch.isfinite(embeddings).all(dim=1)).sum())
        if broken:
            raise EvaluationError(
                f"the embeddings of {broken} of {len(embeddings)} validation {name} are not finite; "
                "lower --learning_rate, or train with --mixed_precision bf16 in place of fp16"
            )
    # In float32, sums round differently in blocks of another size, which would change near ties.
    exact = torch.float32 if texts.device.type == "mps" else torch.float64
    pool = texts.to(exact)
    last = len(task.queries) if last is None else last
    rows = max(block_bytes // (pool.element_size() * max(len(texts), 1)), 1)
    blocks = [
        _block_figures(task, queries[start : min(start + rows, last)].to(exact), pool, start)
        for start in range(first, last, rows)
    ]
    return torch.cat([pool.new_empty((0, len(FIGURES))), *blocks])


def _block_figures(
    task: RetrievalTask, queries: torch.Tensor, pool: torch.Tensor, first: int
) -> torch.Tensor:
    # Rounded to float32, like the embeddings, equal texts from different batches tie.
    cosines = _by_product(task, (queries @ pool.T).float())
    offsets = task.right_offsets[first : first + len(queries) + 1]
    counts = np.diff(offsets)
    query = torch.from_numpy(np.repeat(np.arange(len(queries)), counts)).to(pool.device)
    product = torch.from_numpy(task.right[offsets[0] : offsets[-1]]).to(pool.device)
    right = torch.zeros_like(cosines, dtype=torch.bool)
    right[query, product] = True
    k = min(CUTOFF, cosines.shape[1])
    best_right = cosines.masked_fill(~right, -torch.inf).topk(k, dim=1).values
    wrong = cosines.masked_fill(right, -torch.inf)
    reciprocal = 1 / (1 + (wrong >= best_right[:, :1]).sum(dim=1)).to(pool.dtype)
    # Wrong products beyond the first k need no counting: k of them already push a relevant product below
    # the cutoff.
    above = (wrong.topk(k, dim=1).values[:, None, :] >= best_right[:, :, None]).sum(dim=2)
    places = torch.arange(1, k + 1, device=pool.device)
    ranks = places + above
    found = (ranks <= CUTOFF) & torch.isfinite(best_right)
    right_count = torch.from_numpy(counts).to(pool.device)
    discounts = 1 / torch.log2(ranks.to(pool.dtype) + 1)
    ideal = torch.cumsum(1 / torch.log2(places.to(pool.dtype) + 1), dim=0)
    ndcg = (discounts * found).sum(dim=1) / ideal[right_count.clamp(max=k) - 1]
    recall = found.sum(dim=1).to(pool.dtype) / right_count
    return torch.stack([reciprocal, recall, ndcg, (reciprocal == 1).to(pool.dtype)], dim=1)


def _by_product(task: RetrievalTask, cosines: torch.Tensor) -> torch.Tensor:
    """Return the highest cosine among each product's texts: (queries, products)."""
    count = task.product_count
    if count == len(task.texts):
        order = torch.from_numpy(np.argsort(task.products)).to(cosines.device)
        return cosines[:, order]
    index = torch.from_numpy(task.products).to(cosines.device).expand_as(cosines)
    return cosines.new_full((len(cosines), count), -torch.inf).scatter_reduce(1, index, cosines, "amax")
