"""Catalogues, pairs and rankings of tests of mining."""

import numpy as np
import pyarrow as pa

from aisle.data.pairs import PairColumns, read_pairs
from aisle.data.rows import Row
from aisle.index.lexical import Bm25Index
from aisle.mining.exclusions import Exclusions, NearDuplicates
from aisle.mining.hard_negatives import mine_negatives
from aisle.mining.known_products import KnownProducts
from aisle.mining.mined_catalog import MinedCatalog
from aisle.mining.mining_anchors import anchors_of_pairs
from aisle.mining.product_groups import GroupColumns, ProductGroups
from aisle.mining.ranked_products import Bm25Ranking, BothRankings, DenseRanking
from aisle.mining.text_keys import text_key


def catalog_of(products, **columns):
    """Return a catalogue from a dict of id -> text, and further columns."""
    return MinedCatalog.of(
        pa.table({"product_id": list(products), "__text__": list(products.values()), **columns})
    )


def pairs_of(*values, **columns):
    rows = [Row("pairs.jsonl", number, dict(each)) for number, each in enumerate(values, start=1)]
    return read_pairs(rows, columns=PairColumns(**columns), label_map=None, on_bad_row="error").pairs


def lexical_of(catalog):
    texts = catalog.products.column("__text__").to_pylist()
    return Bm25Index.build(texts, product_ids=catalog.products.column("product_id"))


def bm25(catalog, *, depth=200):
    return Bm25Ranking(lexical_of(catalog), catalog.tie_ranks, depth)


def dense(catalog, embeddings, vectors, *, depth=200):
    """Rank by vectors: a dict of query -> vector."""
    return DenseRanking(
        embeddings, lambda queries: np.stack([vectors[query] for query in queries]), catalog.tie_ranks, depth
    )


def both(catalog, embeddings, vectors, *, depth=200):
    return BothRankings(dense(catalog, embeddings, vectors, depth=depth), bm25(catalog, depth=depth))


def mine(
    pairs,
    catalog,
    *,
    ranking=None,
    per_query=4,
    passages=None,
    graded=False,
    margin=None,
    near=None,
    groups=None,
    teacher=None,
):
    """Return the negatives of each pair, and everything that was mined."""
    texts = catalog.texts_of(pairs.product_ids or ())
    known = KnownProducts.of(pairs, texts, passages=passages)
    rows = catalog.rows_of(pairs.product_ids or (), {text_key(text) for text in pairs.products})
    exclusions = Exclusions(
        known,
        ProductGroups.of(pairs, known, groups or GroupColumns()),
        None if near is None else NearDuplicates(*near),
        margin,
    )
    anchors = anchors_of_pairs(pairs, known, rows, graded=graded, by_product=margin is not None)
    mined = mine_negatives(
        dict.fromkeys(anchor for anchor in anchors if anchor is not None),
        catalog=catalog,
        rows=rows,
        exclusions=exclusions,
        ranking=ranking or bm25(catalog),
        per_query=per_query,
        on_progress=lambda count: None,
        teacher=teacher,
    )
    return [None if anchor is None else mined.negatives[anchor] for anchor in anchors], mined


def ids_of(negatives):
    return [each.product_id for each in negatives]
