"""Products that training queries are contrasted with: judged, hard and random products of an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from aisle.index.scoring import FloatArray, Rows
from aisle.index.search_index import SearchIndex
from aisle.training.adapter_queries import AdapterQueries
from aisle.types.adapter_options import AdapterOptions

__all__ = ["Batch", "Contrasts", "batch_loss"]

Embeddings = npt.NDArray[np.float32]

MINED_DEPTH = 50
"""Best products of a query among which its hard negatives are drawn."""
MOST_JUDGED = 64
"""Most judged products of a query in a step; of more, another part is used in each epoch."""
MINED_AT_A_TIME = 1024


@dataclass(frozen=True)
class Batch:
    """Queries of a step, and the products that they are contrasted with.

    Args:
        numbers: (queries,) numbers of the queries among the training queries.
        queries: (queries, dim) embeddings by the base encoder.
        own: (queries, own, dim) judged products and hard negatives of each query.
        gains: (queries, own) gains of those; 0 for hard negatives and padding.
        padding: (queries, own) bool, entries of `own` that are no products.
        shared: (shared, dim) products that all queries are contrasted with.
        judged: (queries, shared) bool, shared products that are judged for the query, and so in `own`.
    """

    numbers: Rows
    queries: torch.Tensor
    own: torch.Tensor
    gains: torch.Tensor
    padding: torch.Tensor
    shared: torch.Tensor
    judged: torch.Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on a device."""
        return Batch(
            self.numbers,
            self.queries.to(device),
            self.own.to(device),
            self.gains.to(device),
            self.padding.to(device),
            self.shared.to(device),
            self.judged.to(device),
        )


def batch_loss(embedded: torch.Tensor, batch: Batch, *, temperature: float) -> torch.Tensor:
    """Return the mean loss of the queries of a batch; `train_queries` has the formula.

    Args:
        embedded: (queries, dim) embeddings that are trained, of any norm.
        batch: The queries, and the products that they are contrasted with.
        temperature: Number by which cosines are divided.
    """
    queries = nn.functional.normalize(embedded, dim=1)
    own = torch.einsum("qd,qod->qo", queries, batch.own) / temperature
    shared = queries @ batch.shared.T / temperature
    logits = torch.cat(
        [own.masked_fill(batch.padding, -torch.inf), shared.masked_fill(batch.judged, -torch.inf)], dim=1
    )
    total = batch.gains.sum(dim=1, keepdim=True)
    targets = batch.gains / total.clamp(min=1e-12)
    log_probabilities = own - logits.logsumexp(dim=1, keepdim=True)
    terms = -(targets * log_probabilities.masked_fill(batch.padding, 0)).sum(dim=1)
    return terms.sum() / (total > 0).sum().clamp(min=1)


@dataclass(frozen=True, eq=False)
class Contrasts:
    """Training queries, and the products to contrast them with.

    Products with equal embeddings share a node of the graph and count as the same product.

    Args:
        embeddings: (queries, dim) embeddings of the queries.
        stored: (count, dim) vectors of the index, memory-mapped.
        row_of_node: (nodes,) a row of each node; -1 for a node without products.
        starts: (queries + 1,) start of each query's judged nodes.
        nodes: (judgements,) judged nodes, distinct for each query.
        gains: (judgements,) float32.
        mined: (queries, mined) nodes found by a search and not judged; -1 is padding.
        options: How the adapter is trained.
    """

    embeddings: Embeddings
    stored: FloatArray
    row_of_node: Rows
    starts: Rows
    nodes: Rows
    gains: npt.NDArray[np.float32]
    mined: Rows
    options: AdapterOptions

    @classmethod
    def of(
        cls,
        index: SearchIndex,
        queries: AdapterQueries,
        embeddings: Embeddings,
        options: AdapterOptions,
        rng: np.random.Generator,
    ) -> Contrasts:
        """Return the contrasts of training queries; a search finds the hard negatives."""
        groups = index.graph.groups
        sizes = groups.sizes(np.arange(len(groups)))
        node_of_row = np.empty(len(index), np.int64)
        node_of_row[groups.rows] = np.repeat(np.arange(len(groups)), sizes)
        row_of_node = np.full(len(groups), -1, np.int64)
        row_of_node[sizes > 0] = groups.first(np.flatnonzero(sizes > 0))
        starts, nodes, gains = _by_node(queries, node_of_row[queries.rows], len(groups))
        live = int((sizes > 0).sum())
        mined = np.empty((len(queries), 0), np.int64)
        if options.hard_negatives and live > options.negatives:
            mined = _mined(index, embeddings, node_of_row, starts, nodes)
        return cls(embeddings, index.embeddings, row_of_node, starts, nodes, gains, mined, options)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the batches of an epoch; every query is in one of them."""
        order = rng.permutation(len(self.embeddings))
        live = np.flatnonzero(self.row_of_node >= 0)
        place = np.full(len(self.row_of_node), -1, np.int64)
        for start in range(0, len(order), self.options.batch_queries):
            shared = live
            if len(live) > self.options.negatives:
                shared = np.unique(rng.choice(live, self.options.negatives))
            place[shared] = np.arange(len(shared))
            yield self._batch(order[start : start + self.options.batch_queries], shared, place, rng)
            place[shared] = -1

    def _batch(self, chosen: Rows, shared: Rows, place: Rows, rng: np.random.Generator) -> Batch:
        """Return the batch of some queries.

        Args:
            chosen: Numbers of the queries.
            shared: Nodes that all of them are contrasted with.
            place: (nodes,) place of each node in `shared`, -1 for others.
            rng: Generator of the draws.
        """
        sizes = self.starts[chosen + 1] - self.starts[chosen]
        width = min(int(sizes.max()), MOST_JUDGED)
        # A query with more judged products than the width uses another part of them in each epoch.
        first = np.where(sizes > width, rng.integers(0, 1 << 30, len(chosen)), 0)
        at = self.starts[chosen, None] + (first[:, None] + np.arange(width)) % sizes[:, None]
        used = np.arange(width) < sizes[:, None]
        own = np.where(used, self.nodes[at], -1)
        gains = np.where(used, self.gains[at], 0).astype(np.float32)
        judged = self._judged(chosen, shared, place)
        if self.mined.shape[1]:
            hard = _drawn(self.mined[chosen], self.options.hard_negatives, rng)
            own = np.concatenate([own, hard], axis=1)
            gains = np.concatenate([gains, np.zeros(hard.shape, np.float32)], axis=1)
        return Batch(
            numbers=chosen,
            queries=torch.from_numpy(self.embeddings[chosen]),
            own=self._vectors(own),
            gains=torch.from_numpy(gains),
            padding=torch.from_numpy(own < 0),
            shared=self._vectors(shared),
            judged=torch.from_numpy(judged),
        )

    def _judged(self, chosen: Rows, shared: Rows, place: Rows) -> npt.NDArray[np.bool_]:
        """Return which of the shared nodes are judged for each query: (queries, shared)."""
        judged = np.zeros((len(chosen), len(shared)), np.bool_)
        for row, query in zip(judged, chosen, strict=True):
            at = place[self.nodes[self.starts[query] : self.starts[query + 1]]]
            row[at[at >= 0]] = True
        return judged

    def _vectors(self, nodes: Rows) -> torch.Tensor:
        rows = self.row_of_node[np.maximum(nodes, 0)]
        return torch.from_numpy(np.asarray(self.stored[np.maximum(rows, 0)], np.float32))


def _by_node(queries: AdapterQueries, nodes: Rows, count: int) -> tuple[Rows, Rows, npt.NDArray[np.float32]]:
    """Return starts, nodes and gains of the queries' judged nodes; of equal nodes the highest gain counts."""
    query_of = queries.query_of
    order = np.lexsort((-queries.gains, nodes, query_of))
    keys = query_of[order] * count + nodes[order]
    kept = order[np.append(True, keys[1:] != keys[:-1])]
    starts = np.searchsorted(query_of[kept], np.arange(len(queries) + 1))
    return starts, nodes[kept], queries.gains[kept]


def _mined(index: SearchIndex, embeddings: Embeddings, node_of_row: Rows, starts: Rows, judged: Rows) -> Rows:
    """Return the nodes of the best products of each query that are not judged: (queries, MINED_DEPTH)."""
    count = np.int64(len(index.graph.groups))
    keys = np.repeat(np.arange(len(starts) - 1), np.diff(starts)) * count + judged
    mined = np.full((len(embeddings), MINED_DEPTH), -1, np.int64)
    for start in range(0, len(embeddings), MINED_AT_A_TIME):
        rows = index.search(embeddings[start : start + MINED_AT_A_TIME], top_k=MINED_DEPTH).rows
        nodes = np.where(rows >= 0, node_of_row[rows], -1)
        asked = np.arange(start, start + len(rows))[:, None] * count + nodes
        nodes[np.isin(asked, keys)] = -1
        nodes[_repeats(nodes)] = -1  # rows with equal embeddings
        mined[start : start + len(rows), : nodes.shape[1]] = nodes
    return mined


def _repeats(nodes: Rows) -> npt.NDArray[np.bool_]:
    """Return which entries of a row are in the row before: (rows, columns)."""
    order = nodes.argsort(axis=1, kind="stable")
    ordered = np.take_along_axis(nodes, order, axis=1)
    repeats = np.zeros(nodes.shape, np.bool_)
    np.put_along_axis(repeats, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return repeats


def _drawn(mined: Rows, count: int, rng: np.random.Generator) -> Rows:
    """Return `count` of the mined nodes of each query, each once; padding only if there are fewer."""
    order = np.where(mined < 0, 1.0, rng.random(mined.shape)).argsort(axis=1, kind="stable")
    drawn: Rows = np.take_along_axis(mined, order[:, :count], axis=1)
    return drawn
