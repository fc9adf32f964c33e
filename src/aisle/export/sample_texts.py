"""Texts on which a bundle is compared with its source: a shop's, or those of the sample shop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from aisle.sample_shop.items import iter_products

PRODUCTS, QUERIES = 600, 200
QUERY_WORDS = 4
"""Most words of a query."""
LONG_TEXTS = 4
DESCRIPTIONS_IN_LONG_TEXT = 60
"""About 1,500 words, more than most models read."""
ADDED_TEXTS = 5
"""The sample shop's texts that are compared in addition to a user's: each fifth, and all long texts."""
TOKENIZER_TEXTS = 1_000
HARD_TEXTS = (
    "",
    " ",
    "\n\t",
    "x" * 5_000,
    "steel espresso machine, " * 2_000,
    "👩\u200d👩\u200d👧 e\u0301 a\u0308\u0323",
)
"""Nothing, a word and a text far beyond any maximum length, joined emoji, combining marks."""
ALPHABETS = (
    *((0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x5FF)),
    *((0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x2000, 0x206F)),
    *((0x20A0, 0x20CF), (0x2100, 0x214F), (0x2190, 0x22FF), (0x3000, 0x30FF), (0x4E00, 0x9FFF)),
    *((0xAC00, 0xD7A3), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF), (0x1D400, 0x1D7FF)),
    *((0x1F1E6, 0x1F1FF), (0x1F300, 0x1FAFF), (0x00, 0x1F)),
)
"""Ranges of Unicode that normalisation treats in different ways: accents, scripts, spaces, signs, emoji."""


@dataclass(frozen=True)
class SampleTexts:
    """Texts to embed with both encoders.

    Args:
        queries: Texts of queries.
        products: Texts of products.
        judgements: Judgements of the queries; None without.
        added_queries: Texts of queries whose embeddings are compared, but not their rankings.
        added_products: Texts of products whose embeddings are compared, but which no query ranks.
    """

    queries: Sequence[str]
    products: Sequence[str]
    judgements: Judgements | None = None
    added_queries: Sequence[str] = ()
    added_products: Sequence[str] = ()


@dataclass(frozen=True)
class Judgements:
    """Judgements of queries, with the ids that they refer to.

    Args:
        query_ids: Id of each query, in the order of the texts.
        product_ids: Id of each product, in the order of the texts.
        qrels: Query id -> product id -> relevance.
    """

    query_ids: Sequence[str]
    product_ids: Sequence[str]
    qrels: Mapping[str, Mapping[str, float]]


def sample_shop_texts() -> SampleTexts:
    """Return titles, descriptions and short queries of the sample shop, and texts of any length."""
    products = list(iter_products(PRODUCTS + QUERIES))
    sold, asked = products[:PRODUCTS], products[PRODUCTS:]
    texts = [
        product.title if number % 3 else f"{product.title} {product.description}"
        for number, product in enumerate(sold)
    ]
    texts += [
        " ".join(product.description for product in sold[start::LONG_TEXTS][:DESCRIPTIONS_IN_LONG_TEXT])
        for start in range(LONG_TEXTS)
    ]
    queries = [
        " ".join(product.title.split()[: 1 + number % QUERY_WORDS]).lower()
        for number, product in enumerate(asked)
    ]
    return SampleTexts(tuple(dict.fromkeys(queries)), tuple(dict.fromkeys(texts)))


def added_texts(shop: SampleTexts) -> SampleTexts:
    """Return the texts of the sample shop that are compared in addition to a user's.

    They show an error that few or short texts hide, in a fifth of the time of all texts.
    """
    titles, long_texts = shop.products[:-LONG_TEXTS], shop.products[-LONG_TEXTS:]
    return SampleTexts(shop.queries[::ADDED_TEXTS], (*titles[::ADDED_TEXTS], *long_texts))


def tokenizer_texts(sample: SampleTexts, tokenizer: Any) -> list[str]:
    """Return `TOKENIZER_TEXTS` texts: hard ones, up to half from the sample, the rest from all of Unicode.

    Args:
        sample: Texts of queries and products.
        tokenizer: Tokenizer with special tokens, which also occur in the texts.
    """
    known = [*sample.queries, *sample.products, *sample.added_queries, *sample.added_products]
    step = max(1, -(-len(known) // (TOKENIZER_TEXTS // 2)))
    texts = [*HARD_TEXTS, *known[::step]]
    special = [f"{token} sofa{token}" for token in tokenizer.all_special_tokens]
    draw = Random(0)
    while len(texts) < TOKENIZER_TEXTS - len(special):
        words = []
        for _ in range(draw.randint(1, 12)):
            first, last = draw.choice(ALPHABETS)
            words.append("".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 8))))
        texts.append(draw.choice(("", " ")).join(words))
    return texts + special
