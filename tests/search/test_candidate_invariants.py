"""What holds for the candidate sets of every catalogue, query and setting, over generated examples.

The exact sets are compared with a ranking that is computed here, from the formulas of cosine, BM25 and convex
fusion and nothing of `aisle.index` but the stored embeddings.
"""

import math
import tempfile
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aisle.index import open_index
from aisle.index.dense_search import build_graph
from aisle.index.lexical import Bm25Index
from aisle.index.products import make_products, rank_ids
from aisle.index.row_groups import RowGroups, number_nodes
from aisle.search.searcher import Searcher
from tests.search.word_encoder import WordEncoder, write_shop

ENCODER = WordEncoder()
VOCABULARY = ("red", "blue", "sofa", "lamp", "bed", "oak")  # their own stems, and no stop words
MODES = ("dense", "lexical", "hybrid")
# Derandomised, so that a run fails for a change of the code and not by chance.
EXAMPLES = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

titles = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=4).map(" ".join)
products = st.fixed_dictionaries(
    {
        "title": titles,
        "brand": st.sampled_from([None, "Acme", "Zenith", "it's"]),
        "price": st.sampled_from([None, math.nan, 0.0, -0.0, 9.99, 20.0]),
        "sold": st.sampled_from([None, True, False]),
        "colours": st.none() | st.lists(st.sampled_from([None, "red", "blue"]), max_size=3),
        "parent": st.sampled_from([None, 1, 2, 3]),
    }
)
SCHEMA = pa.schema(
    {
        "title": pa.string(),
        "brand": pa.string(),
        "price": pa.float64(),
        "sold": pa.bool_(),
        "colours": pa.list_(pa.string()),
        "parent": pa.int64(),
    }
)
SINGLE = ("title", "brand", "price", "sold", "parent")


@cache
def an_index():
    with tempfile.TemporaryDirectory() as folder:
        write_shop(Path(folder) / "index", titles=["sofa"])
        return open_index(Path(folder) / "index")


def searcher_of(rows, product_ids):
    """Return a searcher of a catalogue; it is made in memory, because files take 0.2 s."""
    texts = [row["title"] for row in rows]
    table = make_products(product_ids, pa.Table.from_pylist(rows, SCHEMA), texts)
    embeddings, tie_ranks = ENCODER.encode_products(texts), rank_ids(table)
    groups = RowGroups.of(number_nodes(embeddings), tie_ranks)
    index = replace(
        an_index(),
        manifest=replace(an_index().manifest, count=len(rows)),
        embeddings=embeddings,
        graph=build_graph(embeddings, groups, backend="hnsw", parameters={}, threads=1),
        products=table,
        tie_ranks=tie_ranks,
        lexical=Bm25Index.build(texts, product_ids=table.column("product_id")),
    )
    return Searcher(index, ENCODER)


@st.composite
def searchers(draw):
    """Draw a searcher over a catalogue of up to 24 products; the ids are not in the order of the rows."""
    rows = draw(st.lists(products, min_size=1, max_size=24))
    numbers = draw(st.permutations(range(len(rows))))
    return searcher_of(rows, [f"px{ascii_lowercase[number]}" for number in numbers])


queries = st.one_of(
    st.lists(st.sampled_from([*VOCABULARY, "zeppelin"]), min_size=1, max_size=3).map(" ".join),
    st.sampled_from(["pxa", "pxd"]),
)
filters = st.sampled_from([None, "brand == 'Acme'", "price < 15", "'red' in colours", "parent is None"])
windows = st.sampled_from([1, 2, 3, 7, 40])
asked = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(MODES),
        "where": filters,
        "window": windows,
        "min_score": st.sampled_from([None, -0.5, 0.2, 0.6]),
        "exact": st.booleans(),
    }
)


def candidates(searcher, query, **settings):
    (found,) = searcher.candidates([query], **settings)
    return found


def ids(hits):
    return [hit.product_id for hit in hits]


# --- pages, facets, groups


@EXAMPLES
@given(searchers(), queries, asked, st.integers(1, 5))
def test_pages_of_one_search_each_join_to_one_large_page_with_the_same_total(searcher, query, asked, size):
    whole = candidates(searcher, query, **asked)
    pages, totals = [], set()
    for offset in range(0, whole.window, size):
        found = candidates(searcher, query, **asked)
        pages += found.page(offset, min(size, whole.window - offset))
        totals.add(found.total)

    assert pages == whole.page(0, whole.window)
    assert totals == {whole.total}
    assert len(pages) == min(len(whole.rows), whole.window)
    assert [hit.rank for hit in pages] == list(range(1, len(pages) + 1))
    assert len(set(ids(pages))) == len(pages)


@EXAMPLES
@given(searchers(), queries, asked, st.integers(1, 4))
def test_counts_of_a_facet_sum_to_the_total(searcher, query, asked, size):
    found = candidates(searcher, query, **asked)

    for facet in found.facets(SINGLE, size).values():
        assert sum(count for _, count in facet.values) + facet.missing + facet.other == found.total.value
        assert len(facet.values) <= size


@EXAMPLES
@given(searchers(), queries, st.sampled_from(MODES))
def test_a_filter_by_a_facets_value_finds_as_many_products_as_it_counts(searcher, query, mode):
    found = candidates(searcher, query, mode=mode)
    equal = {"brand": "brand == {!r}", "price": "price == {}", "sold": "sold == {}", "parent": "parent == {}"}

    facets = found.facets([*equal, "colours"])

    for field, facet in facets.items():
        for value, count in facet.values:
            where = equal.get(field, "{!r} in colours").format(value)
            assert candidates(searcher, query, mode=mode, where=where).total.value == count
        if field in ("brand", "sold", "parent"):
            missing = candidates(searcher, query, mode=mode, where=f"{field} is None").total.value
            assert missing == facet.missing


@EXAMPLES
@given(searchers(), queries, asked, st.sampled_from(["brand", "parent", "price"]), st.integers(1, 3))
def test_groups_share_out_the_set_and_change_neither_facets_nor_total(searcher, query, asked, field, size):
    found = candidates(searcher, query, **asked)
    total, facets = found.total, found.facets(SINGLE)

    groups = found.grouped(field, group_size=size)

    pages = [group for at in range(found.window) for group in groups.page(at, 1)]
    assert pages == groups.page(0, found.window)
    assert (found.total, found.facets(SINGLE)) == (total, facets)
    by_value = found.facets([field], size=100)[field]
    assert groups.total == len(by_value.values) + by_value.missing
    counts = Counter(dict(by_value.values))
    everything = {hit.product_id: hit for hit in found.page(0, found.window)}
    for group in pages:
        assert group.count == (1 if group.value is None else counts[group.value])
        assert 1 <= len(group.hits) <= min(size, group.count)
        for hit in group.hits:
            if hit.product_id in everything:
                assert hit == everything[hit.product_id]
    ranks = [group.hits[0].rank for group in pages]
    assert ranks == sorted(ranks)


# --- thresholds and windows


@EXAMPLES
@given(searchers(), queries, asked, st.floats(-1, 2), st.floats(0, 1))
def test_a_higher_threshold_never_adds_a_product(searcher, query, asked, low, more):
    low_set, high_set = (
        candidates(searcher, query, **asked | {"min_score": score}) for score in (low, low + more)
    )

    assert set(high_set.product_ids) <= set(low_set.product_ids)
    assert high_set.total.value <= low_set.total.value


@EXAMPLES
@given(searchers(), queries, asked, windows)
def test_a_larger_window_keeps_every_product_and_an_equal_total_is_final(searcher, query, asked, more):
    small = candidates(searcher, query, **asked)
    large = candidates(searcher, query, **asked | {"window": small.window + more})
    everything = candidates(searcher, query, **asked | {"window": 100, "exact": True})

    assert set(small.product_ids) <= set(large.product_ids)
    assert everything.total.relation == "eq"
    assert small.total.value <= everything.total.value
    if small.total.relation == "eq":
        assert small.total.value == everything.total.value


@EXAMPLES
@given(searchers(), st.lists(queries, min_size=2, max_size=4), asked)
def test_a_query_has_the_same_set_alone_and_among_others(searcher, queries, asked):
    together = searcher.candidates(queries, **asked)

    for query, found in zip(queries, together, strict=True):
        alone = candidates(searcher, query, **asked)
        assert found.page(0, found.window) == alone.page(0, found.window)
        assert (found.total, found.query) == (alone.total, query)


# --- brute force


def bm25(texts, query):
    """Return the BM25 score of each text (Lucene's variant, k1 = 1.5, b = 0.75), and the sum of the idf."""
    words = [text.split() for text in texts]
    mean = sum(map(len, words)) / len(words)
    total, highest = np.zeros(len(texts)), 0.0
    for word in query.split():
        df = sum(word in text for text in words)
        idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        highest += idf
        for row, text in enumerate(words):
            tf = text.count(word)
            total[row] += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(text) / mean))
    return total, highest


def brute_force(searcher, query, *, mode, where, min_score, weight):
    """Return the score of each product of the set without a window: {product id: score}."""
    table = searcher.index.products
    product_ids, texts = table.column("product_id").to_pylist(), table.column("title").to_pylist()
    (asked,) = ENCODER.encode_queries([query]).astype(np.float64)
    stored = np.asarray(searcher.index.embeddings, np.float64)
    cosines = np.array([math.fsum(stored_ * asked) for stored_ in stored])
    words, highest = bm25(texts, query)
    for row, product_id in enumerate(product_ids):
        if product_id == query:
            words[row] = highest
    fused = weight * (cosines + 1) / 2 + (1 - weight) * words / highest
    score = {"dense": cosines, "lexical": words, "hybrid": fused}[mode]
    judged = words if mode == "lexical" else cosines
    found = {}
    for row, product in enumerate(table.to_pylist()):
        named = mode == "hybrid" and product["product_id"] == query
        if (
            (mode != "lexical" or words[row] > 0)
            and satisfies(product, where)
            and (min_score is None or judged[row] >= min_score or named)
        ):
            found[product["product_id"]] = 1.0 if named else score[row]
    return found


def satisfies(product, where):
    return {
        None: True,
        "brand == 'Acme'": product["brand"] == "Acme",
        "price < 15": product["price"] is not None and product["price"] < 15,
        "'red' in colours": "red" in (product["colours"] or []),
        "parent is None": product["parent"] is None,
    }[where]


@EXAMPLES
@given(
    searchers(),
    queries,
    st.sampled_from(MODES),
    filters,
    st.sampled_from([None, -0.49, 0.21, 0.61]),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_with_exact_a_set_equals_brute_force(searcher, query, mode, where, min_score, weight):
    expected = brute_force(searcher, query, mode=mode, where=where, min_score=min_score, weight=weight)

    found = candidates(
        searcher, query, mode=mode, where=where, min_score=min_score, weight=weight, exact=True, window=50
    )

    hits = found.page(0, 50)
    assert found.total.value == len(expected)
    assert set(ids(hits)) == set(expected)
    for hit in hits:
        assert math.isclose(hit.score, expected[hit.product_id], abs_tol=1e-5)
    order = [(hit.product_id != query, -hit.score, hit.product_id) for hit in hits]
    assert (
        order == sorted(order)
        if mode == "hybrid"
        else [key[1:] for key in order] == sorted(key[1:] for key in order)
    )


@EXAMPLES
@given(searchers(), queries, st.sampled_from(["dense", "lexical"]), filters, st.sampled_from([1, 2, 5]))
def test_with_exact_the_window_holds_the_best_products(searcher, query, mode, where, window):
    expected = brute_force(searcher, query, mode=mode, where=where, min_score=None, weight=0.5)

    found = candidates(searcher, query, mode=mode, where=where, exact=True, window=window)

    kept = ids(found.page(0, window))
    left = set(expected) - set(kept)
    assert len(kept) == min(window, len(expected))
    if kept and left:
        assert min(expected[name] for name in kept) >= max(expected[name] for name in left) - 1e-5
    assert found.total.relation == ("eq" if mode == "lexical" or not left else "gte")
