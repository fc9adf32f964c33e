"""The headline of an evaluation, and the advice without a clear gain."""

from dataclasses import replace

import pytest

from aisle.errors import EvaluationError
from aisle.evaluation.comparison import compare_runs
from aisle.evaluation.document import Difference, Estimate, Retrieval, RetrievalRow
from aisle.evaluation.headline import advice, headline


def _retrieval(difference, **others):
    rows = [
        RetrievalRow("base", "base", {}, {}, {}, 0),
        RetrievalRow("tuned", "tuned", {}, {"ndcg@10": difference}, {}, 0),
    ]
    return Retrieval(tuple(rows), 400, 10, 10, 0, (), ())


def test_headline_of_a_clear_gain_is_the_sentence_of_the_report():
    found = Difference(0.0612, 0.0401, 0.0823, 0.0001, 0.0002, better=120, worse=31, equal=249)

    assert headline(_retrieval(found), base="base", tuned="tuned") == (
        "tuned beats base by 0.06 nDCG@10 [0.04, 0.08]; worse on 31 of 400 queries"
    )


def test_headline_of_a_clear_loss_is_worse_than_the_base():
    found = Difference(-0.0612, -0.0823, -0.0401, 0.0001, 0.0002, better=31, worse=1120, equal=0)

    assert headline(_retrieval(found), base="base", tuned="tuned") == (
        "tuned is worse than base by 0.06 nDCG@10 [0.04, 0.08]; worse on 1,120 of 1,151 queries"
    )


@pytest.mark.parametrize(
    ("low", "p_corrected", "why"),
    [(-0.01, 0.01, "p 0.010"), (0.01, 0.2, "p 0.010, corrected for 1 comparison 0.200")],
)
def test_headline_claims_no_gain_without_support_of_interval_and_test(low, p_corrected, why):
    found = Difference(0.02, low, 0.05, 0.01, p_corrected, better=5, worse=3, equal=2)

    assert headline(_retrieval(found), base="base", tuned="tuned") == (
        f"tuned is not clearly better than base: +0.02 nDCG@10 [{low:+.2f}, +0.05], {why}; "
        "worse on 3 of 10 queries"
    )


def test_headline_shows_small_differences_with_enough_decimals():
    found = Difference(0.0051, 0.0012, 0.0093, 0.001, 0.001, better=5, worse=3, equal=2)

    assert headline(_retrieval(found), base="base", tuned="tuned") == (
        "tuned beats base by 0.005 nDCG@10 [0.001, 0.009]; worse on 3 of 10 queries"
    )


def test_headline_of_equal_systems():
    found = Difference(0.0, 0.0, 0.0, 1.0, 1.0, better=0, worse=0, equal=10)

    assert headline(_retrieval(found), base="base", tuned="tuned") == (
        "tuned does exactly as well as base on each of 10 queries by nDCG@10"
    )


def test_headline_of_a_comparison_names_its_base_and_metric():
    qrels = {f"q{i}": {"a": 1.0} for i in range(12)}
    runs = {
        "lucene": {query: {"b": 2.0, "a": 1.0} for query in qrels},
        "mine": {query: {"a": 1.0} for query in qrels},
    }

    found, _ = compare_runs(
        runs,
        qrels,
        kinds={"lucene": "bm25", "mine": "tuned"},
        base="lucene",
        products=2,
        known_products=["a", "b"],
    )

    assert headline(found, base="lucene", tuned="mine", metric="mrr@10") == (
        "mine beats lucene by 0.50 MRR@10 [0.50, 0.50]; worse on 0 of 12 queries"
    )


def test_headline_of_one_query_claims_no_gain():
    runs = {"base": {"q": {"b": 2.0, "a": 1.0}}, "tuned": {"q": {"a": 1.0}}}

    found, _ = compare_runs(
        runs,
        {"q": {"a": 1.0}},
        kinds={"base": "base", "tuned": "tuned"},
        base="base",
        products=2,
        known_products=["a", "b"],
    )

    assert "tuned is not clearly better than base: +1.00 precision@1" in headline(
        found, base="base", tuned="tuned", metric="precision@1"
    )


@pytest.mark.parametrize(
    ("tuned", "metric", "message"),
    [
        ("mine", "ndcg@10", "no system 'mine'; the systems are base, tuned"),
        ("tuned", "ndcg@5", "'tuned' has no difference from a base in 'ndcg@5'; it has: ndcg@10"),
        ("base", "ndcg@10", "'base' has no difference from a base in 'ndcg@10'; it has: none"),
    ],
)
def test_headline_of_an_unknown_system_or_metric_is_refused(tuned, metric, message):
    found = Difference(0.1, 0.0, 0.2, 0.5, 0.5, better=1, worse=0, equal=0)

    with pytest.raises(EvaluationError, match=message):
        headline(_retrieval(found), base="base", tuned=tuned, metric=metric)


def handful(queries, systems=("tuned",)):
    """A base that never ranks the right product first, and others that always do."""
    qrels = {f"q{number}": {"right": 1.0} for number in range(queries)}
    runs = {"base": {query: {"wrong": 2.0, "right": 1.0} for query in qrels}}
    runs |= {system: {query: {"right": 1.0} for query in qrels} for system in systems}
    kinds = {"base": "base", **dict.fromkeys(systems, "tuned")}
    known = {"products": 2, "known_products": ["right", "wrong"]}
    return compare_runs(runs, qrels, kinds=kinds, base="base", **known)[0]


def test_an_interval_above_zero_of_too_few_queries_is_explained_with_p():
    """Five queries with a gain: 2 of 32 patterns of signs are as far from 0, so p is at least 0.0625."""
    assert headline(handful(5), base="base", tuned="tuned", metric="mrr@10") == (
        "tuned is not clearly better than base: +0.50 MRR@10 [+0.50, +0.50], p 0.062: too few queries, since "
        "with 5 that differ p is at least 0.062 and the interval is too narrow; worse on 0 of 5 queries"
    )
    assert headline(handful(6), base="base", tuned="tuned", metric="mrr@10").startswith("tuned beats base")


def test_a_correction_that_decides_is_named():
    """Six queries give p 2 / 64; with three comparisons Holm's correction makes it 6 / 64."""
    found = handful(6, ("tuned", "hybrid", "other"))

    assert "p 0.031, corrected for 3 comparisons 0.094;" in headline(
        found, base="base", tuned="tuned", metric="mrr@10"
    )


def test_an_interval_above_zero_without_support_of_the_test_is_explained():
    found = Difference(0.24, 0.05, 0.43, 0.08, 0.08, better=7, worse=2, equal=0)

    assert "[+0.05, +0.43], p 0.080: too few queries for the interval to be trusted, so the test decides" in (
        headline(_retrieval(found), base="base", tuned="tuned")
    )


def test_advice_is_given_unless_the_gain_is_clear():
    unclear = Difference(0.02, -0.01, 0.05, 0.2, 0.2, better=50, worse=30, equal=20)
    clear = Difference(0.06, 0.04, 0.08, 0.001, 0.001, better=50, worse=30, equal=20)
    worse = Difference(-0.06, -0.08, -0.04, 0.001, 0.001, better=30, worse=50, equal=20)

    said = advice(_retrieval(unclear), base="base", tuned="tuned")
    # Half of the interval is 0.03 for 100 queries: 2.8 / 1.96 of it falls to 0.02 at 100 * (0.0429 / 0.02)^2.
    assert said[0] == ("judge more queries: about 460 would show a gain of this size; there are 100")
    assert said[-1].startswith("train on more judged queries")
    assert advice(_retrieval(clear), base="base", tuned="tuned") == ()
    assert [line.partition(":")[0] for line in advice(_retrieval(worse), base="base", tuned="tuned")] == [
        said[-1]
    ]


def test_advice_includes_unjudged_products_and_better_hybrid_search():
    unclear = Difference(0.02, -0.01, 0.05, 0.2, 0.2, better=50, worse=30, equal=20)
    found = _retrieval(unclear)
    base, tuned = found.rows
    base, tuned = replace(base, unjudged={"10": 0.05}), replace(tuned, unjudged={"10": 0.34})
    tuned = replace(tuned, metrics={"ndcg@10": Estimate(0.5)})
    hybrid = replace(tuned, name="hybrid", kind="hybrid", metrics={"ndcg@10": Estimate(0.9)})
    said = advice(replace(found, rows=(base, tuned, hybrid)), base="base", tuned="tuned")

    assert "judge the unjudged products among the top 10 (tuned 34%, base 5%): they count as not" in said[1]
    assert said[2].startswith("use hybrid search: hybrid reaches nDCG@10 0.900, tuned 0.500")
