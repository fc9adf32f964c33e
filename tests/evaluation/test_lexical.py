import logging
import math

import numpy as np
import pytest

from aisle.errors import EvaluationError
from aisle.evaluation.lexical import Bm25Index, to_run

TEXTS = ["red running shoes", "blue running shoes for men", "red mug", "the coffee mug"]


def test_scores_follow_the_lucene_formula():
    # words kept: 3, 4, 2, 2, mean 2.75; "mug" is in 2 of 4 texts, once each
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    expected = idf * 1 / (1 + 1.5 * (1 - 0.75 + 0.75 * 2 / 2.75))

    rows, scores = Bm25Index.build(TEXTS).rank(["mug"], top_k=4)

    assert rows[0].tolist() == [2, 3]
    assert scores[0] == pytest.approx([expected, expected], rel=1e-6)


def test_words_add_up_and_the_best_text_comes_first():
    index = Bm25Index.build(TEXTS)

    (rows,), (scores,) = index.rank(["red mug"], top_k=10)
    (_,), (red,) = index.rank(["red"], top_k=10)
    (_,), (mug,) = index.rank(["mug"], top_k=10)

    assert rows[0] == 2
    assert scores[0] == pytest.approx(red[0] + mug[0])
    assert sorted(rows.tolist()) == [0, 2, 3]  # the blue shoes share no word


@pytest.mark.parametrize("top_k", [1, 3, 40, 80, 500])
def test_equal_scores_come_in_row_order_whatever_is_cut_off(top_k):
    index = Bm25Index.build(["lamp", "desk lamp", "chair"] * 40)

    rows, _ = index.rank(["lamp"], top_k=top_k)

    assert rows[0].tolist() == [*range(0, 120, 3), *range(1, 120, 3)][:top_k]


@pytest.mark.parametrize("query", ["", "   ", "!?", "the of and", "zeppelin", "x"])
def test_a_query_without_a_known_word_has_an_empty_ranking(query):
    rows, scores = Bm25Index.build(TEXTS).rank([query, "mug"], top_k=3)

    assert (len(rows[0]), len(scores[0])) == (0, 0)
    assert rows[1].tolist() == [2, 3]


def test_case_width_and_composition_do_not_hide_a_word():
    index = Bm25Index.build(["Café STRASSE", "\uff33\uff2f\uff2e\uff39 カメラ", "東京 タワー"])

    rows, _ = index.rank(["cafe\u0301", "straße", "sony", "東京", "😀"], top_k=3)

    assert [found.tolist() for found in rows] == [[0], [0], [1], [2], []]


def test_texts_without_words_keep_their_rows():
    rows, _ = Bm25Index.build(["", "!!", "mug"]).rank(["mug"], top_k=3)

    assert rows[0].tolist() == [2]


def test_nothing_is_printed_and_the_log_stays_quiet(capsys, caplog):
    caplog.set_level(logging.DEBUG)

    Bm25Index.build(TEXTS).rank(["mug"], top_k=2)

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert [record for record in caplog.records if record.name.startswith("bm25s")] == []


def test_no_texts_are_refused():
    with pytest.raises(EvaluationError, match="at least one text"):
        Bm25Index.build([])


def test_texts_without_any_word_are_refused():
    with pytest.raises(EvaluationError, match="none of the 2 texts"):
        Bm25Index.build(["the", "!"])


def test_top_k_below_one_is_refused():
    with pytest.raises(EvaluationError, match="found 0"):
        Bm25Index.build(TEXTS).rank(["mug"], top_k=0)


def test_a_run_names_products_and_skips_padding():
    rows = np.array([[2, 0], [1, -1]])
    scores = np.array([[0.5, 0.25], [1.0, -np.inf]], dtype=np.float32)

    run = to_run(["q1", "q2"], ["a", "b", "c"], rows, scores)

    assert run == {"q1": {"c": 0.5, "a": 0.25}, "q2": {"b": 1.0}}


def test_a_run_keeps_queries_with_an_empty_ranking():
    rows, scores = Bm25Index.build(TEXTS).rank(["zeppelin"], top_k=3)

    assert to_run(["q"], list("abcd"), rows, scores) == {"q": {}}


def test_a_run_needs_one_ranking_per_query():
    with pytest.raises(EvaluationError, match="2 query ids, 1 lists of rows and 1"):
        to_run(["q1", "q2"], ["a"], [[0]], [[1.0]])


def test_a_run_refuses_a_query_id_given_twice():
    with pytest.raises(EvaluationError, match="'q2' twice"):
        to_run(["q1", "q2", "q2"], ["a"], [[0]] * 3, [[1.0]] * 3)
