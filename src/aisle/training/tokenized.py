"""Tokenised pairs on disk: tokenise once per machine, and memory-map in every process."""

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
    """Pairs of texts; each distinct text, including its prompt, is tokenised once and has a number.

    Args:
        ids: (tokens,) int32, token ids of all texts, concatenated.
        offsets: (texts + 1,) int64, start of each text in `ids`.
        queries: (pairs,) int64, text number of each pair's query.
        products: (pairs,) int64, text number of each pair's product.
        negatives: (negatives,) int64, text numbers of all pairs' hard negatives.
        negative_offsets: (pairs + 1,) int64, start of each pair's hard negatives in `negatives`.
        query_keys: (texts,) int64, a number per distinct query, by id or text; -1 if a text is not a query.
        product_keys: (texts,) int64, a number per distinct product, by id or text; -1 if it is not a product.
        relevance: (pairs,) float32 in [0, 1]; empty without labels.
        marks: (texts,) uint8, see `types.text_marks`.
        teacher_scores: (pairs,) float32; empty if the loss does not need them.
        negative_scores: (negatives,) float32, the teacher's scores of `negatives`; empty if they have none.
        groups: (pairs,) int64, number of each text's group, if rows are texts with their groups; else empty.
            The queries are then the products, and all texts are on the side of products.
        subgroups: (pairs,) int64, number of each pair's subgroup; empty if the data has none.
        types: (tokens,) uint8, token types of joined pairs; empty if the texts are single, or the model reads
            no types.
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
    negative_scores: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    groups: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    subgroups: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    types: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))

    def __len__(self) -> int:
        return len(self.queries)

    @cached_property
    def texts(self) -> TokenizedTexts:
        """The distinct texts, each with its side."""
        queries = np.zeros(len(self.query_keys), bool) if self.texts_of_groups else self.query_keys >= 0
        sides = QUERY * queries + PRODUCT * (self.product_keys >= 0)
        types = self.types if len(self.types) else None
        return TokenizedTexts(self.ids, self.offsets, sides=sides.astype(np.uint8), types=types)

    @property
    def texts_of_groups(self) -> bool:
        """Whether a row is a text with its group, in place of a query with a product."""
        return len(self.groups) > 0

    @property
    def labelled(self) -> bool:
        """Whether the pairs have labels."""
        return len(self.relevance) == len(self.queries)

    def positive(self, rows: np.ndarray) -> np.ndarray:
        """Return whether each pair is a positive, (rows,) bool: relevance above 0.5, or no labels at all."""
        return self.relevance[rows] > 0.5 if self.labelled else np.ones(len(rows), dtype=bool)

    def negatives_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the text numbers of these pairs' hard negatives."""
        if not len(self.negatives):
            return self.negatives
        return TokenizedTexts(self.negatives, self.negative_offsets).take(rows)


def tokenize_pairs(pairs: Pairs, tokenizers: SideTokenizers) -> TokenizedPairs:
    """Tokenise pairs, each distinct text once.

    If a text occurs as a query and as a product, it counts as a single text when both sides have the same
    prompt and the same tower.
    """
    queries, products = pairs.queries, pairs.products
    hard_negatives = pairs.hard_negatives or [[] for _ in queries]
    counts = np.array([len(one) for one in hard_negatives], dtype=np.int64)
    if pairs.texts_of_groups:
        tokens, product_texts = _product_tokens(products, tokenizers)
        query_texts, negatives = product_texts, product_texts[:0]
    else:
        flat = [product for one in hard_negatives for product in one]
        tokens, rows = _distinct_tokens(queries, [*products, *flat], tokenizers)
        query_texts, product_texts, negatives = np.split(rows, [len(queries), 2 * len(queries)])
    query_keys = np.full(len(tokens), -1, dtype=np.int64)
    query_keys[query_texts] = equality_keys(query_texts, pairs.query_ids)
    product_keys = np.full(len(tokens), -1, dtype=np.int64)
    product_keys[product_texts] = _product_keys(product_texts, pairs)
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
        negative_scores=np.fromiter(chain.from_iterable(pairs.negative_teacher_scores or []), np.float32),
        marks=np.empty(0, np.uint8) if tokens.marks is None else tokens.marks,
        groups=query_keys[query_texts] if pairs.texts_of_groups else np.empty(0, np.int64),
        subgroups=np.empty(0, np.int64) if pairs.subgroups is None else distinct(pairs.subgroups).rows,
    )


def _product_keys(texts: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return the key of each pair's product: equal if texts, ids or groups are equal."""
    keys = equality_keys(texts, pairs.product_ids)
    groups = pairs.product_groups
    if groups is None:
        return keys
    # A product without a group is in a group of its own: the group of its row.
    return equality_keys(
        keys, [f"row {row}" if one is None else f"group {one}" for row, one in enumerate(groups)]
    )


def _product_tokens(products: Sequence[str], tokenizers: SideTokenizers) -> tuple[TokenizedTexts, np.ndarray]:
    """Return the tokens of the distinct texts, all read as products, and the text number of each row."""
    texts = distinct(tokenizers.product.prompted(products))
    return tokenizers.product.tokenize_prompted(texts.texts), texts.rows


def _distinct_tokens(
    queries: Sequence[str], products: Sequence[str], tokenizers: SideTokenizers
) -> tuple[TokenizedTexts, np.ndarray]:
    """Return the tokens of the distinct texts, and the text numbers of all queries, then of all products."""
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
    """Write pairs to a folder, which gets its final name once it is complete; an existing folder stays.

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
    """Open the pairs in a folder, memory-mapped.

    Raises:
        TrainingError: The folder cannot be read.
    """
    try:
        # As plain arrays, of which numpy makes parts much faster.
        return TokenizedPairs(
            **{
                part.name: np.asarray(np.load(folder / f"{part.name}.npy", mmap_mode="r"))
                for part in fields(TokenizedPairs)
            }
        )
    except (OSError, ValueError, EOFError) as error:
        raise TrainingError(
            f"{folder}: cannot be read ({error}); remove it, and the next run tokenises the pairs again"
        ) from None
