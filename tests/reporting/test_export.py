"""The report's tables and figures as plain values, for trackers and the model card."""

import io
import math

import numpy as np
import pytest
from matplotlib import image

from aisle.reporting.html import figures_of, png_bytes, rgb_pixels, scalars_of, tables_of
from tests.reporting.evaluations import (
    HOSTILE,
    crowded_evaluation,
    empty_evaluation,
    evaluation,
    hostile_evaluation,
    one_query_evaluation,
)


def test_scalars_carry_values_interval_ends_and_corrected_p():
    found = scalars_of(evaluation())

    expected = {
        "retrieval/tuned/ndcg@10": 0.521,
        "retrieval/tuned/ndcg@10/low": 0.5,
        "retrieval/tuned/ndcg@10/high": 0.541,
        "retrieval/bm25/unjudged@10": 0.123,
        "difference/tuned/ndcg@10": 0.061,
        "difference/tuned/ndcg@10/low": 0.041,
        "difference/tuned/ndcg@10/high": 0.082,
        "difference/tuned/ndcg@10/p_corrected": 0.003,
        "pairs/tuned/roc_auc": 0.916,
        "pairs/tuned/roc_auc/low": 0.904,
        "pairs/tuned/roc_auc_against_0.1": 0.856,
        "joint_pool/base/mrr": 0.6625,
        "joint_pool/base/mrr/high": 0.675,
        "joint_pool/tuned/precision@1": 0.701,
        "graph/ann_recall@10": 0.987,
        "graph/tuned/ndcg@10": 0.519,
        "graph/tuned/difference": -0.002,
        "graph/hybrid/difference/low": -0.002,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert "difference/base/ndcg@10" not in found


def test_undefined_figures_are_left_out():
    assert scalars_of(empty_evaluation()) == {}
    assert scalars_of(one_query_evaluation()) == {
        "retrieval/base/ndcg@10": 1.0,
        "graph/ann_recall@10": 0.987,
    }


def test_slashes_in_a_system_s_name_do_not_split_a_scalar_s_name():
    names = scalars_of(hostile_evaluation())

    assert {name.count("/") for name in names if name.endswith("/ndcg@10")} == {2}
    assert "/" in HOSTILE
    assert all(name.isprintable() and math.isfinite(value) for name, value in names.items())


def test_tables_are_those_of_the_report():
    found = tables_of(evaluation())

    assert list(found)[:5] == ["retrieval", "differences", "joint-pool", "pairs", "grades"]
    assert list(found)[5:7] == ["graph-loss", "graph"]
    lost = "-0.002 [-0.004, -0.001]".replace("-", "\u2212")
    assert found["graph-loss"].rows[0] == (
        "tuned",
        "0.987",
        "0.521",
        "0.519",
        lost,
        "9",
    )
    assert list(found)[7:] == ["slices-1", "slices-2", "slices-3", "improved", "worsened"]
    retrieval = found["retrieval"]
    assert retrieval.header == (
        "System", "Recall@1", "Recall@10", "Recall@100", "MRR@10", "nDCG@10", "Precision@1",
        "Unjudged in top 1", "Unjudged in top 10", "Unanswered",
    )  # fmt: skip
    assert [row[0] for row in retrieval.rows] == ["bm25", "base", "tuned", "hybrid"]
    assert retrieval.rows[2][5:] == ("0.521 [0.500, 0.541]", "0.481 [0.460, 0.501]", "2.1%", "12.3%", "0")
    assert found["pairs"].rows[1][1] == "0.916 [0.904, 0.927]"
    assert found["graph"].rows[3] == ("128 in use", "0.987", "0.110")


def test_changed_queries_are_a_table_with_their_answers_rank_by_rank():
    made = evaluation()
    change = made.improved[0]

    found = tables_of(made)["improved"]

    assert found.header == ("Query", "nDCG@10, base", "nDCG@10, tuned", "Rank", "base", "tuned")
    first, second = found.rows[:2]
    assert first[0] == second[0] == change.query
    assert (first[3], second[3]) == ("1", "2")
    assert first[1:3] == (f"{change.base:.3f}", f"{change.tuned:.3f}")
    for cell, answer in ((first[4], change.before[0]), (first[5], change.after[0])):
        judged = "not judged" if answer.relevance is None else f"relevance {answer.relevance:g}"
        assert cell == f"{answer.title} [{answer.product_id}] ({judged}, {answer.score:.3f})"


def test_columns_of_drawings_are_left_out():
    found = tables_of(evaluation())["slices-1"]

    assert found.header == ("Query length", "Queries", "Difference", "base", "tuned")
    assert found.rows[0] == ("1 word", "220", "+0.110 [+0.090, +0.130]", "0.430", "0.540")


@pytest.mark.parametrize("make", [crowded_evaluation, hostile_evaluation, one_query_evaluation])
def test_cells_are_one_line_and_fit_their_headings(make):
    for table in tables_of(make()).values():
        assert {len(row) for row in table.rows} == {len(table.header)}
        for cell in (*table.header, *(cell for row in table.rows for cell in row)):
            assert cell == " ".join(cell.split())


def test_an_empty_evaluation_has_no_tables():
    assert tables_of(empty_evaluation()) == {}


def test_pixels_are_those_of_the_png():
    chart = figures_of(evaluation())["retrieval"]

    pixels = rgb_pixels(chart)
    shares = image.imread(io.BytesIO(png_bytes(chart)), format="png")
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*shares.shape[:2], 3)
    assert pixels.shape[1] == 672  # 4.2 inches at 160 dots
    np.testing.assert_allclose(pixels / 255, shares[..., :3], atol=1e-6)
    assert tuple(pixels[0, 0]) == (255, 255, 255)
