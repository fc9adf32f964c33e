"""Hard negatives of a hand-made catalogue in which every reason to exclude a product occurs."""

import numpy as np
import pytest

from aisle.errors import ConfigError
from aisle.mining.known_products import KnownProducts, Passages
from aisle.mining.margin import Margin
from aisle.mining.product_groups import GroupColumns
from aisle.mining.ranked_products import take_turns
from aisle.mining.reasons import REASONS
from aisle.mining.text_keys import text_key
from tests.mining.mined_shop import bm25, both, catalog_of, dense, ids_of, mine, pairs_of

CATALOG = {
    "p1": "red sofa for two",
    "p2": "Red  SOFA for two",
    "p3": "crimson red sofa couch",
    "p4": "red sofa bed",
    "p5": "red sofa",
    "p6": "red sofa cover",
    "p7": "RED sofa   cover",
    "p8": "red sofa legs",
    "p9": "sofa",
    "p10": "oak table",
    "p11": "red sofa made in 1999 by Acme",
    "p12": "red settee",
    "p13": "red sofa, for two!",
    "p14": "sofa in ruby for two",
    "p15": "red sofa with storage",
    "p16": "red sofa model A",
    "p17": "red sofa (display)",
}
GROUP = {"p1": "g1", "p14": "g1"}
SUBGROUP = {"p15": "s1", "p9": "s1"}
ANGLES = {"p2": 1.0, "p4": 2.5, "p12": 2.6, "p16": 0.001, "p17": 0.3, "p3": 3.0, "p9": 0.2, "p1": 1.0}
"""Angle of a product's embedding to that of the query; that of the positives is 1.0, of all others 2.0."""
PAIRS = [
    {
        "query": "red sofa",
        "query_id": "q1",
        "product_id": "p1",
        "product": "red sofa for two",
        "relevance": 1,
        "subgroup": "s1",
    },
    {"query": "scarlet couch", "query_id": "q1", "product_id": "p3", "product": "couch", "relevance": 1},
    {"query": "red sofa", "query_id": "q1", "product_id": "p4", "product": "red sofa bed", "relevance": 0.1},
    {"query": "red sofa", "query_id": "q1", "product_id": "p9", "product": "sofa", "relevance": 0},
    {"query": "settee", "query_id": "q2", "product_id": "p1", "product": "red settee", "relevance": 1},
]
PAIRS = [{"subgroup": f"other{number}", **pair} for number, pair in enumerate(PAIRS)]
ANSWERS = {"red sofa": Passages.of([], ["IN 1999"])}


def unit(angle):
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


VECTORS = {query: unit(0.0) for query in ("red sofa", "scarlet couch", "settee", "靴")}


@pytest.fixture(scope="module")
def catalog():
    return catalog_of(
        CATALOG,
        group=[GROUP.get(each) for each in CATALOG],
        subgroup=[SUBGROUP.get(each) for each in CATALOG],
    )


@pytest.fixture(scope="module")
def embeddings():
    return np.stack([unit(ANGLES.get(each, 2.0)) for each in CATALOG])


def test_every_reason_occurs_and_is_counted(catalog, embeddings):
    pairs = pairs_of(*PAIRS, subgroup="subgroup")
    found, mined = mine(
        pairs,
        catalog,
        ranking=dense(catalog, embeddings, VECTORS),
        per_query=100,
        passages=ANSWERS,
        margin=Margin("relative", 0.05),
        near=(np.where(np.arange(len(CATALOG))[:, None] == 15, unit(1.001), embeddings), 0.999),
        groups=GroupColumns("group", "subgroup"),
    )

    assert {reason for reason, count in mined.by_reason().items() if not count} == {"above the teacher"}
    assert list(mined.by_reason()) == list(REASONS)
    # p9 is judged wrong: it stays, although its subgroup is the query's and its score is above the margin
    assert set(ids_of(found[0])) == {"p9", "p6", "p8", "p10"}
    assert found[2] is found[3] is None  # not positives


def test_a_product_is_excluded_for_the_first_reason_that_holds(catalog):
    pairs = pairs_of(*PAIRS)
    known = KnownProducts.of(pairs, catalog.texts_of(["p1", "p3", "p4", "p9"]), passages=ANSWERS)
    reasons = {each: known.reason("red sofa", each, text) for each, text in CATALOG.items()}

    assert {each: reason for each, reason in reasons.items() if reason is not None} == {
        "p1": "judged positive",
        "p2": "equal text",
        "p3": "known positive",  # of the same query_id with another text
        "p4": "partly relevant",
        "p5": "equal to the query",
        "p11": "has an answer",
        "p12": "known positive",  # another text of p1
    }


def test_negatives_are_the_best_ranked_that_are_left(catalog):
    found, _ = mine(pairs_of(*PAIRS), catalog, per_query=3, passages=ANSWERS)
    ranking = bm25(catalog).rank(["red sofa"], [np.empty(0, np.int64)])
    (ranked,) = ranking
    order = [list(CATALOG)[row] for row in ranked.rows.tolist()]
    left = [each for each in order if each in {"p6", "p8", "p9", "p14", "p15", "p16", "p17"}]

    assert ids_of(found[0]) == left[:3]
    assert [each.score for each in found[0]] == [float(ranked.scores[order.index(each)]) for each in left[:3]]
    assert all(each.text == CATALOG[each.product_id] for each in found[0])


def test_the_search_stops_at_the_last_negative_and_at_the_depth(catalog):
    pairs = pairs_of(PAIRS[0])
    _, one = mine(pairs, catalog, per_query=1)
    assert (one.count, one.short, one.without) == (1, 0, 0)
    _, shallow = mine(pairs, catalog, ranking=bm25(catalog, depth=1))
    assert shallow.excluded.total() + shallow.count == 1
    assert shallow.without + shallow.short == 1


def test_many_products_are_read_in_parts_with_the_same_result():
    products = {f"p{number:03}": f"red sofa number {number}" for number in range(100)}
    catalog = catalog_of(products)
    (found,), mined = mine(
        pairs_of({"query": "red sofa", "product": "red sofa number 7"}), catalog, per_query=99
    )
    assert sorted(ids_of(found)) == sorted(set(products) - {"p007"})
    assert mined.excluded == {"judged positive": 1}


def test_a_query_without_words_of_the_catalogue_has_no_negative(catalog):
    (found,), mined = mine(pairs_of({"query": "靴", "product": "oak table"}), catalog)
    assert found == []
    assert (mined.count, mined.without, mined.short) == (0, 1, 0)


def test_unlabelled_pairs_are_all_positives_and_texts_decide_without_ids(catalog):
    known = KnownProducts.of(pairs_of({"query": "red sofa", "product": "red sofa cover"}), {})
    assert known.reason("red sofa", "p6", CATALOG["p6"]) == "judged positive"
    assert known.reason("red sofa", "p7", CATALOG["p7"]) == "equal text"
    assert known.reason("red sofa", "p8", CATALOG["p8"]) is None


def test_a_positive_with_another_text_in_the_catalogue_excludes_equal_texts_of_it(catalog):
    pairs = pairs_of({"query": "couch", "product": "a couch", "product_id": "p6"})
    known = KnownProducts.of(pairs, catalog.texts_of(["p6"]))
    assert known.reason("couch", "p7", CATALOG["p7"]) == "equal text"


def test_ids_and_answers_of_dpr_are_compared_as_words():
    pairs = pairs_of({"query": "red sofa", "product": "elsewhere"})
    passages = {"red sofa": Passages.of(["p8"], ["leg", "!?", "two"])}
    known = KnownProducts.of(pairs, {}, passages=passages)
    assert known.reason("red sofa", "p8", CATALOG["p8"]) == "judged positive"
    assert known.reason("red sofa", "p1", CATALOG["p1"]) == "has an answer"
    assert known.reason("red sofa", "p6", CATALOG["p6"]) is None


@pytest.mark.parametrize(("answer", "text"), [("caf\u00e9", "a cafe\u0301"), ("cafe\u0301", "a CAF\u00c9")])
def test_an_accent_of_an_answer_may_be_written_either_way(answer, text):
    pairs = pairs_of({"query": "where?", "product": "elsewhere"})
    known = KnownProducts.of(pairs, {}, passages={"where?": Passages.of([], [answer])})
    assert known.reason("where?", "p", text) == "has an answer"
    assert known.reason("where?", "p", "a cafe") is None


def test_the_separator_of_titles_does_not_count():
    assert text_key("Sofa [SEP] It is RED.") == text_key("sofa it  is red.")


LEVELS = [
    {"query": "red sofa", "product": "red sofa for two", "relevance": 1},
    {"query": "red sofa", "product": "red sofa bed", "relevance": 0.7},
    {"query": "red sofa", "product": "red sofa legs", "relevance": 0.1},
]


def test_graded_pairs_have_negatives_that_are_judged_lower_than_the_pair(catalog):
    pairs = pairs_of(*LEVELS)
    exact, better, weak = (set(ids_of(each)) for each in mine(pairs, catalog, per_query=100, graded=True)[0])
    assert {"p4", "p8"} <= exact
    assert exact.isdisjoint({"p1", "p2", "p13"})
    assert better & {"p1", "p4", "p8"} == {"p8"}
    assert weak.isdisjoint({"p1", "p4", "p8"})
    _, mined = mine(pairs, catalog, per_query=100, graded=True)
    assert mined.excluded["partly relevant"] == 1  # p8 for its own pair
    found, mined = mine(pairs, catalog, per_query=100)
    assert found[2] is None
    assert set(ids_of(found[0])) == set(ids_of(found[1])) == weak - {"p8"}
    assert mined.excluded["partly relevant"] == 1


def test_a_group_of_the_pairs_excludes_variants_too(catalog):
    pairs = pairs_of(
        {"query": "red sofa", "product": "oak table", "product_id": "p10", "relevance": 1, "variant_of": "A"},
        {"query": "desk", "product": "red sofa legs", "product_id": "p8", "relevance": 1, "variant_of": "A"},
        {"query": "bed", "product": "red sofa bed", "product_id": "p4", "relevance": 1, "variant_of": " "},
        group="variant_of",
    )
    found, mined = mine(pairs, catalog, per_query=100)
    assert "p8" not in ids_of(found[0])
    assert "p4" in ids_of(found[0])
    assert mined.excluded["same group"] == 1


def test_margins_are_those_of_nv_retriever():
    assert Margin.of("relative:.05").limit(0.8) == pytest.approx(0.76)
    assert Margin.of("relative:0.05").limit(-0.8) == pytest.approx(-0.84)
    assert Margin.of("absolute:0.1").limit(0.8) == pytest.approx(0.7)
    assert Margin.of("none") is None
    assert str(Margin.of("relative:.05")) == "relative:0.05"
    for wrong in ("0.05", "relative", "relative:1", "relative:-1", "absolute:nan", "absolute:inf", "x:1"):
        with pytest.raises(ConfigError, match=f"--margin {wrong}: must be relative:SHARE"):
            Margin.of(wrong)


def test_each_positive_has_a_margin_of_its_own(catalog, embeddings):
    pairs = pairs_of(
        {"query": "red sofa", "product": "sofa", "relevance": 1},  # at the angle 0.2
        {"query": "red sofa", "product": "red sofa for two", "relevance": 1},  # at the angle 1.0
        {"query": "red sofa", "product": "not in the catalogue", "relevance": 1},
    )
    ranking = dense(catalog, embeddings, VECTORS)
    found, mined = mine(pairs, catalog, ranking=ranking, per_query=1, margin=Margin("absolute", 0.01))
    assert [ids_of(each) for each in found] == [["p17"], ["p10"], ["p16"]]
    assert found[0][0].positive_score == pytest.approx(np.cos(0.2))
    assert found[2][0].positive_score is None
    assert mined.without_margin == 1
    # p16 for the first; p16 and p17 for the second, and the other positive is judged
    assert mined.excluded["above the margin"] == 3


def test_rankings_take_turns():
    assert take_turns(np.array([5, 3, 1]), np.array([3, 2])).tolist() == [5, 3, 2, 1]
    assert take_turns(np.array([], np.int64), np.array([3, 2])).tolist() == [3, 2]


def test_both_sources_have_cosines_and_are_in_turns(catalog, embeddings):
    (found,), _ = mine(
        pairs_of({"query": "red sofa", "product": "oak table"}),
        catalog,
        ranking=both(catalog, embeddings, VECTORS, depth=2),
        per_query=100,
    )
    by_words = bm25(catalog, depth=2).rank(["red sofa"], [np.empty(0, np.int64)])
    words = [list(CATALOG)[row] for row in next(by_words).rows]
    expected = [each for each in ("p16", words[0], "p9", words[1]) if each != "p5"]
    assert ids_of(found) == expected
    assert [each.score for each in found] == pytest.approx(
        [np.cos(ANGLES.get(each, 2.0)) for each in expected], abs=1e-6
    )


def test_a_teacher_filters_what_the_rules_leave_and_scores_each_pair_once(catalog):
    pairs = pairs_of(
        {"query": "red sofa", "product": "red sofa legs", "relevance": 1},
        {"query": "red sofa", "product": "sofa", "relevance": 1},
        {"query": "red sofa", "product": "not in the catalogue", "relevance": 1},
    )
    logits = {text: float(np.sin(7 * row)) for row, text in enumerate(CATALOG.values())}
    limits = [logits["red sofa legs"], logits["sofa"], 0.0]
    asked = []

    def teacher(given):
        asked.extend(given)
        return np.array([logits[text] for _, text in given], np.float32)

    ranking = dense(catalog, np.stack([unit(number / 20) for number in range(len(CATALOG))]), VECTORS)
    every_pair = {"ranking": ranking, "margin": Margin("absolute", -9)}
    left, _ = mine(pairs, catalog, per_query=100, **every_pair)
    found, mined = mine(pairs, catalog, per_query=2, teacher=teacher, **every_pair)

    expected, above = [], 0
    for each, limit in zip(left, limits, strict=True):
        chosen = []
        for one in ids_of(each):
            is_right = np.float32(logits[CATALOG[one]]) >= np.float32(limit)
            above += is_right and len(chosen) < 2
            chosen += [] if is_right else [one]
        expected.append(chosen[:2])
    assert [ids_of(each) for each in found] == expected
    assert mined.excluded["above the teacher"] == above > 0
    assert len(asked) == len(set(asked)) <= len(CATALOG)
