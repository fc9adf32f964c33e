"""Calibrated scores: which pairs are measured, what the thresholds do, and when a search is refused."""

from dataclasses import replace

import numpy as np
import pytest

from aisle.errors import EvaluationError, SearchError
from aisle.evaluation.isotonic_fit import fit_probabilities
from aisle.index import open_index
from aisle.index.calibrate_index import calibrate_index
from aisle.search.calibration import measure_calibration
from aisle.search.candidates import Total
from aisle.search.searcher import Searcher
from tests.search.word_encoder import COLOURS, NOUNS, WordEncoder, write_shop

ENCODER = WordEncoder()
QUERIES = {f"{colour}{noun}": f"{colour} {noun}" for colour in COLOURS for noun in NOUNS}
MODES = ["dense", "lexical", "hybrid"]


def judge(index):
    """Judge every other product for each query: relevant if the noun comes last in the title."""
    titles = index.products.column("title").to_pylist()
    ids = index.products.column("product_id").to_pylist()
    return {
        query_id: {
            product: float(title.split()[-1] == text.split()[-1])
            for product, title in list(zip(ids, titles, strict=True))[number % 2 :: 2]
        }
        for number, (query_id, text) in enumerate(QUERIES.items())
    }


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    index_dir = tmp_path_factory.mktemp("shop") / "index"
    write_shop(index_dir, count=80)
    calibrate_index(index_dir, lambda found: measure_calibration(found, ENCODER, QUERIES, judge(found)))
    return open_index(index_dir)


def share_of_highest(index, query, score):
    return score / index.lexical.highest_score(query)


def all_answers(index, query, mode):
    """Return the calibrated score of every product that a search finds, by product id."""
    found = Searcher(index, ENCODER, mode=mode, exact=True).search([query], len(index))[0]
    scale = index.lexical.highest_score(query) if mode == "lexical" else 1.0
    return {hit.product_id: hit.score / scale for hit in found}


@pytest.mark.parametrize("mode", MODES)
def test_judged_products_are_measured_with_the_scores_that_a_search_gives(index, mode):
    qrels = judge(index)
    scores, relevant, query_of = [], [], []
    for number, (query_id, text) in enumerate(QUERIES.items()):
        found = all_answers(index, text, mode)
        for product, relevance in qrels[query_id].items():
            if product in found:
                scores.append(found[product])
                relevant.append(relevance > 0)
                query_of.append(number)

    measured = index.calibration.modes[mode]

    expected = fit_probabilities(np.array(scores), np.array(relevant), np.array(query_of))
    assert (measured.pairs, measured.relevant) == (expected.pairs, expected.relevant)
    grid = np.linspace(-1, 1, 101)
    np.testing.assert_allclose(measured.probabilities_of(grid), expected.probabilities_of(grid), atol=1e-4)
    assert measured.calibration_error == pytest.approx(expected.calibration_error, abs=1e-4)


@pytest.mark.parametrize("mode", ["dense", "lexical"])
def test_unjudged_products_among_the_best_can_count_as_not_relevant(index, mode):
    qrels, depth = judge(index), 7
    pairs = relevant = 0
    for query_id, text in QUERIES.items():
        best = list(all_answers(index, text, mode))[:depth]
        pairs += len(best)
        relevant += sum(qrels[query_id].get(product, 0.0) > 0 for product in best)

    measured = measure_calibration(index, ENCODER, QUERIES, qrels, unjudged="not_relevant", depth=depth)

    assert (measured.modes[mode].pairs, measured.modes[mode].relevant) == (pairs, relevant)
    assert (measured.unjudged, measured.depth) == ("not_relevant", depth)


def test_relevance_counts_from_a_given_level(index):
    qrels = {query_id: {p: r / 2 for p, r in judged.items()} for query_id, judged in judge(index).items()}

    half = measure_calibration(index, ENCODER, QUERIES, qrels, relevant_from=0.5)

    assert half.modes == index.calibration.modes
    qrels["redsofa"] = {product: 1.0 for product in qrels["redsofa"]}
    full = measure_calibration(index, ENCODER, QUERIES, qrels, relevant_from=0.51)
    assert full.modes["dense"].relevant == len(qrels["redsofa"])


def test_judged_products_that_the_index_lacks_are_left_out(index):
    qrels = {query_id: {**judged, "elsewhere": 1.0} for query_id, judged in judge(index).items()}

    assert measure_calibration(index, ENCODER, QUERIES, qrels).modes == index.calibration.modes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.9, 1.0])
def test_answers_are_the_products_with_the_probability(index, mode, p):
    searcher = Searcher(index, ENCODER, mode=mode, exact=True)
    for query in ["red sofa", "green bed", "zeppelin", "blue zeppelin lamp"]:
        found = all_answers(index, query, mode)
        reached = index.calibration.modes[mode].probabilities_of(list(found.values())) >= p
        expected = [product for product, kept in zip(found, reached, strict=True) if kept]

        answer = searcher.search([query], 80, min_score="calibrated", p=p)[0]

        assert [hit.product_id for hit in answer] == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", [None, "price < 40"])
def test_candidate_sets_are_the_products_with_the_probability(index, mode, where):
    searcher = Searcher(index, ENCODER, mode=mode, exact=True)
    for query in ["red sofa", "zeppelin", "blue zeppelin lamp", "p007"]:
        for p in (0.05, 0.3, 0.5, 0.9, 1.0):
            (found,) = searcher.candidates([query], where=where, min_score="calibrated", p=p)

            answer = searcher.search([query], 80, where, min_score="calibrated", p=p)[0]
            assert found.product_ids.tolist() == [hit.product_id for hit in answer]
            assert found.total == Total(len(answer), "eq")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("window", [1, 3, 10, 60])
def test_a_total_that_a_window_may_have_cut_says_so(index, mode, window):
    searcher = Searcher(index, ENCODER, mode=mode, exact=True)
    for query in ["red sofa", "blue zeppelin lamp", "zeppelin"]:
        for p in (0.05, 0.3, 0.5, 0.9):
            everything = searcher.candidates([query], min_score="calibrated", p=p)[0].total.value

            (found,) = searcher.candidates([query], window=window, min_score="calibrated", p=p)

            if found.total.relation == "eq":
                assert found.total.value == everything
            else:
                assert found.total.value <= everything


def test_half_is_the_probability_without_p(index):
    searcher = Searcher(index, ENCODER, exact=True)
    texts = list(QUERIES.values())

    default = searcher.search(texts, 80, min_score="calibrated")

    np.testing.assert_array_equal(
        default.rows, searcher.search(texts, 80, min_score="calibrated", p=0.5).rows
    )
    assert len(default[0]) < len(searcher.search(texts, 80, min_score="calibrated", p=0.1)[0])


@pytest.mark.parametrize("mode", MODES)
def test_operating_points_are_the_effects_on_the_judged_queries(index, mode):
    qrels, calibration = judge(index), index.calibration.modes[mode]
    searcher = Searcher(index, ENCODER, mode=mode, exact=True)
    every = {query_id: all_answers(index, text, mode) for query_id, text in QUERIES.items()}
    for point in calibration.points[::24]:
        answers = searcher.search(list(QUERIES.values()), 80, min_score="calibrated", p=point.p)
        answerable = [sum(qrels[query_id].values()) > 0 for query_id in QUERIES]
        answered = [bool(answers[number]) for number in np.flatnonzero(answerable)]
        scores = [
            every[query_id][product]
            for query_id in QUERIES
            for product, relevance in qrels[query_id].items()
            if relevance and product in every[query_id]
        ]

        assert point.answered == pytest.approx(np.mean(answered))
        kept = np.mean(calibration.probabilities_of(scores) >= point.p)
        assert point.relevant_kept == pytest.approx(kept, abs=0.01)


@pytest.mark.parametrize("mode", ["lexical", "hybrid"])
def test_a_product_that_the_query_names_is_always_shown(index, mode):
    scores = index.calibration.modes[mode]
    unsure = replace(scores, probabilities=tuple(min(p, 0.8) for p in scores.probabilities))
    calibration = replace(index.calibration, modes={mode: unsure})
    searcher = Searcher(replace(index, calibration=calibration), ENCODER, mode=mode)

    hits = searcher.search(["p007"], 5, min_score="calibrated", p=0.9)[0]
    (found,) = searcher.candidates(["p007"], min_score="calibrated", p=0.9)

    assert [hit.product_id for hit in hits] == found.product_ids.tolist() == ["p007"]


def test_an_index_without_texts_is_calibrated_for_embeddings_only(tmp_path):
    write_shop(tmp_path / "index", texts=None)
    index = open_index(tmp_path / "index")

    measured = measure_calibration(index, ENCODER, QUERIES, judge(index))

    assert (list(measured.modes), measured.hybrid_weight) == (["dense"], None)


def test_a_mode_that_finds_no_judged_product_is_left_out(index):
    qrels = {query_id: judged for query_id, judged in judge(index).items() if query_id.startswith("red")}
    queries = dict.fromkeys(qrels, "zeppelin")

    assert list(measure_calibration(index, ENCODER, queries, qrels).modes) == ["dense", "hybrid"]


@pytest.mark.parametrize(("relevance", "kind"), [(1.0, "all .* pairs are relevant"), (0.0, "no pair is")])
def test_judgements_of_one_kind_are_refused(index, relevance, kind):
    qrels = {query_id: dict.fromkeys(judged, relevance) for query_id, judged in judge(index).items()}

    with pytest.raises(EvaluationError, match=kind):
        measure_calibration(index, ENCODER, QUERIES, qrels)


# --- searches that a calibration cannot serve


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_score": "calibrated", "p": 0.0}, "above 0 and at most 1, found 0.0"),
        ({"min_score": "calibrated", "p": 1.2}, "above 0 and at most 1, found 1.2"),
        ({"min_score": "calibrated", "p": float("nan")}, "above 0 and at most 1, found nan"),
        ({"min_score": 0.5, "p": 0.5}, "p: is for min_score='calibrated'"),
        ({"p": 0.5}, "p: is for min_score='calibrated'"),
        ({"min_score": "best"}, "a number or 'calibrated', found 'best'"),
        ({"min_score": "calibrated", "mode": "hybrid", "weight": 0.9}, "calibrated for the weight 0.5"),
    ],
)
def test_thresholds_that_cannot_be_applied_are_refused(index, given, message):
    with pytest.raises(SearchError, match=message):
        Searcher(index, ENCODER).search(["red sofa"], **given)


def test_reciprocal_ranks_are_not_calibrated(index):
    searcher = Searcher(index, ENCODER, mode="hybrid", fusion="rrf")

    with pytest.raises(SearchError, match="only hybrid scores of the fusion 'convex'"):
        searcher.search(["red sofa"], min_score="calibrated")


def test_an_index_that_is_not_calibrated_names_the_command(tmp_path):
    write_shop(tmp_path / "index")
    searcher = Searcher(open_index(tmp_path / "index"), ENCODER)

    with pytest.raises(SearchError, match=f"aisle calibrate --index_dir {tmp_path}/index --queries"):
        searcher.search(["red sofa"], min_score="calibrated")


def test_a_weight_that_was_tuned_after_calibrating_is_refused(index):
    tuned = replace(index, manifest=replace(index.manifest, hybrid_weight=0.8))

    with pytest.raises(SearchError, match=r"weight 0\.5, and this search uses 0\.8"):
        Searcher(tuned, ENCODER, mode="hybrid").search(["red sofa"], min_score="calibrated")
    Searcher(tuned, ENCODER, mode="dense").search(["red sofa"], min_score="calibrated")


def test_scikit_learn_is_not_loaded_to_search(index):
    import subprocess
    import sys

    code = """
import sys
from aisle.index import open_index
from aisle.search.searcher import Searcher
index = open_index(sys.argv[1])
found = Searcher(index, mode="lexical").search(["red sofa"], min_score="calibrated", p=0.2)[0]
print(len(found) > 0, sorted({"sklearn", "torch", "scipy"} & set(sys.modules)))
"""
    index_dir = index.directory.parents[1]
    ran = subprocess.run([sys.executable, "-c", code, index_dir], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == "True []"
