import numpy as np
import pytest
import scipy.stats

from aisle.errors import EvaluationError
from aisle.evaluation.joint_pool import joint_pool, joint_pool_row


def _unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _angles(*degrees):
    return np.array([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees], dtype=np.float32)


def _ranks_by_sorting(queries, answers):
    pool = np.concatenate([queries, answers]).astype(np.float64)
    n = len(queries)
    ranks = []
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        ordered = sorted(others, key=lambda j: (-np.float32(pool[i] @ pool[j]), j))
        ranks.append(1 + ordered.index((i + n) % (2 * n)))
    return np.array(ranks)


def test_ranks_equal_the_hand_computed_ones():
    # on a circle: question 0 at 0°, question 1 at 10°, answer 0 at 25°, answer 1 at 90°
    # q0 (0°): q1, a0 -> 2.  q1 (10°): q0, a0, a1 -> 3.  a0 (25°): q1, q0 -> 2.  a1 (90°): a0, q1 -> 2
    found = joint_pool(_angles(0, 10), _angles(25, 90))

    assert found.precision_at_1 == 0.0
    assert found.mrr == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 4)
    assert found.texts == 4


def test_partners_at_the_same_place_are_found_first():
    found = joint_pool(_angles(0, 90, 180), _angles(1, 91, 181))

    assert (found.precision_at_1, found.mrr) == (1.0, 1.0)


def test_one_question_and_its_answer_is_always_right():
    assert joint_pool(_angles(0), _angles(180)).mrr == 1.0


def test_when_all_texts_are_equal_pool_order_decides():
    # ranks of the partner: question i meets 2 questions first and i answers, answer i meets i questions
    same = np.tile(_angles(30), (3, 1))

    found = joint_pool(same, same)

    assert found.precision_at_1 == pytest.approx(1 / 6)
    assert found.mrr == pytest.approx((1 / 3 + 1 / 4 + 1 / 5 + 1 + 1 / 2 + 1 / 3) / 6)


def test_random_embeddings_agree_with_sorting():
    generator = np.random.default_rng(0)
    queries = generator.normal(size=(30, 6))
    answers = queries + generator.normal(size=(30, 6))
    answers[7] = answers[3]
    queries[9] = queries[8]
    queries, answers = _unit(queries), _unit(answers)

    ranks = _ranks_by_sorting(queries, answers)
    found = joint_pool(queries, answers)

    assert 1 < ranks.mean() < 30
    assert found.precision_at_1 == pytest.approx(np.mean(ranks == 1))
    assert found.mrr == pytest.approx(np.mean(1 / ranks))


@pytest.mark.parametrize("chunk_rows", [1, 7, 64, 1000])
def test_chunks_do_not_change_the_result_even_where_only_rounding_decides(chunk_rows):
    # question 0 is constant, all other texts are permutations of a vector: in exact arithmetic it is equally
    # near to all of them, in float32 the order of summation would decide
    generator = np.random.default_rng(2)
    answers = _unit(generator.permuted(np.tile(generator.random(384), (70, 1)), axis=1))
    queries = answers.copy()
    queries[0] = _unit(np.ones((1, 384)))

    found = joint_pool(queries, answers, chunk_rows=chunk_rows)

    # question 0 meets the 69 other questions first; all other texts find their partner first
    assert found.mrr == pytest.approx((1 / 70 + 139) / 140, abs=1e-12)


def test_questions_and_answers_may_change_places():
    generator = np.random.default_rng(3)
    queries, answers = _unit(generator.normal(size=(20, 8))), _unit(generator.normal(size=(20, 8)))

    assert joint_pool(queries, answers).mrr == pytest.approx(joint_pool(answers, queries).mrr)


@pytest.mark.parametrize("answers", [np.ones((1, 2)), np.ones((2, 3)), np.ones(2)])
def test_shapes_that_do_not_fit_are_refused_with_both_named(answers):
    with pytest.raises(EvaluationError, match=r"\(2, 2\) questions and"):
        joint_pool(_angles(0, 10), answers)


def test_an_empty_pool_is_refused():
    with pytest.raises(EvaluationError, match="n >= 1"):
        joint_pool(np.empty((0, 2)), np.empty((0, 2)))


@pytest.mark.parametrize("wrong", [2.0, np.nan])
def test_embeddings_without_unit_norm_are_refused_with_the_row_named(wrong):
    with pytest.raises(EvaluationError, match="1 answer rows do not, the first is row 1 with norm"):
        joint_pool(_angles(0, 10), _angles(0, 10) * np.array([[1], [wrong]]))


def test_a_chunk_needs_a_row():
    with pytest.raises(EvaluationError, match="at least 1, found 0"):
        joint_pool(_angles(0), _angles(0), chunk_rows=0)


def _random_pool(n):
    generator = np.random.default_rng(5)
    queries = generator.normal(size=(n, 8))
    return _unit(queries), _unit(queries + 1.2 * generator.normal(size=(n, 8)))


def test_a_row_has_the_figures_of_the_pool():
    queries, answers = _random_pool(40)
    found = joint_pool(queries, answers)

    row = joint_pool_row("tuned", "tuned", queries, answers)

    assert (row.name, row.kind, row.texts) == ("tuned", "tuned", 80)
    assert row.precision_at_1.value == pytest.approx(found.precision_at_1)
    assert row.mrr.value == pytest.approx(found.mrr)
    assert 0 < row.mrr.low < row.mrr.value < row.mrr.high < 1


def test_intervals_of_a_row_draw_a_question_with_its_answer():
    queries, answers = _random_pool(40)
    by_pair = (1 / _ranks_by_sorting(queries, answers)).reshape(2, 40).mean(axis=0)

    row = joint_pool_row("base", "base", queries, answers, resamples=500, seed=3)

    expected = scipy.stats.bootstrap(
        (by_pair,), np.mean, n_resamples=500, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert (row.mrr.low, row.mrr.high) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_chunks_do_not_change_a_row(chunk_rows):
    queries, answers = _random_pool(20)

    assert joint_pool_row("a", "base", queries, answers, chunk_rows=chunk_rows) == joint_pool_row(
        "a", "base", queries, answers
    )


def test_one_pair_has_figures_without_intervals():
    row = joint_pool_row("base", "base", _angles(0), _angles(180))

    assert (row.mrr.value, row.mrr.low, row.mrr.high) == (1.0, None, None)


def test_a_row_that_cannot_be_made_is_named():
    with pytest.raises(EvaluationError, match="tuned: the joint pool needs one answer per question"):
        joint_pool_row("tuned", "tuned", _angles(0, 10), _angles(0))
