"""Queries made from the products' texts, for measuring and tuning the graph's recall."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from aisle.index.products import take_rows
from aisle.types.columns import TEXT_COLUMN

TUNING_QUERIES = 500


def stand_in_queries(products: pa.Table) -> list[str]:
    """Return the first half of the words of up to 500 products, as queries."""
    count = min(TUNING_QUERIES, products.num_rows)
    rows = np.sort(np.random.default_rng(0).choice(products.num_rows, size=count, replace=False))
    texts = take_rows(products.select([TEXT_COLUMN]), rows).column(0).to_pylist()
    halves = [words[: -(-len(words) // 2)] for words in (text.split() for text in texts)]
    return [" ".join(words) for words in halves]
