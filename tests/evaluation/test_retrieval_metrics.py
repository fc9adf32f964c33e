import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.errors import EvaluationError
from aisle.evaluation import retrieval_metrics
from aisle.evaluation.retrieval_metrics import DEFAULT_CUTOFFS, evaluate_run, table_metrics

ESCI = [0.0, 0.01, 0.1, 1.0]


def _brute_force(qrels, run, k):
    """Compute every metric at k by its definition in plain Python, for queries with a relevant product."""
    totals = {"recall": 0.0, "mrr": 0.0, "ndcg": 0.0}
    judged_queries = {q: judged for q, judged in qrels.items() if any(judged.values())}
    for query, judged in judged_queries.items():
        scores = run.get(query, {})
        top = sorted(sorted(scores), key=lambda product: scores[product], reverse=True)[:k]
        hits = [judged.get(product, 0) > 0 for product in top]
        ideal = sorted(judged.values(), reverse=True)[:k]
        totals["recall"] += sum(hits) / sum(gain > 0 for gain in judged.values())
        totals["mrr"] += 1 / (hits.index(True) + 1) if any(hits) else 0.0
        totals["ndcg"] += sum(judged.get(p, 0) / math.log2(i + 2) for i, p in enumerate(top)) / sum(
            gain / math.log2(i + 2) for i, gain in enumerate(ideal)
        )
    return {f"{name}@{k}": total / len(judged_queries) for name, total in totals.items()}


def _random_case(seed, *, queries=25, products=40):
    generator = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(products)]
    qrels, run = {}, {}
    for i in range(queries):
        judged = generator.choice(names, generator.integers(1, 15), replace=False)
        qrels[f"q{i}"] = {str(p): float(generator.choice(ESCI)) for p in judged}
        answered = generator.choice(names, generator.integers(0, 30), replace=False)
        # scores have five values, so most rankings have ties
        run[f"q{i}"] = {str(p): float(generator.integers(0, 5)) for p in answered}
    return qrels, run


def test_metrics_equal_the_hand_computed_ones():
    qrels = {"q1": {"a": 1.0, "b": 0.1, "c": 0.01}, "q2": {"d": 1.0}}
    run = {"q1": {"x": 0.9, "b": 0.8, "a": 0.7}, "q2": {"d": 0.5, "x": 0.4}}

    found = evaluate_run(qrels, run, cutoffs=(1, 2, 10)).values

    ideal_2 = 1 + 0.1 / math.log2(3)
    assert found == {
        "recall@1": pytest.approx((0 + 1) / 2),
        "recall@2": pytest.approx((1 / 3 + 1) / 2),
        "recall@10": pytest.approx((2 / 3 + 1) / 2),
        "mrr@1": pytest.approx((0 + 1) / 2),
        "mrr@2": pytest.approx((1 / 2 + 1) / 2),
        "mrr@10": pytest.approx((1 / 2 + 1) / 2),
        "ndcg@1": pytest.approx((0 + 1) / 2),
        "ndcg@2": pytest.approx((0.1 / math.log2(3) / ideal_2 + 1) / 2),
        "ndcg@10": pytest.approx(((0.1 / math.log2(3) + 1 / 2) / (ideal_2 + 0.01 / 2) + 1) / 2),
        "precision@1": pytest.approx((0 + 1) / 2),
    }


@pytest.mark.parametrize("seed", range(4))
def test_random_rankings_with_ties_agree_with_the_definitions(seed):
    qrels, run = _random_case(seed)

    found = evaluate_run(qrels, run, cutoffs=(1, 5, 100)).values

    for k in (1, 5, 100):
        for name, expected in _brute_force(qrels, run, k).items():
            assert found[name] == pytest.approx(expected, abs=1e-12), name
    assert found["precision@1"] == found["mrr@1"]
    assert 0.05 < found["ndcg@5"] < 0.95


def test_graded_ndcg_agrees_with_scikit_learn():
    generator = np.random.default_rng(7)
    gains = generator.choice(ESCI, (12, 20))
    gains[:, 0] = 1.0
    scores = generator.permuted(np.tile(np.arange(20.0), (12, 1)), axis=1)
    qrels = {str(q): {str(p): gains[q, p] for p in range(20)} for q in range(12)}
    run = {str(q): {str(p): scores[q, p] for p in range(20)} for q in range(12)}

    found = evaluate_run(qrels, run, cutoffs=(3, 10)).values

    assert found["ndcg@3"] == pytest.approx(ndcg_score(gains, scores, k=3), abs=1e-12)
    assert found["ndcg@10"] == pytest.approx(ndcg_score(gains, scores, k=10), abs=1e-12)


def test_small_gains_are_not_lost():
    # ranx would round gains below 1 to 0
    assert evaluate_run({"q": {"a": 0.01}}, {"q": {"a": 1.0}}, cutoffs=(10,)).values["ndcg@10"] == 1.0


def test_a_query_with_many_judgements_does_not_lower_the_ndcg_of_another():
    short, long = {"a": 1.0}, {f"p{i}": 1.0 for i in range(5)}
    run = {"short": {"x": 2.0, "a": 1.0}, "long": {"p0": 1.0}}

    found = evaluate_run({"short": short, "long": long}, run, cutoffs=(10,))

    assert found.per_query["ndcg@10"][0] == pytest.approx(1 / math.log2(3))


def test_equal_scores_rank_by_product_id_for_any_order_of_the_run():
    qrels = {"q": {"b": 1.0}}

    forwards = evaluate_run(qrels, {"q": {"a": 0.5, "b": 0.5, "c": 0.5}})
    backwards = evaluate_run(qrels, {"q": {"c": 0.5, "b": 0.5, "a": 0.5}})

    assert forwards.values == backwards.values
    assert forwards.values["mrr@10"] == 0.5


def test_products_below_the_deepest_cutoff_do_not_count():
    run = {"q": {f"p{i}": -float(i) for i in range(20)}}

    found = evaluate_run({"q": {"p9": 1.0, "p10": 1.0}}, run, cutoffs=(10,)).values

    assert (found["recall@10"], found["mrr@10"]) == (0.5, pytest.approx(1 / 10))


def test_unanswered_queries_count_as_zero():
    qrels = {"q1": {"a": 1.0}, "q2": {"a": 1.0}, "q3": {"a": 1.0}}

    found = evaluate_run(qrels, {"q1": {"a": 1.0}, "q2": {}})

    assert found.values["recall@10"] == pytest.approx(1 / 3)
    assert found.values["ndcg@100"] == pytest.approx(1 / 3)
    assert found.unanswered == ("q2", "q3")
    assert found.queries == 3


def test_queries_without_a_relevant_product_are_left_out_and_listed():
    qrels = {"q1": {"a": 1.0}, "q2": {"a": 0.0}, "q3": {}}

    found = evaluate_run(qrels, {"q1": {"a": 1.0}, "q2": {"a": 1.0}, "q9": {"a": 1.0}})

    assert found.values["recall@1"] == 1.0
    assert (found.queries, found.without_relevant, found.unjudged) == (1, ("q2", "q3"), 1)


def test_relevant_from_moves_recall_and_mrr_but_not_the_gains():
    qrels = {"q1": {"exact": 1.0, "substitute": 0.1}, "q2": {"substitute": 0.1}}
    run = {"q1": {"substitute": 0.9, "exact": 0.8}, "q2": {"substitute": 0.9}}

    loose = evaluate_run(qrels, run)
    strict = evaluate_run(qrels, run, relevant_from=1.0)

    assert (loose.values["mrr@10"], loose.queries) == (1.0, 2)
    assert (strict.values["mrr@10"], strict.values["precision@1"], strict.queries) == (0.5, 0.0, 1)
    assert strict.values["recall@1"] == 0.0
    assert strict.values["ndcg@1"] == pytest.approx(0.1)
    assert strict.without_relevant == ("q2",)


def test_a_float32_relevance_meets_its_own_threshold():
    grade = float(np.float32(0.7))

    assert evaluate_run({"q": {"a": grade}}, {"q": {"a": 1.0}}, relevant_from=0.7).queries == 1


def test_judgements_of_unknown_products_are_reported_and_count_as_missed():
    qrels = {"q": {"a": 1.0, "gone": 1.0, "never": 0.0}}

    found = evaluate_run(qrels, {"q": {"a": 1.0}}, known_products=["a", "b"])

    assert found.unknown_products == ("gone",)
    assert found.values["recall@10"] == 0.5
    assert evaluate_run(qrels, {"q": {"a": 1.0}}).unknown_products is None


def test_values_per_query_average_to_the_reported_ones():
    qrels, run = _random_case(11)

    found = evaluate_run(qrels, run)

    assert len(found.query_ids) == found.queries == len(found.per_query["mrr@10"])
    first = found.query_ids[0]
    alone = evaluate_run({first: qrels[first]}, {first: run[first]})
    assert alone.values["ndcg@10"] == pytest.approx(found.per_query["ndcg@10"][0])
    assert found.values["ndcg@10"] == pytest.approx(np.mean(found.per_query["ndcg@10"]))


def test_unjudged_shares_count_ranked_products():
    qrels = {"q1": {"a": 1.0, "b": 0.0}, "q2": {"a": 1.0}, "no relevant": {"a": 0.0}}
    run = {"q1": {"x": 3.0, "b": 2.0, "a": 1.0}, "q2": {"a": 1.0}, "no relevant": {"x": 1.0}}

    found = evaluate_run(qrels, run, cutoffs=(1, 2, 10)).unjudged_shares

    # a product judged 0 is judged, and q2 has only one product to count
    assert found == {"1": 1 / 2, "2": 1 / 3, "10": 1 / 4}


def test_without_a_ranked_product_nothing_is_unjudged():
    assert evaluate_run({"q": {"a": 1.0}}, {"q": {}}, cutoffs=(10,)).unjudged_shares == {"10": 0.0}


@pytest.mark.parametrize("size", [1, 7])
def test_the_number_of_queries_at_a_time_changes_nothing(size, monkeypatch):
    qrels, run = _random_case(5)
    whole = evaluate_run(qrels, run, cutoffs=(1, 5, 100))

    monkeypatch.setattr(retrieval_metrics, "CHUNK_QUERIES", size)
    chunked = evaluate_run(qrels, run, cutoffs=(1, 5, 100))

    assert chunked == whole
    assert chunked.unanswered
    for metric, values in whole.per_query.items():
        np.testing.assert_array_equal(chunked.per_query[metric], values)


@pytest.mark.filterwarnings("ignore::numba.core.errors.NumbaTypeSafetyWarning")
@pytest.mark.parametrize("seed", range(3))
def test_random_rankings_with_ties_agree_with_ranx(seed):
    qrels, run = _random_case(seed)
    graded = {q: {p: int(np.ceil(3 * gain)) for p, gain in judged.items()} for q, judged in qrels.items()}
    graded = {q: judged for q, judged in graded.items() if any(judged.values())}
    found = evaluate_run(graded, run, cutoffs=(3, 10))

    import ranx

    # ranx leaves the order of ties to its sort, so it gets their ranks in the order of ids
    ordered = {q: sorted(run[q], key=lambda p, q=q: (-run[q][p], p)) for q in graded}
    places = {q: {p: -float(i) for i, p in enumerate(ordered[q])} or {"none": 0.0} for q in graded}
    names = [f"{name}@{k}" for name in ("recall", "mrr", "ndcg") for k in (3, 10)] + ["precision@1"]
    expected = ranx.evaluate(ranx.Qrels(graded), ranx.Run(places), names)
    assert {name: found.values[name] for name in names} == pytest.approx(expected, abs=1e-12)
    assert any(len(set(scores.values())) < len(scores) for scores in run.values())


def test_infinite_scores_rank_at_the_ends():
    run = {"q": {"a": -math.inf, "b": 0.0, "c": math.inf}}

    assert evaluate_run({"q": {"a": 1.0}}, run).values["mrr@10"] == pytest.approx(1 / 3)


def test_nan_scores_are_refused_with_query_and_product_named():
    with pytest.raises(EvaluationError, match=r"run, query 'q', product 'b'.*NaN"):
        evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1.0, "b": math.nan}})


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_invalid_relevance_is_refused_with_query_and_product_named(wrong):
    with pytest.raises(EvaluationError, match="query 'q', product 'a': a relevance must be"):
        evaluate_run({"q": {"a": wrong}}, {"q": {"a": 1.0}})


@pytest.mark.parametrize(
    ("qrels", "run", "message"),
    [
        ({}, {"q": {"a": 1.0}}, "no judgements"),
        ({"q": {"a": 1.0}}, {}, "run is empty"),
        (
            {"1": {"a": 1.0}},
            {"q1": {"a": 1.0}},
            "no query id in common; both must use the same ids. In judgements: '1'; in the run: 'q1'",
        ),
        (
            {"q": {"a": 0.0}},
            {"q": {"a": 1.0}},
            r"no judged query \(of 1\) has a product with relevance above 0",
        ),
    ],
)
def test_judgements_and_runs_that_cannot_be_compared_are_refused(qrels, run, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate_run(qrels, run)


@pytest.mark.parametrize("cutoffs", [(), (0,), (10, -1)])
def test_cutoffs_must_be_positive(cutoffs):
    with pytest.raises(EvaluationError, match="at least 1"):
        evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, cutoffs=cutoffs)


def test_relevant_from_zero_is_refused():
    with pytest.raises(EvaluationError, match="relevant_from must be above 0, found 0"):
        evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, relevant_from=0)


def test_report_is_json_without_the_values_per_query():
    found = evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, cutoffs=(1,)).to_dict()

    assert json.loads(json.dumps(found)) == {
        "recall@1": 1.0,
        "mrr@1": 1.0,
        "ndcg@1": 1.0,
        "precision@1": 1.0,
        "queries": 1,
        "without_relevant": [],
        "unanswered": [],
        "unjudged": 0,
        "unjudged_shares": {"1": 0.0},
        "unknown_products": None,
    }


def test_evaluating_makes_no_folders_in_the_home_directory(tmp_path):
    code = """
from aisle.evaluation.retrieval_metrics import evaluate_run
evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1.0}})
"""
    environment = {key: value for key, value in os.environ.items() if key != "IR_DATASETS_HOME"}
    environment |= {"HOME": str(tmp_path)}

    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)

    assert not (tmp_path / ".ir_datasets").exists()


def test_tables_show_main_metrics_for_default_cutoffs_and_all_metrics_for_others():
    default = evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, cutoffs=DEFAULT_CUTOFFS).values
    chosen = evaluate_run({"q": {"a": 1.0}}, {"q": {"a": 1.0}}, cutoffs=(1, 5, 10, 100)).values

    shown = ("recall@1", "recall@10", "recall@100", "mrr@10", "ndcg@10", "precision@1")
    assert table_metrics(default) == shown
    assert table_metrics(chosen) == tuple(chosen)
    assert "recall@5" in chosen


def test_cutoffs_of_the_command_are_the_default_cutoffs():
    assert EvaluateSettings().cutoffs == DEFAULT_CUTOFFS
