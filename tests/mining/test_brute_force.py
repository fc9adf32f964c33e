"""Mining equals a brute-force search that applies the rules to every product, on random data."""

import numpy as np
import pytest

from aisle.index import build_index, open_index
from aisle.index.scoring import row_scores
from aisle.mining.exclusions import NearDuplicates
from aisle.mining.hard_negatives import LOOKED_AT
from aisle.mining.margin import Margin
from aisle.mining.product_groups import GroupColumns, ProductGroups
from tests.mining.mined_shop import both, catalog_of, dense, ids_of, mine, pairs_of

PRODUCTS, QUERIES, DIM, DEPTH = 400, 8, 8, 150
WORDS = ["red", "blue", "oak", "sofa", "lamp", "bed", "rug", "big"]
NEAR = 0.8
MANY_LEVELS = tuple(level / 24 for level in range(25))
"""Relevance of the first query's products; each is another level."""


def unit_vectors(random, count):
    vectors = random.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def shop():
    random = np.random.default_rng(3)
    texts = [
        " ".join(random.choice(WORDS, size=random.integers(2, 5))) + f" {row % 150}"
        for row in range(PRODUCTS)
    ]
    groups = [f"g{random.integers(60)}" if random.random() < 0.8 else None for _ in range(PRODUCTS)]
    products = {f"p{number}": text for number, text in zip(random.permutation(PRODUCTS), texts, strict=True)}
    vectors = unit_vectors(random, QUERIES)
    embeddings = unit_vectors(random, PRODUCTS)
    embeddings[200:300] = embeddings[100:200]  # equal scores
    queries = {
        f"{WORDS[number % 8]} {WORDS[(number + 3) % 8]} query{number}": one
        for number, one in enumerate(vectors)
    }
    levels = [MANY_LEVELS, *[(1, 1, 0.75, 0.25, 0, 0)] * (QUERIES - 1)]
    judged = [
        {"query": query, "product_id": f"p{product}", "product": products[f"p{product}"], "relevance": level}
        for query, of_query in zip(queries, levels, strict=True)
        for product, level in zip(
            random.choice(PRODUCTS, len(of_query), replace=False), of_query, strict=True
        )
    ]
    return catalog_of(products, group=groups), embeddings, queries, judged


def words(text):
    return text.lower().split()


def expected(catalog, embeddings, queries, judged, pair, ranking, *, graded, limit):
    """Return the first four negatives of a pair, by the rules in words."""
    ids = catalog.products.column("product_id").to_pylist()
    texts = catalog.products.column("__text__").to_pylist()
    groups = catalog.products.column("group").to_pylist()
    same = [one for one in judged if one["query"] == pair["query"]]
    query = queries[pair["query"]]
    cosine = row_scores(embeddings, np.arange(PRODUCTS)[None], query[None])[0].tolist()
    own = cosine[ids.index(pair["product_id"])]
    lowest = pair["relevance"] if graded else 0.001
    relevant = [ids.index(one["product_id"]) for one in same if one["relevance"] >= lowest]
    found, taken = [], set()
    for row in ranking:
        key = words(texts[row])
        if any(key == words(texts[one]) for one in relevant):
            continue
        if groups[row] is not None and groups[row] in {
            groups[ids.index(one["product_id"])] for one in same if one["relevance"] >= lowest
        }:
            continue
        lower = any(key == words(one["product"]) for one in same if one["relevance"] < lowest)
        near = embeddings[relevant].astype(np.float64) @ embeddings[row].astype(np.float64)
        if not lower and (near.max(initial=-1) >= NEAR or cosine[row] > limit(own)):
            continue
        if tuple(key) in taken:
            continue
        taken.add(tuple(key))
        found.append(ids[row])
    return found[:4]


@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("source", ["dense", "both"])
def test_mined_negatives_are_those_of_brute_force(shop, source, graded):
    catalog, embeddings, queries, judged = shop
    margin = Margin("absolute", -0.2) if source == "both" else Margin("relative", 0.05)
    made = {"dense": dense, "both": both}[source](catalog, embeddings, queries, depth=DEPTH)
    found, mined = mine(
        pairs_of(*judged),
        catalog,
        ranking=made,
        graded=graded,
        margin=margin,
        near=(embeddings, NEAR),
        groups=GroupColumns("group"),
    )
    ids = catalog.products.column("product_id").to_pylist()
    compared = 0
    for pair, negatives in zip(judged, found, strict=True):
        if pair["relevance"] <= (0 if graded else 0.5):
            assert negatives is None
            continue
        query = queries[pair["query"]]
        cosine = row_scores(embeddings, np.arange(PRODUCTS)[None], query[None])[0]
        order = sorted(range(PRODUCTS), key=lambda row: (-cosine[row], ids[row]))[:DEPTH]
        if source == "both":
            (ranked,) = made.lexical.rank([pair["query"]], [np.empty(0, np.int64)])
            turns = [
                row
                for turn in zip(order, [*ranked.rows.tolist(), *[None] * DEPTH], strict=False)
                for row in turn
            ]
            order = list(dict.fromkeys(row for row in turns if row is not None))
        assert ids_of(negatives) == expected(
            catalog, embeddings, queries, judged, pair, order, graded=graded, limit=margin.limit
        )
        compared += len(negatives)
    assert compared > 20
    assert mined.excluded["near-duplicate"]
    assert mined.excluded["above the margin"]
    assert mined.excluded["same group"]


@pytest.mark.parametrize("graded", [False, True])
def test_a_query_is_compared_with_its_relevant_products_once_for_any_number_of_them(shop, counted, graded):
    catalog, embeddings, queries, judged = shop
    settings = {
        "margin": Margin("absolute", 0.1),
        "near": (embeddings, NEAR),
        "groups": GroupColumns("group"),
    }
    ranking = dense(catalog, embeddings, queries, depth=DEPTH)
    compared, looked_up = counted(NearDuplicates, "levels"), counted(ProductGroups, "of_relevant")
    mine(pairs_of(*judged[: len(MANY_LEVELS)]), catalog, ranking=ranking, graded=graded, **settings)
    assert len(compared) <= -(-DEPTH // LOOKED_AT)
    assert len(looked_up) == 1


def test_the_graph_of_an_index_finds_what_an_exact_search_finds(shop, tmp_path):
    catalog, embeddings, queries, judged = shop
    build_index(
        tmp_path,
        product_ids=catalog.products.column("product_id").to_pylist(),
        payload=catalog.products.select([]),
        texts=catalog.products.column("__text__").to_pylist(),
        embeddings=[embeddings],
        dim=DIM,
        fingerprint="f",
        encoder={},
        threads=1,
    )
    exact = dense(catalog, embeddings, queries, depth=20)
    by_graph = type(exact)(embeddings, exact.encode, exact.tie_ranks, exact.depth, open_index(tmp_path))
    expected = mine(pairs_of(*judged), catalog, ranking=exact)[0]

    assert mine(pairs_of(*judged), catalog, ranking=by_graph)[0] == expected


def test_parts_of_the_catalogue_give_the_same_ranking(shop, monkeypatch):
    catalog, embeddings, queries, _ = shop
    none = [np.empty(0, np.int64)] * QUERIES
    whole = list(dense(catalog, embeddings, queries).rank(list(queries), none))
    monkeypatch.setattr("aisle.mining.ranked_products.PART_ROWS", 37)
    parts = list(dense(catalog, embeddings, queries).rank(list(queries), none))
    assert all(np.array_equal(one.rows, two.rows) for one, two in zip(whole, parts, strict=True))
