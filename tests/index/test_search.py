"""Answers of an open index."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import SearchError
from aisle.index import ann_recall, delete_products, open_index
from aisle.index.backends.hnsw import HnswBackend


def assert_same(found, expected, *, atol=0.0):
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.product_ids, expected.product_ids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=atol, rtol=0)


@pytest.fixture
def index(build, clustered, tmp_path):
    build(clustered(300))
    return open_index(tmp_path / "index")


def test_graph_finds_nearly_all_of_the_exact_top_ten_of_two_thousand(build, clustered, tmp_path):
    manifest = build(clustered(2000, dim=32), ef_search=128)
    index = open_index(tmp_path / "index")
    queries = clustered(100, dim=32, seed=1)

    graph, exact = index.search(queries, top_k=10), index.search(queries, top_k=10, exact=True)

    recall = ann_recall(graph.rows, exact.rows, approximate_scores=graph.scores, exact_scores=exact.scores)
    assert recall >= 0.98
    assert manifest.ann_recall_at_10 >= 0.98
    assert manifest.ann_recall_queries == 500


def test_scores_are_cosines_and_ids_belong_to_rows(build, tmp_path):
    vectors = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    build(vectors, product_ids=["east", "between", "north"])

    result = open_index(tmp_path / "index").search(np.array([[0, 1]], np.float32), top_k=3)

    assert result.product_ids.tolist() == [["north", "between", "east"]]
    assert result.rows.tolist() == [[2, 1, 0]]
    assert result.scores.tolist() == [[1.0, np.float32(0.8), 0.0]]
    assert (result.rows.dtype, result.scores.dtype) == (np.int64, np.float32)


def test_graph_and_exact_search_give_a_product_the_same_score(index, clustered):
    queries = clustered(40, seed=1)

    graph, exact = index.search(queries, top_k=10), index.search(queries, top_k=300, exact=True)

    for query in range(40):
        by_row = dict(zip(exact.rows[query].tolist(), exact.scores[query].tolist(), strict=True))
        expected = [by_row[row] for row in graph.rows[query].tolist()]
        np.testing.assert_allclose(graph.scores[query], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("exact", [False, True])
def test_ties_break_by_product_id(build, tmp_path, exact):
    vectors = np.array([[0, 1], [1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    build(vectors, product_ids=["e", "d", "b", "a", "c"])

    result = open_index(tmp_path / "index").search(np.array([[1, 0]], np.float32), top_k=4, exact=exact)

    assert result.product_ids.tolist() == [["b", "c", "d", "a"]]


def test_ties_between_different_embeddings_break_by_product_id(build, tmp_path):
    # +0.0 and -0.0 are different bytes, so different nodes, with equal scores.
    vectors = np.array([[1, 0.0], [1, -0.0], [1, 0.0], [0, 1], [0, -1], [-1, 0]], np.float32)
    manifest = build(vectors, product_ids=["c", "b", "a", "x", "y", "z"])

    index = open_index(tmp_path / "index")

    assert manifest.graph_nodes == 5
    for top_k in (2, 3):
        result = index.search(np.array([[1, 0]], np.float32), top_k=top_k)
        assert result.product_ids.tolist() == [["a", "b", "c"][:top_k]]


def test_top_k_of_all_products_returns_every_product(index, clustered):
    result = index.search(clustered(3, seed=1), top_k=len(index))

    assert (np.sort(result.rows, axis=1) == np.arange(300)).all()
    assert (np.diff(result.scores, axis=1) <= 0).all()


def test_one_product(build, tmp_path):
    manifest = build(np.array([[0.6, 0.8]], np.float32), product_ids=["only"])

    result = open_index(tmp_path / "index").search(np.array([[1, 0]], np.float32), top_k=1)

    assert result.product_ids.tolist() == [["only"]]
    assert result.scores.tolist() == [[np.float32(0.6)]]
    assert manifest.ann_recall_at_10 == 1.0


def test_a_thousand_equal_embeddings_do_not_hide_the_other_products(build, clustered, tmp_path):
    vectors = clustered(3000)
    vectors[1000:2000] = vectors[1000]
    manifest = build(vectors, ef_search=128)
    index = open_index(tmp_path / "index")
    queries = np.concatenate([vectors[::20], clustered(50, seed=1)])

    for top_k in (1, 10, 50, 1500):
        graph, exact = index.search(queries, top_k=top_k), index.search(queries, top_k=top_k, exact=True)
        recall = ann_recall(
            graph.rows, exact.rows, approximate_scores=graph.scores, exact_scores=exact.scores
        )
        assert recall >= 0.99, top_k
        assert all(len(set(rows)) == top_k for rows in graph.rows.tolist())
    assert manifest.graph_nodes == 2001
    at_the_heap = index.search(vectors[1000:1001], top_k=1001)
    assert at_the_heap.rows[0, :1000].tolist() == list(range(1000, 2000))
    assert at_the_heap.rows[0, 1000] not in range(1000, 2000)


def test_catalogue_of_one_embedding_repeated(build, tmp_path):
    build(np.tile(np.array([[0.6, 0.8]], np.float32), (50, 1)))

    result = open_index(tmp_path / "index").search(np.array([[0, 1]], np.float32), top_k=7)

    assert result.rows.tolist() == [list(range(7))]


def test_queries_that_the_graph_cannot_answer_are_searched_exactly(build, clustered, tmp_path):
    # M=2 over clusters far apart leaves a graph in pieces: hnswlib finds too few nodes and raises.
    vectors = clustered(600, dim=4, clusters=60)
    build(vectors, M=2, ef_construction=2, ef_search=1)
    index = open_index(tmp_path / "index")
    queries = vectors[::15]
    with pytest.raises(RuntimeError, match="contiguous 2D array"):
        index.graph.backend.nearest(queries, nodes=599, effort=1, threads=1)

    found = index.search(queries, top_k=599)

    assert_same(found, index.search(queries, top_k=599, exact=True))


def test_only_the_queries_that_the_graph_cannot_answer_are_searched_exactly(index, clustered, monkeypatch):
    queries = clustered(11, seed=1)
    expected = index.search(queries, top_k=10, ef_search=128)
    nearest, lost, exactly = HnswBackend.nearest, queries[[3, 8]], []

    def fails_for_some(self, asked, **arguments):
        if any((asked == query).all(axis=1).any() for query in lost):
            raise RuntimeError(
                "Cannot return the results in a contiguous 2D array. Probably ef or M is too small"
            )
        return nearest(self, asked, **arguments)

    from aisle.index import dense_search

    exact_search = dense_search.exact_search
    monkeypatch.setattr(HnswBackend, "nearest", fails_for_some)
    monkeypatch.setattr(
        dense_search, "exact_search", lambda e, q, **more: exactly.append(q) or exact_search(e, q, **more)
    )

    found = index.search(queries, top_k=10, ef_search=128)

    assert_same(found, expected, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate(exactly), lost)


def test_other_errors_of_the_graph_are_not_hidden(index, clustered, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("something else")

    monkeypatch.setattr(HnswBackend, "nearest", fails)

    with pytest.raises(RuntimeError, match="something else"):
        index.search(clustered(2), top_k=3)


def test_threads_and_batches_change_nothing(index, clustered):
    queries = clustered(1100, seed=1)  # more than one block of queries
    one = index.search(queries, top_k=10, threads=1)

    assert_same(index.search(queries, top_k=10, threads=4), one)
    alone = [index.search(query[None], top_k=10) for query in queries[::100]]
    np.testing.assert_array_equal(np.concatenate([result.rows for result in alone]), one.rows[::100])
    np.testing.assert_array_equal(np.concatenate([result.scores for result in alone]), one.scores[::100])


def test_searches_with_other_ef_at_the_same_time_do_not_disturb_each_other(build, clustered, tmp_path):
    build(clustered(1000, dim=32), M=4, ef_construction=8, ef_search=1)
    index = open_index(tmp_path / "index")
    queries = clustered(50, dim=32, seed=1)
    expected = {ef: index.search(queries, top_k=1, ef_search=ef) for ef in (1, 500)}
    assert (expected[1].rows != expected[500].rows).any()
    wrong = []

    def search(ef):
        for _ in range(20):
            if (index.search(queries, top_k=1, ef_search=ef).rows != expected[ef].rows).any():
                wrong.append(ef)

    threads = [threading.Thread(target=search, args=[ef]) for ef in (1, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []


@pytest.mark.parametrize("ef", [1, 7, 40, 300])
def test_a_search_keeps_as_many_candidates_as_hnswlib_with_that_ef(build, clustered, tmp_path, ef):
    build(clustered(1000, dim=32), M=4, ef_construction=8)
    backend = open_index(tmp_path / "index").graph.backend
    queries = clustered(50, dim=32, seed=1)

    nodes, cosines, answered = backend.search(queries, nodes=5, effort=ef, threads=1)

    backend.index.set_ef(max(ef, 5))
    labels, distances = backend.index.knn_query(queries, k=5, num_threads=1)
    assert answered.all()
    np.testing.assert_array_equal(nodes, labels)
    np.testing.assert_array_equal(cosines, 1 - distances)


def test_an_effort_above_the_number_of_products_is_answered_by_the_graph(build, clustered, tmp_path):
    build(clustered(30, dim=32))
    delete_products(tmp_path / "index", [f"p{row:05d}" for row in range(12)])
    backend = open_index(tmp_path / "index").graph.backend

    nodes, _, answered = backend.search(clustered(4, dim=32, seed=1), nodes=5, effort=2048, threads=1)

    assert answered.all()
    assert nodes.min() >= 12


def test_a_search_does_not_wait_for_another(index, clustered):
    """The first search is in the middle of hnswlib while the second starts and ends."""
    backend, query = index.graph.backend, clustered(1, seed=1)
    inside, finished = threading.Event(), threading.Event()
    graph = backend.index

    class Waiting:
        def knn_query(self, *arguments, **more):
            inside.set()
            assert finished.wait(60)
            return graph.knn_query(*arguments, **more)

    backend.index = Waiting()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(index.search, query, top_k=3, ef_search=50)
        assert inside.wait(60)
        backend.index = graph
        second = index.search(query, top_k=3, ef_search=20)
        finished.set()
        assert_same(first.result(), second)


def test_ef_search_of_the_manifest_is_used_after_opening(build, clustered, tmp_path):
    vectors, queries = clustered(1000, dim=32), clustered(50, dim=32, seed=1)
    build(vectors, M=4, ef_construction=8, ef_search=300)

    index = open_index(tmp_path / "index")

    default = index.search(queries, top_k=1)
    assert_same(default, index.search(queries, top_k=1, ef_search=300))
    assert (default.rows != index.search(queries, top_k=1, ef_search=1).rows).any()


def test_float16_index_scores_its_stored_values(build, clustered, tmp_path):
    vectors, queries = clustered(200), clustered(5, seed=1)
    build(vectors, store_dtype="float16")

    result = open_index(tmp_path / "index").search(queries, top_k=200)

    stored = vectors.astype(np.float16).astype(np.float64)
    expected = np.take_along_axis(queries.astype(np.float64) @ stored.T, result.rows, axis=1)
    np.testing.assert_array_equal(result.scores, expected.astype(np.float32))
    np.testing.assert_array_equal(result.rows, np.argsort(-(queries.astype(np.float64) @ stored.T)))


def test_no_queries_have_an_empty_result_of_the_right_shape(index):
    result = index.search(np.empty((0, 16), np.float32), top_k=4)

    assert (result.rows.shape, result.product_ids.shape, result.scores.shape) == ((0, 4),) * 3


@pytest.mark.parametrize("top_k", [0, -1, 2.0, True])
def test_top_k_out_of_range_is_refused(index, clustered, top_k):
    with pytest.raises(SearchError, match=f"top_k: must be .*found {top_k}"):
        index.search(clustered(1), top_k=top_k)


@pytest.mark.parametrize(("name", "value"), [("ef_search", 0), ("ef_search", "9"), ("threads", 0)])
def test_search_settings_out_of_range_are_refused(index, clustered, name, value):
    with pytest.raises(SearchError, match=name):
        index.search(clustered(1), top_k=1, **{name: value})


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(
    "queries",
    [
        np.ones((2, 15), np.float32),
        np.ones((0, 15), np.float32),
        np.ones(16, np.float32),
        np.ones((1, 1, 16), np.float32),
        np.ones((1, 16), np.int64),
        np.array([["a"] * 16]),
    ],
)
def test_queries_of_another_shape_or_type_are_refused(index, queries, exact):
    with pytest.raises(SearchError, match=r"must be \(queries, 16\) float32"):
        index.search(queries, top_k=1, exact=exact)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 7.0])
def test_queries_that_are_not_finite_unit_vectors_are_refused(index, clustered, value):
    queries = clustered(3)
    queries[1, 4] = value

    with pytest.raises(SearchError, match="in query 1"):
        index.search(queries, top_k=1)


def test_payload_comes_back_as_it_went_in(build, clustered, tmp_path):
    payload = pa.table(
        {
            "title": ["a", None, "çà 🛒", ""],
            "price": [1.5, None, float("inf"), -0.0],
            "stock": pa.array([1, None, 2**62, -3]),
            "tags": [["x"], [], None, ["y", None]],
            "new": [True, None, False, True],
        }
    )
    build(clustered(4), payload=payload)
    index = open_index(tmp_path / "index")

    assert index.payload(np.arange(4)) == payload.to_pylist()
    assert index.payload(np.array([2, 0, 2])) == [payload.to_pylist()[row] for row in (2, 0, 2)]
    assert index.payload(np.array([], np.int64)) == []


def test_index_without_payload_gives_empty_payloads(index):
    assert index.payload(np.array([3, 1])) == [{}, {}]


@pytest.mark.parametrize("rows", [np.array([0, 300]), 300, -1, [-1, 3], [0, -2], [1.0], "3", True, [[[1]]]])
def test_payload_of_rows_outside_the_index_is_refused(index, rows):
    with pytest.raises(SearchError, match="rows"):
        index.payload(rows)


def test_ids_in_any_script_come_back(build, clustered, tmp_path):
    ids = ["👟🏽‍♀️", "حذاء", "נעל", "跑鞋", "e\u0301", "é", "a b", "\u202edrow"]
    vectors = clustered(8)
    build(vectors, product_ids=ids)

    result = open_index(tmp_path / "index").search(vectors, top_k=1, exact=True)

    assert result.product_ids[:, 0].tolist() == ids


def test_length_and_dim_are_those_of_the_catalogue(index):
    assert (len(index), index.dim) == (300, 16)


def test_row_of_a_short_answer_has_no_product_id(index):
    result = index.result(np.array([[3, -1]]), np.array([[0.5, -np.inf]], np.float32))

    assert result.product_ids.tolist() == [["p00003", None]]
    assert result.scores.tolist() == [[0.5, -np.inf]]
