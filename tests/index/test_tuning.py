"""Choice of `ef_search` for a target recall."""

import numpy as np
import pytest

from aisle.errors import ConfigError
from aisle.index import ann_recall, exact_search, tuning
from aisle.index.dense_search import approximate_search, build_graph
from aisle.index.row_groups import RowGroups, number_nodes
from aisle.index.tuning import held_out_queries, tune


def graph_over(vectors, **settings):
    """Return the arguments of `tune` for a graph over vectors."""
    ranks = np.arange(len(vectors))
    groups = RowGroups.of(number_nodes(vectors), ranks)
    parameters = {"M": 4, "ef_construction": 20} | settings
    graph = build_graph(vectors, groups, backend="hnsw", parameters=parameters, threads=1)
    return {"graph": graph, "stored": vectors, "queries": held_out_queries(vectors), "tie_ranks": ranks}


@pytest.fixture
def measured(clustered, monkeypatch):
    """Tune with a recall that is a function of `ef_search`; return the choice, and every value tried."""

    def measured(recall_at, *, count=3000, **given):
        tried = []

        def search(graph, stored, queries, *, top_k, tie_ranks, effort, threads):
            rows, scores = exact_search(stored, queries, top_k=top_k)
            if len(queries) == 500:
                tried.append(effort)
            lost = round((1 - recall_at(effort)) * rows.size)
            flat, worse = rows.reshape(-1), scores.reshape(-1)
            flat[:lost], worse[:lost] = -1, -1.0
            return rows, scores

        monkeypatch.setattr(tuning, "approximate_search", search)
        return tune(**graph_over(clustered(count, dim=4), ef_construction=4), threads=1, **given), tried

    return measured


@pytest.mark.parametrize("enough", [10, 11, 23, 37, 64, 100, 129, 700, 1999])
def test_smallest_of_those_measured_that_reaches_is_chosen(measured, enough):
    found, tried = measured(lambda ef: 0.99 if ef >= enough else 0.5, target_recall=0.98)

    assert found.reached
    assert found.recall == pytest.approx(0.99)
    assert found.effort == min(ef for ef in tried if ef >= enough)
    assert enough <= found.effort <= enough + max(1, found.effort // 16)
    assert len(set(tried)) == len(tried)  # each is measured once


def test_curve_has_every_value_that_was_measured_in_order(measured):
    found, tried = measured(lambda ef: min(1.0, ef / 100), target_recall=0.9)

    assert [point.ef_search for point in found.curve] == sorted(tried)
    assert [point.recall for point in found.curve] == pytest.approx(
        [min(1, ef / 100) for ef in sorted(tried)], abs=1e-3
    )
    assert all(point.milliseconds > 0 for point in found.curve)
    assert (found.target, found.queries) == (0.9, 500)


def test_default_target_is_taken_where_nothing_is_asked(measured):
    found, _ = measured(lambda ef: 0.99 if ef >= 50 else 0.979)

    assert found.target == 0.98
    assert 50 <= found.effort <= 53


def test_recall_that_cannot_be_reached_is_said(measured):
    found, tried = measured(lambda ef: 0.9, target_recall=0.95)

    assert not found.reached
    assert found.effort == max(tried) == 2048
    assert found.recall == pytest.approx(0.9)


def test_no_more_candidates_than_nodes_are_tried(measured):
    found, tried = measured(lambda ef: 0.9, target_recall=0.95, count=550)

    assert not found.reached
    assert found.effort == max(tried) == 550


def test_target_recall_of_zero_chooses_the_smallest_effort(measured):
    found, _ = measured(lambda ef: 0.3, target_recall=0.0)

    assert (found.effort, found.reached) == (10, True)


def test_given_value_is_measured_and_nothing_else(measured):
    found, tried = measured(lambda ef: 0.4, ef_search=77)

    assert tried == [77]
    assert (found.effort, found.target, found.reached) == (77, None, True)


def test_recall_is_that_of_the_graph_against_exact_search(clustered):
    over = graph_over(clustered(1000, dim=32))

    found = tune(**over, ef_search=12, threads=1)

    rows, scores = approximate_search(
        over["graph"], over["stored"], over["queries"], top_k=10, tie_ranks=over["tie_ranks"], effort=12
    )
    exact = exact_search(over["stored"], over["queries"], top_k=10, tie_ranks=over["tie_ranks"])
    assert found.recall == ann_recall(rows, exact[0], approximate_scores=scores, exact_scores=exact[1])
    assert 0.3 < found.recall < 0.95


@pytest.mark.parametrize("count", [1, 2, 7, 11])
def test_small_indexes_have_full_recall(clustered, count):
    found = tune(**graph_over(clustered(count)), threads=1)

    assert (found.recall, found.reached, found.queries) == (1.0, True, count)
    assert found.effort >= 1


@pytest.mark.parametrize(
    ("given", "message"),
    [({"ef_search": 5, "target_recall": 0.9}, "give one of them"), ({"target_recall": 1.5}, "found 1.5")],
)
def test_arguments_that_cannot_work_are_refused(clustered, given, message):
    with pytest.raises(ConfigError, match=message):
        tune(**graph_over(clustered(20)), **given)


def test_held_out_queries_are_unit_vectors_near_but_unlike_the_products(clustered):
    vectors = clustered(1000, dim=32)

    queries = held_out_queries(vectors)

    assert (queries.shape, queries.dtype) == ((500, 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    nearest = (queries @ vectors.T).max(axis=1)
    assert 0.7 < nearest.min() < nearest.max() < 0.9999
    np.testing.assert_array_equal(queries, held_out_queries(vectors.copy()))
    assert len(held_out_queries(vectors, queries=7)) == 7


def test_held_out_queries_of_opposite_embeddings_are_unit_vectors():
    vectors = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)

    np.testing.assert_allclose(np.linalg.norm(held_out_queries(vectors), axis=1), 1, atol=1e-6)
