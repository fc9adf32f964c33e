"""The best products among those that satisfy a filter."""

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import SearchError
from aisle.index import ann_recall, open_index
from aisle.index import filtered_search as filtered_module
from aisle.index.backends.hnsw import HnswBackend
from aisle.index.dense_search import build_graph
from aisle.index.filtered_search import filtered_search
from aisle.index.row_groups import RowGroups, number_nodes

COUNT, DIM = 4000, 16
GRAPH = {"backend": "hnsw", "parameters": {"ef_construction": 100}, "threads": 1}
SELECTIVITIES = (0.5, 0.1, 0.01, 0.001)


def exact_oracle(vectors, queries, satisfying, *, top_k, tie_ranks):
    """Return the rows and scores by sorting every satisfying row."""
    rows = np.flatnonzero(satisfying)
    pairs = np.einsum("qd,pd->qpd", queries.astype(np.float64), vectors[rows].astype(np.float64))
    scores = pairs.sum(axis=2).astype(np.float32)
    order = np.stack([np.lexsort((tie_ranks[rows], -mine))[:top_k] for mine in scores])
    return rows[order], np.take_along_axis(scores, order, axis=1)


@pytest.fixture(scope="module")
def shop():
    """Return clustered vectors, the cluster of each, queries and the graph."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, DIM))

    def around(count):
        cluster = rng.integers(40, size=count)
        vectors = centres[cluster] + 0.4 * rng.normal(size=(count, DIM))
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), cluster

    vectors, cluster = around(COUNT)
    queries, _ = around(60)
    groups = RowGroups.of(np.arange(COUNT), np.arange(COUNT))
    graph = build_graph(vectors, groups, **GRAPH)
    return vectors, cluster, queries, graph


@pytest.fixture
def by_graph(monkeypatch):
    """Search exactly only the queries that the graph does not answer, and count them."""
    monkeypatch.setattr(filtered_module, "EXACT_ROWS", 0)
    monkeypatch.setattr(filtered_module, "ROWS_PER_NODE", 0)
    exactly, exact_among = [], filtered_module._exact_among

    def counted(rows, embeddings, asked, **more):
        exactly.append(len(asked))
        return exact_among(rows, embeddings, asked, **more)

    monkeypatch.setattr(filtered_module, "_exact_among", counted)
    return exactly


def satisfying_rows(kind, share, vectors, cluster, query):
    if kind == "anywhere":
        return np.random.default_rng(7).random(COUNT) < share
    towards = vectors @ query
    if kind == "near":
        return towards >= np.quantile(towards, 1 - share)
    if kind == "far":
        return towards <= np.quantile(towards, share)
    # Clusters as a whole: the neighbours of most queries all fail.
    return np.isin(cluster, np.arange(max(1, round(40 * share))))


def search(shop, satisfying, *, queries=None, **more):
    vectors, _, all_queries, graph = shop
    settings = {"top_k": 10, "tie_ranks": np.arange(COUNT), "effort": 10, "threads": 1} | more
    asked = all_queries if queries is None else queries
    return filtered_search(graph, vectors, asked, satisfying=satisfying, **settings)


@pytest.mark.parametrize("way", ["graph", "default"])
@pytest.mark.parametrize("kind", ["anywhere", "clusters", "near", "far"])
def test_recall_with_filters_correlated_and_uncorrelated_with_the_query(shop, kind, way, request):
    if way == "graph":
        request.getfixturevalue("by_graph")
    vectors, cluster, queries, _ = shop
    ranks = np.arange(COUNT)
    for share in SELECTIVITIES:
        satisfying = satisfying_rows(kind, share, vectors, cluster, queries[0])
        top_k = min(10, int(satisfying.sum()))

        rows, scores = search(shop, satisfying)

        true, true_scores = exact_oracle(vectors, queries, satisfying, top_k=top_k, tie_ranks=ranks)
        assert rows.shape == scores.shape == (60, top_k)
        assert satisfying[rows].all()
        assert all(len(set(found)) == top_k for found in rows.tolist())
        recall = ann_recall(rows, true, approximate_scores=scores, exact_scores=true_scores)
        assert recall >= 0.97, share
        if way == "default":
            np.testing.assert_array_equal(rows, true)


def test_the_graph_is_left_for_queries_with_few_satisfying_neighbours(shop, by_graph):
    vectors, _, queries, _ = shop
    near = vectors @ queries[0] >= np.quantile(vectors @ queries[0], 0.99)
    far = vectors @ queries[0] <= np.quantile(vectors @ queries[0], 0.01)

    search(shop, near, queries=queries[:1])
    assert by_graph == []
    rows, _ = search(shop, far, queries=queries[:1])
    assert by_graph == [1]

    ranks = np.arange(COUNT)
    np.testing.assert_array_equal(rows, exact_oracle(vectors, queries[:1], far, top_k=10, tie_ranks=ranks)[0])


def test_more_nodes_are_requested_only_for_queries_with_too_few(shop, by_graph, monkeypatch):
    _, cluster, _, _ = shop
    asked, nearest = [], HnswBackend.nearest

    def counted(self, query_embeddings, *, nodes, **more):
        asked.append((len(query_embeddings), nodes))
        return nearest(self, query_embeddings, nodes=nodes, **more)

    monkeypatch.setattr(HnswBackend, "nearest", counted)

    search(shop, np.isin(cluster, np.arange(20)))

    (first, nodes), *later = asked
    live = np.isin(cluster, np.arange(20)).sum()
    assert (first, nodes) == (60, int(np.ceil(filtered_module.MARGIN * 10 * COUNT / live)))
    assert [step for _, step in later] == [nodes * 2**step for step in range(1, len(later) + 1)]
    counts = [count for count, _ in asked]
    assert counts == sorted(counts, reverse=True)
    assert counts[1] < 60


@pytest.mark.parametrize(("nodes_cost", "asks_graph"), [(1, True), (10**6, False)])
def test_the_graph_is_not_searched_if_comparing_rows_is_faster(shop, monkeypatch, nodes_cost, asks_graph):
    monkeypatch.setattr(filtered_module, "EXACT_ROWS", 0)
    monkeypatch.setattr(filtered_module, "ROWS_PER_NODE", nodes_cost)
    calls, nearest = [], HnswBackend.nearest
    monkeypatch.setattr(
        HnswBackend, "nearest", lambda *given, **named: calls.append(1) or nearest(*given, **named)
    )

    search(shop, np.arange(COUNT) % 2 == 0)

    assert bool(calls) is asks_graph


def test_few_rows_are_searched_exactly(shop, monkeypatch):
    monkeypatch.setattr(HnswBackend, "nearest", None)
    vectors, _, queries, _ = shop
    satisfying = np.arange(COUNT) % 3 == 0

    rows, scores = search(shop, satisfying)

    true = exact_oracle(vectors, queries, satisfying, top_k=10, tie_ranks=np.arange(COUNT))
    np.testing.assert_array_equal(rows, true[0])
    np.testing.assert_allclose(scores, true[1], atol=1e-7)


def test_gathering_in_parts_changes_nothing(shop, monkeypatch):
    satisfying = np.arange(COUNT) % 3 == 0
    ranks = np.arange(COUNT)[::-1].copy()
    whole = search(shop, satisfying, tie_ranks=ranks, exact=True)
    monkeypatch.setattr(filtered_module, "GATHERED_ROWS", 7)

    parts = search(shop, satisfying, tie_ranks=ranks, exact=True)

    np.testing.assert_array_equal(parts[0], whole[0])
    np.testing.assert_array_equal(parts[1], whole[1])


def test_exact_does_not_search_the_graph(shop, by_graph):
    search(shop, np.arange(COUNT) % 2 == 0, exact=True)

    assert by_graph == [60]


def test_threads_and_other_queries_change_nothing(shop, by_graph, monkeypatch):
    satisfying = shop[1] == 0
    rows, scores = search(shop, satisfying)
    assert 0 < sum(by_graph) < 60

    again = search(shop, satisfying, threads=4)
    monkeypatch.setattr(filtered_module, "ASKED_NODES", 1)  # a query at a time
    alone = search(shop, satisfying)

    for other in (again, alone):
        np.testing.assert_array_equal(other[0], rows)
        np.testing.assert_array_equal(other[1], scores)


@pytest.mark.parametrize("exact", [False, True])
def test_equal_embeddings_share_a_node_and_only_satisfying_rows_are_returned(by_graph, exact):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(600, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[100:400] = vectors[100]
    ranks = rng.permutation(600)
    graph = build_graph(
        vectors,
        RowGroups.of(number_nodes(vectors), ranks),
        backend="hnsw",
        parameters={"ef_construction": 100},
        threads=1,
    )
    satisfying = np.arange(600) % 3 != 0
    queries = np.concatenate([vectors[100:101], vectors[::50]])
    for top_k in (1, 10, 250):
        rows, scores = filtered_search(
            graph,
            vectors,
            queries,
            satisfying=satisfying,
            top_k=top_k,
            tie_ranks=ranks,
            effort=50,
            exact=exact,
        )

        true, true_scores = exact_oracle(vectors, queries, satisfying, top_k=top_k, tie_ranks=ranks)
        np.testing.assert_array_equal(rows, true)
        np.testing.assert_allclose(scores, true_scores, atol=1e-7)
    assert sum(by_graph) == (3 * len(queries) if exact else len(queries))  # 250 take nearly every node


def test_nodes_of_deleted_products_are_skipped(shop, by_graph):
    vectors, _, queries, _ = shop
    kept = np.arange(COUNT) % 4 != 0
    groups = RowGroups.of(np.flatnonzero(kept), np.arange(kept.sum()), nodes=COUNT)
    graph = build_graph(
        vectors,
        RowGroups.of(np.arange(COUNT), np.arange(COUNT)),
        backend="hnsw",
        parameters={"ef_construction": 100},
        threads=1,
    )
    graph.backend.remove(np.flatnonzero(~kept))
    graph = type(graph)(graph.backend, groups)
    held, satisfying = vectors[kept], np.arange(kept.sum()) % 2 == 0
    settings = {"top_k": 10, "tie_ranks": np.arange(len(held)), "threads": 1}

    rows, scores = filtered_search(graph, held, queries, satisfying=satisfying, effort=200, **settings)

    true, true_scores = exact_oracle(held, queries, satisfying, top_k=10, tie_ranks=np.arange(len(held)))
    assert satisfying[rows].all()
    assert ann_recall(rows, true, approximate_scores=scores, exact_scores=true_scores) >= 0.97
    assert by_graph == []


def test_no_satisfying_product_and_no_query_have_empty_results(shop):
    none = search(shop, np.zeros(COUNT, bool))
    assert (none[0].shape, none[1].shape) == ((60, 0), (60, 0))
    assert (none[0].dtype, none[1].dtype) == (np.int64, np.float32)
    for exact in (False, True):
        none = search(shop, np.ones(COUNT, bool), queries=np.empty((0, DIM), np.float32), exact=exact)
        assert (none[0].shape, none[1].shape) == ((0, 10), (0, 10))


@pytest.fixture
def index(build, clustered, tmp_path):
    payload = pa.table({"price": np.arange(300), "brand": ["Acme", "Zenith", None] * 100})
    build(clustered(300), payload=payload)
    return open_index(tmp_path / "index")


def test_every_result_of_an_index_satisfies_where(index, clustered):
    queries = clustered(5, seed=1)

    found = index.search(queries, top_k=10, where="price < 100 and brand == 'Acme'")

    everything = index.search(queries, top_k=300, exact=True)
    for mine, rows, ids, scores in zip(
        found.rows, everything.rows, found.product_ids, found.scores, strict=True
    ):
        assert mine.tolist() == [row for row in rows.tolist() if row < 100 and row % 3 == 0][:10]
        assert ids.tolist() == [f"p{row:05d}" for row in mine]
        assert (np.diff(scores) <= 0).all()


def test_all_satisfying_products_are_returned_if_fewer_than_top_k(index, clustered):
    found = index.search(clustered(2, seed=1), top_k=1000, where="price in [3, 5, 7]")

    assert np.sort(found.rows, axis=1).tolist() == [[3, 5, 7]] * 2


def test_no_satisfying_product_is_an_empty_result(index, clustered):
    found = index.search(clustered(2, seed=1), top_k=5, where="price > 1000")

    assert (found.rows.shape, found.product_ids.shape, found.scores.shape) == ((2, 0),) * 3


def test_float16_embeddings_are_filtered_too(build, clustered, tmp_path):
    build(clustered(300), payload=pa.table({"price": np.arange(300)}), store_dtype="float16")
    index = open_index(tmp_path / "index")
    queries = clustered(3, seed=1)

    found = index.search(queries, top_k=5, where="price >= 290")

    rows = index.search(queries, top_k=300, exact=True).rows
    assert found.rows.tolist() == [[row for row in mine.tolist() if row >= 290][:5] for mine in rows]


@pytest.mark.parametrize("top_k", [0, -1, 2.0])
def test_top_k_out_of_range_is_refused_with_a_filter_too(index, clustered, top_k):
    with pytest.raises(SearchError, match=f"top_k: must be .*found {top_k}"):
        index.search(clustered(1), top_k=top_k, where="price < 5")


@pytest.mark.parametrize("where", ["cost < 5", "price < 'x'", ""])
def test_a_filter_that_does_not_fit_is_refused(index, clustered, where):
    with pytest.raises(SearchError, match="where: "):
        index.search(clustered(1), top_k=1, where=where)
