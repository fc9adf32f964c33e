"""Pairs as token ids on disk: tokenised once per machine, and memory-mapped by every process."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from aisle.data.batching import distinct
from aisle.data.negatives import equality_keys
from aisle.data.pairs import Pairs
from aisle.errors import TrainingError
from aisle.io.durable import apply_umask
from aisle.text.side_tokenizers import SideTokenizers, joined
from aisle.text.tokens import PRODUCT, QUERY, TokenizedTexts


@dataclass(frozen=True)
class TokenizedPairs:
    """Pairs of text numbers; each distinct text, including its prompt, has a number.

    Args:
        ids: (tokens,) int32, the token ids of all texts, one after the other.
        offsets: (texts + 1,) int64, where each text begins.
        queries: (pairs,) int64, the text of each pair's query.
        products: (pairs,) int64, the text of each pair's product.
        negatives: (negatives,) int64, the texts of all pairs' hard negatives.
        negative_offsets: (pairs + 1,) int64, where each pair's hard negatives begin.
        query_keys: (texts,) int64, equal for texts that are the same query; -1 for no query.
        product_keys: (texts,) int64, equal for texts that are the same product, by id or text; -1 for none.
        relevance: (pairs,) float32 in [0, 1]; empty without labels.
        marks: (texts,) uint8, see `types.text_marks`.
        teacher_scores: (pairs,) float32; empty if the loss does not need them.
    """

    ids: np.ndarray
    offsets: np.ndarray
    queries: np.ndarray
    products: np.ndarray
    negatives: np.ndarray
    negative_offsets: np.ndarray
    query_keys: np.ndarray
    product_keys: np.ndarray
    relevance: np.ndarray
    marks: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    teacher_scores: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))

    def __len__(self) -> int:
        return len(self.queries)

    @cached_property
    def texts(self) -> TokenizedTexts:
        """The distinct texts, each with its side."""
        sides = QUERY * (self.query_keys >= 0) + PRODUCT * (self.product_keys >= 0)
        return TokenizedTexts(self.ids, self.offsets, sides=sides.astype(np.uint8))

    @property
    def labelled(self) -> bool:
        """Whether the pairs have labels."""
        return len(self.relevance) == len(self.queries)

    def positive(self, rows: np.ndarray) -> np.ndarray:
        """Return which of these pairs are positives, (rows,) bool: those above 0.5, or all without labels."""
        return self.relevance[rows] > 0.5 if self.labelled else np.ones(len(rows), dtype=bool)

    def negatives_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the texts of these pairs' hard negatives."""
        if not len(self.negatives):
            return self.negatives
        return TokenizedTexts(self.negatives, self.negative_offsets).take(rows)


def tokenize_pairs(pairs: Pairs, tokenizers: SideTokenizers) -> TokenizedPairs:
    """Return the pairs as token ids, each distinct text tokenised once.

    A text that is a query here and a product there is one text if the prompts are equal and one tower reads
    both sides.
    """
    queries, products = pairs.queries, pairs.products
    hard_negatives = pairs.hard_negatives or [[] for _ in queries]
    counts = np.array([len(one) for one in hard_negatives], dtype=np.int64)
    tokens, rows = _distinct_tokens(
        queries, [*products, *(product for one in hard_negatives for product in one)], tokenizers
    )
    count = len(queries)
    query_texts, product_texts, negatives = np.split(rows, [count, 2 * count])
    query_keys = np.full(len(tokens), -1, dtype=np.int64)
    query_keys[query_texts] = equality_keys(query_texts, pairs.query_ids)
    product_keys = np.full(len(tokens), -1, dtype=np.int64)
    product_keys[product_texts] = equality_keys(product_texts, pairs.product_ids)
    unseen = np.unique(negatives[product_keys[negatives] < 0])
    product_keys[unseen] = product_keys.max(initial=-1) + 1 + np.arange(len(unseen))
    return TokenizedPairs(
        ids=tokens.ids,
        offsets=tokens.offsets,
        queries=query_texts,
        products=product_texts,
        negatives=negatives,
        negative_offsets=np.concatenate([[0], np.cumsum(counts)]),
        query_keys=query_keys,
        product_keys=product_keys,
        relevance=np.empty(0, np.float32) if pairs.relevance is None else pairs.relevance,
        teacher_scores=np.empty(0, np.float32) if pairs.teacher_scores is None else pairs.teacher_scores,
        marks=np.empty(0, np.uint8) if tokens.marks is None else tokens.marks,
    )


def _distinct_tokens(
    queries: Sequence[str], products: Sequence[str], tokenizers: SideTokenizers
) -> tuple[TokenizedTexts, np.ndarray]:
    """Return the tokens of the distinct texts, and the text of each query, then of each product."""
    prompted = tokenizers.query.prompted(queries), tokenizers.product.prompted(products)
    if not tokenizers.separate:
        texts = distinct(chain(*prompted))
        return tokenizers.product.tokenize_prompted(texts.texts), texts.rows
    by_side = [distinct(side) for side in prompted]
    tokens = joined(
        [
            tokenizers.query.tokenize_prompted(by_side[0].texts),
            tokenizers.product.tokenize_prompted(by_side[1].texts),
        ]
    )
    return tokens, np.concatenate([by_side[0].rows, len(by_side[0].texts) + by_side[1].rows])


def write_tokenized(pairs: TokenizedPairs, folder: Path) -> None:
    """Write pairs to a folder that gets its name when it is complete; an existing folder stays.

    Raises:
        TrainingError: The folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        try:
            for part in fields(TokenizedPairs):
                np.save(staging / f"{part.name}.npy", getattr(pairs, part.name))
            apply_umask(staging)
            os.replace(staging, folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        if folder.is_dir():  # another process has written it
            return
        raise TrainingError(f"{folder}: the tokenised pairs cannot be written: {error}") from None


def open_tokenized(folder: Path) -> TokenizedPairs:
    """Return the pairs in a folder, memory-mapped.

    Raises:
        TrainingError: The folder cannot be read.
    """
    try:
        return TokenizedPairs(
            **{
                part.name: np.load(folder / f"{part.name}.npy", mmap_mode="r")
                for part in fields(TokenizedPairs)
            }
        )
    except (OSError, ValueError, EOFError) as error:
        raise TrainingError(
            f"{folder}: cannot be read ({error}); remove it, and the next run tokenises the pairs again"
        ) from None
