import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from aisle.errors import EvaluationError
from aisle.evaluation.comparison import compare_runs
from aisle.evaluation.document import Estimate
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.evaluation.significance import bootstrap_interval, holm, randomisation_p

KINDS = {"bm25": "bm25", "base": "base", "tuned": "tuned", "noise": "other"}
PRODUCTS = [f"p{i}" for i in range(40)]


def _case(queries=80, seed=0):
    """Judgements and runs: `tuned` is better than `base`, `noise` is as good as `base`."""
    generator = np.random.default_rng(seed)
    qrels, runs = {}, {"bm25": {}, "base": {}, "tuned": {}, "noise": {}}
    for i in range(queries):
        gains = np.zeros(40)
        gains[:4] = [1.0, 0.1, 0.01, 0.0]
        qrels[f"q{i}"] = dict(zip(PRODUCTS[:4], gains[:4].tolist(), strict=True))
        for name, strength in {"bm25": 0.2, "base": 1.0, "tuned": 2.0, "noise": 1.0}.items():
            scores = np.round(strength * gains + generator.normal(0, 0.7, 40), 1)  # ties
            runs[name][f"q{i}"] = dict(zip(PRODUCTS, scores.tolist(), strict=True))
    return qrels, runs


def _compare(runs, qrels, **settings):
    catalogue = settings.pop("products", PRODUCTS)
    sizes = {"products": len(catalogue), "known_products": catalogue}
    settings = {"kinds": KINDS, "base": "base", "resamples": 200, **sizes, **settings}
    return compare_runs(runs, qrels, **settings)


def test_rows_are_the_runs_in_order_with_the_metrics_of_each():
    qrels, runs = _case()

    found, metrics = _compare(runs, qrels)

    assert [(row.name, row.kind) for row in found.rows] == list(KINDS.items())
    for row in found.rows:
        alone = evaluate_run(qrels, runs[row.name])
        assert {name: estimate.value for name, estimate in row.metrics.items()} == pytest.approx(alone.values)
        assert row.unjudged == alone.unjudged_shares
        assert metrics[row.name].per_query["ndcg@10"] == pytest.approx(alone.per_query["ndcg@10"])
    assert (found.queries, found.products, found.judgements) == (80, 40, 320)


def test_intervals_and_differences_equal_their_definitions():
    qrels, runs = _case()

    found, metrics = _compare(runs, qrels, seed=3)

    rows = {row.name: row for row in found.rows}
    tuned, base = (metrics[name].per_query["mrr@10"] for name in ("tuned", "base"))
    estimate, difference = rows["tuned"].metrics["mrr@10"], rows["tuned"].differences["mrr@10"]
    assert (estimate.low, estimate.high) == bootstrap_interval(tuned, resamples=200, seed=3)
    assert difference.mean == pytest.approx(tuned.mean() - base.mean())
    assert (difference.low, difference.high) == bootstrap_interval(tuned - base, resamples=200, seed=3)
    assert difference.p_value == randomisation_p(tuned - base, seed=3)
    assert (difference.better, difference.worse) == ((tuned > base).sum(), (tuned < base).sum())
    assert difference.better + difference.worse + difference.equal == 80
    assert rows["base"].differences == {}


def test_p_values_are_corrected_for_the_rows_each_metric_on_its_own():
    qrels, runs = _case()

    found, _ = _compare(runs, qrels)

    others = [row for row in found.rows if row.name != "base"]
    assert len(others) == 3
    for metric in ("ndcg@10", "recall@1"):
        corrected = [row.differences[metric].p_corrected for row in others]
        assert corrected == holm([row.differences[metric].p_value for row in others])
        assert max(corrected) > max(0.0, min(corrected))


def test_a_planted_difference_is_found_and_noise_is_not():
    qrels, runs = _case(200)

    rows = {row.name: row.differences["ndcg@10"] for row in _compare(runs, qrels)[0].rows if row.differences}

    assert rows["tuned"].low > 0.1
    assert rows["tuned"].p_corrected < 0.001
    assert rows["bm25"].high < 0
    assert rows["noise"].low < 0 < rows["noise"].high
    assert rows["noise"].p_corrected > 0.05


def test_a_paired_interval_is_narrower_than_two_apart():
    qrels, runs = _case()
    shifted = {query: dict(scores) for query, scores in runs["base"].items()}
    shifted["q0"] = {"p0": 1.0}

    found, _ = _compare({"base": runs["base"], "tuned": shifted}, qrels)

    tuned = found.rows[1]
    difference, estimate = tuned.differences["ndcg@10"], tuned.metrics["ndcg@10"]
    assert difference.high - difference.low < (estimate.high - estimate.low) / 4


def test_the_same_rankings_do_not_differ():
    qrels, runs = _case()

    difference = (
        _compare({"base": runs["base"], "tuned": runs["base"]}, qrels)[0].rows[1].differences["ndcg@10"]
    )

    assert (difference.mean, difference.low, difference.high) == (0.0, 0.0, 0.0)
    assert (difference.p_value, difference.p_corrected, difference.equal) == (1.0, 1.0, 80)


def test_the_same_seed_gives_the_same_document():
    qrels, runs = _case()

    assert _compare(runs, qrels, seed=1)[0] == _compare(runs, qrels, seed=1)[0]
    assert _compare(runs, qrels, seed=1)[0] != _compare(runs, qrels, seed=2)[0]


def test_without_a_base_there_are_no_differences():
    qrels, runs = _case(5)

    assert [row.differences for row in _compare(runs, qrels, base=None)[0].rows] == [{}] * 4


def test_unknown_products_are_listed_and_count_as_missed():
    qrels = {"q": {"a": 1.0, "gone": 1.0, "never": 0.0}, "r": {"a": 1.0}}
    run = {"q": {"a": 1.0}, "r": {"a": 1.0}}

    found, metrics = _compare({"base": run}, qrels, products=["a", "b"])

    assert found.unknown_products == ("gone", "never")
    assert (found.products, found.judgements) == (2, 4)
    assert found.rows[0].metrics["recall@10"].value == 0.75
    assert metrics["base"].unknown_products == ("gone",)


def test_unknown_queries_are_listed_and_in_no_mean():
    qrels = {"q": {"a": 1.0}, "r": {"b": 1.0}, "lost": {"a": 1.0}}

    found, _ = _compare({"base": {"q": {"a": 1.0}, "r": {"b": 1.0}}}, qrels, unknown_queries=["lost"])

    assert found.unknown_queries == ("lost",)
    assert (found.queries, found.judgements, found.rows[0].unanswered) == (2, 3, 0)
    assert found.rows[0].metrics["recall@10"].value == 1.0


def test_queries_without_a_relevant_product_or_an_answer_are_counted():
    qrels = {"q": {"a": 1.0}, "r": {"a": 1.0}, "s": {"a": 0.0}}

    found, _ = _compare({"base": {"q": {"a": 1.0}}, "tuned": {"q": {}}}, qrels)

    assert (found.queries, found.without_relevant) == (2, 1)
    assert [row.unanswered for row in found.rows] == [1, 2]
    assert [row.metrics["mrr@10"].value for row in found.rows] == [0.5, 0.0]


def test_unjudged_products_are_a_rate_by_cutoff():
    qrels = {"q": {"a": 1.0, "b": 0.0}}

    found, _ = _compare({"base": {"q": {"x": 3.0, "a": 2.0, "b": 1.0, "y": 0.0}}}, qrels, cutoffs=(1, 3))

    assert found.rows[0].unjudged == {"1": 1.0, "3": pytest.approx(1 / 3)}


def test_when_all_scores_are_tied_ids_decide():
    run = {"q": dict.fromkeys(PRODUCTS, 0.5)}

    found, _ = _compare({"base": run}, {"q": {"p0": 1.0, "p39": 1.0}}, cutoffs=(1, 10, 100))

    # p39 is the 34th of 40 in the order of text
    assert sorted(PRODUCTS).index("p39") == 33
    values = {name: estimate.value for name, estimate in found.rows[0].metrics.items()}
    assert (values["precision@1"], values["recall@10"], values["recall@100"]) == (1.0, 0.5, 1.0)


def test_one_query_has_no_interval_and_proves_nothing():
    qrels = {"q": {"a": 1.0}}
    runs = {"base": {"q": {"b": 2.0, "a": 1.0}}, "tuned": {"q": {"a": 1.0}}}

    row = _compare(runs, qrels)[0].rows[1]

    assert row.metrics["mrr@10"] == Estimate(1.0, None, None)
    assert (row.differences["mrr@10"].mean, row.differences["mrr@10"].p_value) == (0.5, 1.0)


def test_grades_above_the_threshold_are_relevant():
    qrels = {"q": {"a": 1.0, "b": 0.1}, "r": {"b": 0.1}}
    run = {"q": {"b": 2.0, "a": 1.0}, "r": {"b": 1.0}}

    found, _ = _compare({"base": run}, qrels, relevant_from=1.0)

    assert (found.queries, found.without_relevant) == (1, 1)
    assert found.rows[0].metrics["mrr@10"].value == 0.5


def test_the_document_is_json():
    qrels, runs = _case(5)

    assert json.loads(json.dumps(asdict(_compare(runs, qrels)[0]), allow_nan=False))["queries"] == 5


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "there is no system to evaluate"),
        ({"tuned": {"q": {"a": 1.0}}}, "the base 'base' has no run; the systems are tuned"),
        ({"base": {}}, "base: the run is empty"),
        ({"base": {"x": {"a": 1.0}}}, "base: judgements and the run have no query id in common"),
        (
            {"base": {"q": {"a": 1.0}}, "tuned": {"q": {"a": math.nan}}},
            "tuned: run, query 'q', product 'a': .* found NaN",
        ),
        ({"base": {"q": {"a": 1.0}}, "mine": {"q": {"a": 1.0}}}, "kinds must name every system, 'mine'"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_with_the_system_named(runs, message):
    with pytest.raises(EvaluationError, match=message):
        _compare(runs, {"q": {"a": 1.0}})


def test_judgements_of_only_unknown_queries_are_refused():
    with pytest.raises(EvaluationError, match=r"has no judged query \(of 1, for example 'q'\)"):
        _compare({"base": {"q": {"a": 1.0}}}, {"q": {"a": 1.0}}, unknown_queries=["q"])
