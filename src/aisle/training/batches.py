"""Batches of pairs: embed each distinct text once, and divide the texts among the ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from aisle.data.batching import process_share
from aisle.data.negatives import Csr, KnownPositives
from aisle.data.scored_products import ScoredProducts
from aisle.losses.anchors import Anchors, Exclusions
from aisle.losses.batch_weight import batch_weight
from aisle.losses.positive_sets import PositiveSets
from aisle.losses.scored_lists import ScoredLists
from aisle.losses.specification import Unit
from aisle.losses.triples import Triples
from aisle.text.batch_layout import Layout
from aisle.text.token_batches import TokenBatch
from aisle.text.tokens import TokenizedTexts
from aisle.training.contrast import (
    Contrast,
    contrasted_texts,
    hard_negatives_of,
    positives_by_query,
    texts_to_compare,
)
from aisle.training.tokenized import TokenizedPairs


@dataclass(frozen=True)
class PairBatch:
    """The pairs of all ranks for one forward pass, and the texts that this rank embeds.

    A batch's embeddings are ordered by rank: rank 0's texts come first, then rank 1's, and so on. With
    separate towers a rank embeds its queries first, then its products.

    Args:
        token_batches: This rank's texts, in the order of its embeddings.
        texts: Number of texts that each rank embeds.
        query_rows: (pairs,) row of each pair's query in the embeddings.
        product_rows: (pairs,) row of each pair's product in the embeddings.
        query_keys: (pairs,) a number from 0 on per distinct query, equal for pairs with the same query.
        relevance: (pairs,) float32 in [0, 1], or None without labels.
        teacher_scores: (pairs,) float32, or None if the pairs have no teacher scores.
        own: Bounds of this rank's share of the loss: its first pair, and the pair after its last.
        contrast: Positives, and the texts to contrast them with, if the loss contrasts positives.
        weight: Number to divide the sum of all losses by, for their mean.
        real_tokens: Tokens of this rank's texts, without padding.
        groups: (pairs,) int64, group of each text, or None if rows are pairs.
    """

    token_batches: list[TokenBatch]
    texts: tuple[int, ...]
    query_rows: torch.Tensor
    product_rows: torch.Tensor
    query_keys: torch.Tensor
    relevance: torch.Tensor | None
    teacher_scores: torch.Tensor | None
    own: tuple[int, int]
    contrast: Contrast | None
    weight: float
    real_tokens: int
    groups: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.query_rows)

    @property
    def read_tokens(self) -> int:
        """Tokens that this rank's model computes, including padding."""
        return sum(batch.read_tokens for batch in self.token_batches)

    @property
    def own_texts(self) -> int:
        """Texts that this rank's model embeds."""
        return sum(len(batch) for batch in self.token_batches)

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on a device."""
        if device.type == "cpu":  # batches are made there
            return self
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> PairBatch:
        """Return the batch in pinned memory, from which a GPU copies asynchronously."""
        return self._with_tensors(torch.Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PairBatch:
        changed: PairBatch = _with_tensors(self, change)
        return replace(changed, token_batches=[_with_tensors(one, change) for one in self.token_batches])


@dataclass(frozen=True)
class Collator:
    """Make a batch of pairs from their numbers.

    Args:
        pairs: Tokenised pairs.
        layout: Layout of texts for the backbone.
        process_index: Index of this rank.
        num_processes: Number of ranks.
        known: Positives among all pairs, for a contrastive loss.
        unit: Unit of the mean over a step: pairs, positives, triples, queries or lists.
        texts: Texts to make batches of, by their numbers in the pairs; None for the pairs' own. A frozen
            encoder's have vectors.
        measured: Whether batches have positive sets in any case, for their metrics.
        scored: Teacher's scores, for a loss that takes scored lists.
    """

    pairs: TokenizedPairs
    layout: Layout
    process_index: int
    num_processes: int
    known: KnownPositives | None
    unit: Unit
    texts: TokenizedTexts | None = None
    measured: bool = False
    scored: ScoredProducts | None = None

    def __call__(self, rows: np.ndarray) -> PairBatch:
        """Return the batch of these pairs, given their numbers."""
        pairs = self.pairs
        read = pairs.texts if self.texts is None else self.texts
        queries, products = pairs.queries[rows], pairs.products[rows]
        hard_negatives = pairs.negatives_of(rows) if self.known is not None else queries[:0]
        numbers = np.unique(np.concatenate([queries, products, hard_negatives]))
        # Sort by length and assign texts to ranks in turn: every rank gets texts of similar lengths.
        by_tower = [
            texts[np.argsort(-pairs.texts.lengths(texts), kind="stable")]
            for texts in self.layout.by_tower(pairs.texts, numbers)
        ]
        shares = [
            [texts[index :: self.num_processes] for texts in by_tower] for index in range(self.num_processes)
        ]
        gathered = np.concatenate([texts for share in shares for texts in share])
        by_number = np.argsort(gathered)

        def places(texts: np.ndarray) -> np.ndarray:
            return np.asarray(by_number[np.searchsorted(gathered, texts, sorter=by_number)])

        # The layout keeps the order of texts sorted longest first, so embeddings need no sorting.
        mine = shares[self.process_index]
        batch_texts = [
            texts[group] for texts in mine for group in self.layout.rows(pairs.texts.lengths(texts))
        ]
        # A process without a text for a tower embeds an extra text, after its own, that gets no gradient:
        # every process must call every tower.
        batch_texts += [texts[:1] for texts, own in zip(by_tower, mine, strict=True) if not len(own)]
        labelled = pairs.relevance[rows] if pairs.labelled else None
        own_pairs = process_share(
            np.arange(len(rows)), process_index=self.process_index, num_processes=self.num_processes
        )
        query_keys = pairs.query_keys[queries]
        contrast = None if self.known is None else self._contrast(self.known, rows, places)
        if self.measured and self.known is not None and contrast is not None:
            sets = self._positive_sets(self.known, rows, places).positive_sets
            contrast = replace(contrast, positive_sets=sets)
        if contrast is not None and self.unit != "pair":
            weight = contrast.total
        else:
            weight = batch_weight(self.unit, relevance=labelled, query_keys=query_keys)
        return PairBatch(
            token_batches=[self.layout.batch(read, texts) for texts in batch_texts],
            texts=tuple(sum(map(len, share)) for share in shares),
            query_rows=torch.from_numpy(places(queries)),
            product_rows=torch.from_numpy(places(products)),
            query_keys=torch.from_numpy(np.unique(query_keys, return_inverse=True)[1]),
            relevance=None if labelled is None else torch.from_numpy(np.array(labelled, np.float32)),
            teacher_scores=torch.from_numpy(np.array(pairs.teacher_scores[rows], np.float32))
            if len(pairs.teacher_scores)
            else None,
            own=(int(own_pairs[0]), int(own_pairs[-1]) + 1) if len(own_pairs) else (0, 0),
            contrast=contrast,
            weight=float(weight),
            groups=torch.from_numpy(np.array(pairs.groups[rows])) if pairs.texts_of_groups else None,
            real_tokens=sum(int(pairs.texts.lengths(texts).sum()) for texts in mine),
        )

    def _contrast(
        self, known: KnownPositives, rows: np.ndarray, places: Callable[[np.ndarray], np.ndarray]
    ) -> Contrast:
        if self.unit == "triple":
            return self._triples(known, rows, places)
        if self.scored is not None:
            return self._scored_lists(self.scored, rows, places)
        if self.unit == "query":
            return self._positive_sets(known, rows, places)
        found = contrasted_texts(
            self.pairs,
            known,
            rows,
            process_index=self.process_index,
            num_processes=self.num_processes,
        )
        return Contrast(
            queries=torch.from_numpy(places(found.queries)),
            products=torch.from_numpy(places(found.products)),
            anchors=Anchors(
                queries=torch.from_numpy(found.anchor_queries),
                products=torch.from_numpy(found.anchor_products),
                not_negative_products=_exclusions(found.excluded.products),
                not_negative_queries=_exclusions(found.excluded.queries),
            ),
            total=found.total,
        )

    def _triples(
        self, known: KnownPositives, rows: np.ndarray, places: Callable[[np.ndarray], np.ndarray]
    ) -> Contrast:
        # Count the triples of all ranks for the mean, then divide them: some positives have more than others.
        found = contrasted_texts(self.pairs, known, rows)
        anchors, negatives = hard_negatives_of(self.pairs, found)
        share = {"process_index": self.process_index, "num_processes": self.num_processes}
        own, own_negatives = process_share(anchors, **share), process_share(negatives, **share)
        return Contrast(
            queries=torch.from_numpy(places(found.queries)),
            products=torch.from_numpy(places(found.products)),
            triples=Triples(
                queries=torch.from_numpy(found.anchor_queries[own]),
                positives=torch.from_numpy(found.anchor_products[own]),
                negatives=torch.from_numpy(own_negatives),
            ),
            total=len(anchors),
        )

    def _positive_sets(
        self, known: KnownPositives, rows: np.ndarray, places: Callable[[np.ndarray], np.ndarray]
    ) -> Contrast:
        # A query's positives stay together, so queries are divided among the ranks, not positives.
        found = contrasted_texts(self.pairs, known, rows)
        queries = np.unique(found.anchor_queries)
        own = process_share(queries, process_index=self.process_index, num_processes=self.num_processes)
        positives, excluded = positives_by_query(found, own)
        return Contrast(
            queries=torch.from_numpy(places(found.queries)),
            products=torch.from_numpy(places(found.products)),
            positive_sets=PositiveSets(
                queries=torch.from_numpy(own),
                positives=_exclusions(positives),
                not_negatives=_exclusions(excluded),
            ),
            total=len(queries),
        )

    def _scored_lists(
        self, scored: ScoredProducts, rows: np.ndarray, places: Callable[[np.ndarray], np.ndarray]
    ) -> Contrast:
        queries, products = texts_to_compare(self.pairs, rows)
        lists = scored.among(queries, products)
        # Divide the lists among the ranks, not the queries: a query with a single scored product has no list.
        own = process_share(
            np.arange(len(lists)), process_index=self.process_index, num_processes=self.num_processes
        )
        mine = lists.take(own)
        return Contrast(
            queries=torch.from_numpy(places(queries)),
            products=torch.from_numpy(places(products)),
            scored_lists=ScoredLists(
                queries=torch.from_numpy(mine.queries),
                products=_exclusions(mine.products),
                scores=torch.from_numpy(mine.scores),
            ),
            total=len(lists),
        )


def _exclusions(csr: Csr) -> Exclusions:
    return Exclusions.of(csr.indptr, csr.columns)


def _with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a dataclass with a function applied to its tensors, including those of nested dataclasses."""
    changed = {}
    for field in fields(value):
        one = getattr(value, field.name)
        if isinstance(one, torch.Tensor):
            changed[field.name] = change(one)
        elif isinstance(one, Contrast | Anchors | Exclusions | Triples | PositiveSets | ScoredLists):
            changed[field.name] = _with_tensors(one, change)
    return replace(value, **changed)
