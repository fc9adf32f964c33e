"""Hard negatives of a hand-made catalogue in which every reason to exclude a product occurs."""

import pyarrow as pa
import pytest

from aisle.data.pairs import PairColumns, read_pairs
from aisle.data.rows import Row
from aisle.index.lexical import Bm25Index
from aisle.mining.hard_negatives import bm25_ranking, mine_negatives
from aisle.mining.known_products import REASONS, KnownProducts, Passages, text_key
from aisle.mining.mined_catalog import MinedCatalog

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
}
PAIRS = [
    {
        "query": "red sofa",
        "query_id": "q1",
        "product_id": "p1",
        "product": "red sofa for two",
        "relevance": 1,
    },
    {"query": "scarlet couch", "query_id": "q1", "product_id": "p3", "product": "couch", "relevance": 1},
    {"query": "red sofa", "query_id": "q1", "product_id": "p4", "product": "red sofa bed", "relevance": 0.1},
    {"query": "red sofa", "query_id": "q1", "product_id": "p9", "product": "sofa", "relevance": 0},
    {"query": "settee", "query_id": "q2", "product_id": "p1", "product": "red settee", "relevance": 1},
]


def catalog_of(products):
    table = pa.table({"product_id": list(products), "__text__": list(products.values())})
    lexical = Bm25Index.build(list(products.values()), product_ids=table.column("product_id"))
    return MinedCatalog.of(table, lexical)


def pairs_of(*values):
    rows = [Row("pairs.jsonl", number, dict(each)) for number, each in enumerate(values, start=1)]
    return read_pairs(rows, columns=PairColumns(), label_map=None, on_bad_row="error").pairs


def mine(pairs, catalog, *, per_query=4, depth=200, passages=None):
    texts = catalog.texts_of(pairs.product_ids or ())
    return mine_negatives(
        dict.fromkeys(pairs.queries),
        catalog=catalog,
        known=KnownProducts.of(pairs, texts, passages=passages),
        ranking=bm25_ranking(catalog, depth=depth),
        per_query=per_query,
        on_progress=lambda count: None,
    )


@pytest.fixture(scope="module")
def catalog():
    return catalog_of(CATALOG)


def test_every_product_that_is_right_is_excluded_with_its_reason(catalog):
    passages = {"red sofa": Passages.of([], ["in 1999"])}
    known = KnownProducts.of(pairs_of(*PAIRS), catalog.texts_of(["p1", "p3", "p4", "p9"]), passages=passages)
    reasons = {each: known.reason("red sofa", each, text) for each, text in CATALOG.items()}
    assert reasons == {
        "p1": "judged positive",
        "p2": "equal text",
        "p3": "known positive",  # of the same query_id with another text
        "p4": "partly relevant",
        "p5": "equal to the query",
        "p6": None,
        "p7": None,  # a duplicate of p6 once p6 is chosen
        "p8": None,
        "p9": None,  # judged not relevant: a good negative
        "p10": None,
        "p11": "has an answer",
        "p12": "known positive",  # another text of p1
    }


def test_negatives_are_the_best_ranked_that_are_left_and_reasons_are_counted(catalog):
    pairs = pairs_of(*PAIRS)
    passages = {"red sofa": Passages.of([], ["IN 1999"])}
    mined = mine(pairs, catalog, per_query=100, passages=passages)
    found = mined.negatives["red sofa"]
    ranked, scores = catalog.lexical.rank(["red sofa"], top_k=100, tie_ranks=catalog.tie_ranks)
    order = [list(CATALOG)[row] for row in ranked[0].tolist()]
    assert [each.product_id for each in found] == [each for each in order if each in {"p6", "p8", "p9"}]
    assert [each.score for each in found] == pytest.approx(
        [float(scores[0][order.index(each.product_id)]) for each in found]
    )
    assert all(each.text == CATALOG[each.product_id] for each in found)
    alone = mine(pairs_of(*PAIRS[:4]), catalog, per_query=100, passages=passages)
    assert set(alone.excluded) == set(REASONS)
    assert mined.by_reason().keys() == REASONS.keys()


def test_the_search_stops_at_the_last_negative_and_at_the_depth(catalog):
    pairs = pairs_of(PAIRS[0])
    one = mine(pairs, catalog, per_query=1)
    assert one.count == 1
    assert one.short == one.without == 0
    top = catalog.lexical.rank(["red sofa"], top_k=1, tie_ranks=catalog.tie_ranks)[0][0].tolist()
    shallow = mine(pairs, catalog, per_query=4, depth=1)
    assert shallow.excluded.total() + shallow.count == len(top) == 1
    assert shallow.without + shallow.short == 1


def test_many_products_are_read_in_parts_with_the_same_result():
    products = {f"p{number:03}": f"red sofa number {number}" for number in range(100)}
    catalog = catalog_of(products)
    pairs = pairs_of({"query": "red sofa", "product": "red sofa number 7"})
    mined = mine(pairs, catalog, per_query=99)
    ids = [each.product_id for each in mined.negatives["red sofa"]]
    assert sorted(ids) == sorted(set(products) - {"p007"})
    assert mined.excluded == {"judged positive": 1}


def test_a_query_without_words_of_the_catalogue_has_no_negative(catalog):
    mined = mine(pairs_of({"query": "靴", "product": "oak table"}), catalog)
    assert mined.negatives == {"靴": []}
    assert (mined.count, mined.without, mined.short) == (0, 1, 0)


def test_unlabelled_pairs_are_all_positives_and_texts_decide_without_ids(catalog):
    pairs = pairs_of({"query": "red sofa", "product": "red sofa cover"})
    known = KnownProducts.of(pairs, {})
    assert known.reason("red sofa", "p6", CATALOG["p6"]) == "judged positive"
    assert known.reason("red sofa", "p7", CATALOG["p7"]) == "equal text"
    assert known.reason("red sofa", "p8", CATALOG["p8"]) is None


def test_a_positive_with_another_text_in_the_catalogue_excludes_equal_texts_of_it(catalog):
    pairs = pairs_of({"query": "couch", "product": "a couch", "product_id": "p6"})
    known = KnownProducts.of(pairs, catalog.texts_of(["p6"]))
    assert known.reason("couch", "p7", CATALOG["p7"]) == "equal text"


def test_ids_and_answers_of_dpr_are_compared_as_words(catalog):
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
