import numpy as np
import pytest

from aisle.errors import EvaluationError
from aisle.evaluation.changes import (
    changed_queries,
    query_length_groups,
    slices,
    word_frequency_groups,
)
from aisle.evaluation.document import Answer, Estimate
from aisle.evaluation.retrieval_metrics import RetrievalMetrics
from aisle.evaluation.significance import bootstrap_interval


def _metrics(values, metric="ndcg@10"):
    """Metrics with the given value per query."""
    per_query = np.array(list(values.values()))
    return RetrievalMetrics(
        values={metric: float(per_query.mean())},
        queries=len(values),
        without_relevant=(),
        unanswered=(),
        unjudged=0,
        unjudged_shares={},
        unknown_products=None,
        query_ids=tuple(values),
        per_query={metric: per_query},
    )


def _changed(base, tuned, **settings):
    settings = {
        "metric": "ndcg@10",
        "queries": {},
        "before": {},
        "after": {},
        "titles": {},
        "qrels": {},
        **settings,
    }
    return changed_queries(_metrics(base), _metrics(tuned), **settings)


def test_changes_are_ordered_by_size_and_then_by_query_id():
    base = {"d": 0.5, "b": 0.5, "c": 0.5, "a": 0.5, "same": 0.5, "less": 0.5, "least": 0.5}
    tuned = {"d": 0.7, "b": 0.7, "c": 1.0, "a": 0.6, "same": 0.5, "less": 0.4, "least": 0.1}

    improved, worsened = _changed(base, tuned)

    assert [change.query_id for change in improved] == ["c", "b", "d", "a"]
    assert [change.query_id for change in worsened] == ["least", "less"]
    assert (worsened[0].base, worsened[0].tuned) == (0.5, 0.1)


def test_only_so_many_changes_are_shown():
    base = {f"q{i}": 0.0 for i in range(30)}
    tuned = {f"q{i}": i / 30 for i in range(30)}

    improved, worsened = _changed(base, tuned, shown=3)

    assert [change.query_id for change in improved] == ["q29", "q28", "q27"]
    assert worsened == ()


def test_a_difference_by_rounding_is_no_change():
    assert _changed({"q": 0.3}, {"q": 0.1 + 0.2}) == ((), ())


def test_a_change_shows_the_answers_before_and_after_with_titles_and_judgements():
    before = {"q": [("x", 0.9), ("a", 0.8), ("b", 0.7)]}
    after = {"q": [("a", np.float32(0.5))]}

    ((change,), _) = _changed(
        {"q": 0.2},
        {"q": 0.9},
        queries={"q": "oak table"},
        before=before,
        after=after,
        titles={"a": "Table of oak", "x": "Lamp"},
        qrels={"q": {"a": 1.0, "b": 0.0}},
        depth=2,
    )

    assert change.query == "oak table"
    assert change.before == (Answer("x", "Lamp", 0.9, None), Answer("a", "Table of oak", 0.8, 1.0))
    assert change.after == (Answer("a", "Table of oak", 0.5, 1.0),)


def test_a_missing_title_text_or_ranking_does_not_stop_the_report():
    ((change,), _) = _changed({"q": 0.0}, {"q": 1.0}, after={"q": [("b", 1.0)]}, qrels={"q": {"b": 0.0}})

    assert (change.query, change.before, change.after) == ("q", (), (Answer("b", "b", 1.0, 0.0),))


def test_systems_over_different_queries_cannot_be_paired():
    with pytest.raises(EvaluationError, match=r"different queries \(1 and 2\)"):
        _changed({"q": 0.0}, {"q": 0.0, "r": 0.0})


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(EvaluationError, match="no metric 'ndcg@5'; there are ndcg@10"):
        _changed({"q": 0.0}, {"q": 0.0}, metric="ndcg@5")


def test_slices_hold_the_means_of_their_queries():
    generator = np.random.default_rng(0)
    base = {f"q{i}": value for i, value in enumerate(generator.random(40))}
    tuned = {f"q{i}": value for i, value in enumerate(generator.random(40))}
    departments = {f"q{i}": "garden" if i % 4 else "toys" for i in range(40)}

    found = slices(
        _metrics(base),
        _metrics(tuned),
        metric="ndcg@10",
        groups={"department": departments, "none": {}},
        resamples=100,
        seed=2,
    )

    toys, garden = found
    chosen = [f"q{i}" for i in range(0, 40, 4)]
    gain = np.array([tuned[q] - base[q] for q in chosen])
    assert (toys.by, toys.label, toys.queries) == ("department", "toys", 10)
    assert toys.base == pytest.approx(np.mean([base[q] for q in chosen]))
    assert toys.tuned == pytest.approx(np.mean([tuned[q] for q in chosen]))
    assert toys.difference.value == pytest.approx(gain.mean())
    assert (toys.difference.low, toys.difference.high) == bootstrap_interval(gain, resamples=100, seed=2)
    assert (garden.label, garden.queries) == ("garden", 30)


def test_slices_of_one_query_have_no_interval_and_unevaluated_queries_are_left_out():
    groups = {"length": {"unknown": "long", "b": "short", "other": "short"}}

    found = slices(
        _metrics({"a": 0.1, "b": 0.25}), _metrics({"a": 0.1, "b": 0.75}), metric="ndcg@10", groups=groups
    )

    assert [(part.label, part.queries, part.difference) for part in found] == [("short", 1, Estimate(0.5))]


@pytest.mark.parametrize(("queries", "has_interval"), [(2, False), (9, False), (10, True)])
def test_slices_of_fewer_than_ten_queries_have_no_interval(queries, has_interval):
    before = {f"q{number}": 0.1 * number / queries for number in range(queries)}
    after = {query: value + 0.5 for query, value in before.items()}

    (part,) = slices(
        _metrics(before), _metrics(after), metric="ndcg@10", groups={"all": dict.fromkeys(before, "one")}
    )

    assert part.difference.value == pytest.approx(0.5)
    assert (part.difference.low is not None, part.difference.high is not None) == (has_interval,) * 2


@pytest.mark.parametrize(("metric", "ranks"), [("ndcg@10", 10), ("ndcg@3", 3), ("ndcg@1000", 100)])
def test_changed_queries_show_as_many_ranks_as_the_metric_counts(metric, ranks):
    answers = {"q": [(f"p{rank}", -float(rank)) for rank in range(1000)]}

    ((change,), _) = changed_queries(
        _metrics({"q": 0.0}, metric),
        _metrics({"q": 1.0}, metric),
        metric=metric,
        queries={},
        before=answers,
        after=answers,
        titles={},
        qrels={},
    )

    assert [answer.product_id for answer in change.after] == [f"p{rank}" for rank in range(ranks)]
    assert len(change.before) == ranks


def test_queries_are_grouped_by_their_words_shortest_first():
    queries = {"e": "a b c d e", "b": "a  b", "a": "oak", "d": "a b c d", "c": "a b c", "f": "a b c d e f g"}

    assert list(query_length_groups(queries).items()) == [
        ("a", "1-2 words"),
        ("b", "1-2 words"),
        ("c", "3-4 words"),
        ("d", "3-4 words"),
        ("e", "5+ words"),
        ("f", "5+ words"),
    ]


def test_queries_are_grouped_by_their_rarest_word():
    texts = ["oak table", "Oak chair", "oak oak shelf", "steel table"]
    queries = {"common": "OAK", "rare": "oak glass", "middle": "oak, table"}

    found = word_frequency_groups(queries, iter(texts))

    # oak is in 3 texts, table in 2, glass in none
    assert list(found.items()) == [("rare", "rare"), ("middle", "medium"), ("common", "frequent")]


def test_queries_of_equal_rarity_are_together():
    queries = {f"q{i}": "oak" for i in range(5)}

    assert set(word_frequency_groups(queries, ["oak"]).values()) == {"medium"}
    assert word_frequency_groups(queries | {"x": "elm"}, ["oak"])["x"] == "rare"


def test_words_are_folded_and_a_query_without_a_word_has_no_group():
    queries = {"wide": "\uff2f\uff21\uff2b", "folded": "STRASSE", "none": "!?"}

    found = word_frequency_groups(queries, ["oak straße", "oak"])

    assert found == {"folded": "rare", "wide": "frequent"}
    assert word_frequency_groups({"none": "!?"}, []) == {}
