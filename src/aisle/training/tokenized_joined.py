"""Tokenise pairs for a cross-encoder: each pair of texts is a single sequence."""

from __future__ import annotations

from itertools import count

import numpy as np

from aisle.data.batching import distinct
from aisle.data.negatives import equality_keys
from aisle.data.pairs import Pairs
from aisle.text.joined_pairs import PairTokenizer
from aisle.training.tokenized import TokenizedPairs


def tokenize_joined(pairs: Pairs, tokenizer: PairTokenizer) -> TokenizedPairs:
    """Tokenise pairs, each distinct pair of texts once; hard negatives become pairs of relevance 0.

    A joined pair is a single text, so the query and the product of a pair have the same text number. Equal
    texts have different numbers if their queries or products have different ids.
    """
    hard = pairs.hard_negatives or [[] for _ in range(len(pairs))]
    counts = np.array([len(one) for one in hard], dtype=np.int64)
    rows = np.concatenate([np.arange(len(pairs)), np.repeat(np.arange(len(pairs)), counts)])
    query_texts = distinct(pairs.queries)
    product_texts = distinct([*pairs.products, *(text for one in hard for text in one)])
    query_keys = equality_keys(query_texts.rows, pairs.query_ids)[rows]
    product_keys = _product_keys(product_texts.rows, pairs)
    columns = np.stack([query_texts.rows[rows], product_texts.rows, query_keys, product_keys])
    kept, numbers = np.unique(columns, axis=1, return_inverse=True)
    numbers = numbers.reshape(-1)
    tokens = tokenizer.tokenize(
        [(query_texts.texts[query], product_texts.texts[product]) for query, product in kept[:2].T.tolist()]
    )
    none = np.empty(0, np.int64)
    return TokenizedPairs(
        ids=tokens.ids,
        offsets=tokens.offsets,
        queries=numbers,
        products=numbers,
        negatives=none,
        negative_offsets=np.zeros(len(numbers) + 1, np.int64),
        query_keys=kept[2],
        product_keys=kept[3],
        relevance=joined_relevance(pairs),
        teacher_scores=np.empty(0, np.float32) if pairs.teacher_scores is None else pairs.teacher_scores,
        marks=np.empty(0, np.uint8) if tokens.marks is None else tokens.marks,
        types=np.empty(0, np.uint8) if tokens.types is None else tokens.types,
    )


def joined_relevance(pairs: Pairs) -> np.ndarray:
    """Return the relevance of the joined pairs, hard negatives included; empty if the pairs are not judged.

    Pairs without labels have relevance 1 beside their hard negatives.
    """
    negatives = sum(map(len, pairs.hard_negatives or ()))
    relevance = pairs.relevance
    if relevance is None:
        relevance = np.ones(len(pairs) if negatives else 0, np.float32)
    return np.concatenate([relevance, np.zeros(negatives, np.float32)])


def _product_keys(texts: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Return a number per distinct product, by id or text: (products,) int64. Hard negatives have no ids."""
    ids = pairs.product_ids
    if ids is None:
        return equality_keys(texts, None)
    keys = equality_keys(texts[: len(pairs)], ids)
    of_text = dict(zip(texts[: len(pairs)].tolist(), keys.tolist(), strict=True))
    unseen = count(int(keys.max(initial=-1)) + 1)
    for text in texts[len(pairs) :].tolist():
        if text not in of_text:
            of_text[text] = next(unseen)
    return np.array([*keys.tolist(), *(of_text[text] for text in texts[len(pairs) :].tolist())], np.int64)
