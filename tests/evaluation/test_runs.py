import numpy as np
import pytest

from aisle.errors import EvaluationError
from aisle.evaluation.runs import to_run


def test_a_run_names_products_and_skips_padding():
    rows = np.array([[2, 0], [1, -1]])
    scores = np.array([[0.5, 0.25], [1.0, -np.inf]], dtype=np.float32)

    run = to_run(["q1", "q2"], ["a", "b", "c"], rows, scores)

    assert run == {"q1": {"c": 0.5, "a": 0.25}, "q2": {"b": 1.0}}


def test_a_run_keeps_queries_with_an_empty_ranking():
    assert to_run(["q"], list("abcd"), [[]], [[]]) == {"q": {}}


def test_a_run_needs_one_ranking_per_query():
    with pytest.raises(EvaluationError, match="2 query ids, 1 lists of rows and 1"):
        to_run(["q1", "q2"], ["a"], [[0]], [[1.0]])


def test_a_run_refuses_a_query_id_given_twice():
    with pytest.raises(EvaluationError, match="'q2' twice"):
        to_run(["q1", "q2", "q2"], ["a"], [[0]] * 3, [[1.0]] * 3)
