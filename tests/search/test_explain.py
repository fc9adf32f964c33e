"""Explanations of candidates: words, scores, fusion, filter and index."""

import math
from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest

from aisle.index import filters, open_index, upsert_products
from aisle.index.analyser import Analyser
from aisle.search.explain import Clause, Explainer, MatchedWord, explain
from aisle.search.searcher import Searcher
from tests.search.word_encoder import WordEncoder, write_shop

ENCODER = WordEncoder()
TITLES = ["Red Sofas", "Blue sofa", "red lamp", "oak table"]
PAYLOAD = pa.table(
    {
        "title": TITLES,
        "price": [40, 60, 20, None],
        "colours": [["Red", "dark red"], ["blue"], ["red"], None],
    }
)
TEXTS = ["Red Sofas velvet", "Blue sofa", "red lamp", "oak table"]


@pytest.fixture
def index_dir(tmp_path):
    write_shop(tmp_path / "index", titles=TITLES, payload=PAYLOAD, texts=TEXTS)
    return tmp_path / "index"


@pytest.fixture
def searcher(index_dir):
    return Searcher(open_index(index_dir), ENCODER, exact=True)


def explained(searcher, query, product_id, **settings):
    (found,) = searcher.candidates([query], **settings)
    (candidate,) = (hit for hit in found.page(0, min(10, found.window)) if hit.product_id == product_id)
    return explain(found, candidate)


def test_words_are_named_as_typed_with_their_share_of_bm25(searcher):
    explanation = explained(searcher, "sofa RED zeppelin velvet", "p000", mode="lexical")

    sofa, red, zeppelin, velvet = explanation.words
    idf = math.log(1 + (4 - 2 + 0.5) / (2 + 0.5))
    by_hand = idf / (1 + 1.5 * (0.25 + 0.75 * 3 / (9 / 4)))
    assert (sofa.word, sofa.term, sofa.fields) == ("sofa", "sofa", {"title": ["Sofas"]})
    assert sofa.bm25 == pytest.approx(by_hand, rel=1e-5)
    assert (red.word, red.fields) == ("RED", {"title": ["Red"], "colours": ["Red", "red"]})
    assert zeppelin == MatchedWord("zeppelin", "zeppelin", 0.0, {})
    assert velvet.fields == {"__text__": ["velvet"]}
    assert sum(word.bm25 for word in explanation.words) == pytest.approx(explanation.score, rel=1e-6)


@pytest.mark.parametrize("fusion", ["convex", "rrf"])
@pytest.mark.parametrize("product_id", ["p000", "p003"])
def test_the_parts_of_a_fused_score_sum_to_it(searcher, fusion, product_id):
    searcher = Searcher(searcher.index, ENCODER, exact=True, fusion=fusion)

    explanation = explained(searcher, "red sofa", product_id, mode="hybrid", weight=0.3)

    assert explanation.fused.dense + explanation.fused.bm25 == pytest.approx(explanation.score, abs=1e-6)
    assert explanation.settings.weight == 0.3
    assert set(explanation.scores) == {"dense", "bm25", "fused"}


def test_a_product_named_by_its_id_has_that_as_its_reason(searcher):
    explanation = explained(searcher, "p002", "p002", mode="hybrid")

    assert (explanation.named_by_id, explanation.fused, explanation.score) == (True, None, 1.0)
    assert "the query is the product's id" in str(explanation)
    assert not explained(searcher, "p002", "p001", mode="hybrid").named_by_id
    assert not explained(searcher, "p002", "p002", mode="dense").named_by_id


def test_each_comparison_of_the_filter_has_its_result_and_values(searcher):
    where = "(price < 50 or price > 1000) AND not ('green' in colours or title == 'x') and 1 <= price <= 40"

    explanation = explained(searcher, "sofa", "p000", mode="dense", where=where)

    assert explanation.filter == [
        Clause("price < 50", True, {"price": 40}),
        Clause("price > 1000", False, {"price": 40}),
        Clause("'green' in colours", False, {"colours": ["Red", "dark red"]}),
        Clause("title == 'x'", False, {"title": "Red Sofas"}),
        Clause("1 <= price <= 40", True, {"price": 40}),
    ]
    missing = explained(searcher, "sofa", "p003", where="price is None or price < 5")
    assert [(clause.text, clause.result) for clause in missing.filter] == [
        ("price is None", True),
        ("price < 5", None),
    ]


def test_the_searcher_s_own_condition_is_explained_too(searcher):
    searcher = Searcher(searcher.index, ENCODER, where="price < 50")

    explanation = explained(searcher, "sofa", "p002", where="title != 'ü'")

    assert [clause.text for clause in explanation.filter] == ["price < 50", "title != 'ü'"]


def test_an_explanation_reads_as_text(searcher):
    explanation = explained(searcher, "sofa", "p000", mode="hybrid", weight=0.5, where="price < 50")
    scores, fused = explanation.scores, explanation.fused

    assert str(explanation).splitlines() == [
        f"p000: rank 1 of 2 for 'sofa', hybrid score {explanation.score:.4f}",
        f"  word    'sofa' BM25 {scores['bm25']:.4f} (title: Sofas)",
        f"  cosine  {scores['dense']:.4f}, rank {explanation.ranks['dense']}",
        f"  BM25    {scores['bm25']:.4f}, rank 1",
        f"  fused   {fused.dense:.4f} by cosine + {fused.bm25:.4f} by BM25 (weight 0.5)",
        "  filter  price < 50: true (price = 40)",
        f"  index   version 1, encoder shop/words ({'f' * 12})",
    ]


def test_what_a_side_did_not_find_reads_as_text(searcher):
    text = str(explained(searcher, "lamp", "p003", mode="hybrid", window=4))

    assert "'lamp' not in the product's text" in text
    assert "BM25    0.0000, no rank: no word of the query" in text
    sofa = ENCODER.encode_queries(["Red Sofas"])
    cut = explained(searcher, "lamp", "p002", mode="hybrid", weight=0.1, window=1, query_embeddings=sofa)
    assert "rank 1 of at least 2 for 'lamp'" in str(cut)
    assert f"cosine  {cut.scores['dense']:.4f}, no rank: not among the best 1" in str(cut)


def test_an_old_set_is_explained_from_its_version(index_dir, searcher):
    (found,) = searcher.candidates(["sofa"], mode="hybrid")
    before = explain(found, found.page()[0])
    upsert_products(
        index_dir,
        products=pa.table({"product_id": ["new"], "__text__": ["sofa"], "title": ["sofa"]}),
        embeddings=[ENCODER.encode_products(["sofa"])],
        fingerprint=ENCODER.fingerprint,
        threads=1,
    )
    assert searcher.reload_if_changed()

    assert explain(found, found.page()[0]) == before
    (new,) = searcher.candidates(["sofa"], mode="hybrid")
    assert explain(new, new.page()[0]).version == 2


def test_an_index_without_texts_is_explained_without_words(searcher):
    index = replace(searcher.index, lexical=None)

    explanation = explained(Searcher(index, ENCODER), "sofa", "p000", mode="dense")

    assert explanation.words == []
    assert set(explanation.scores) == {"dense"}


def test_each_text_is_analysed_once_for_all_words_and_the_query_once_for_all_products(searcher, counted):
    analysed = counted(Analyser, "placed_terms")
    queries = counted(Analyser, "terms_of_query")
    parsed = counted(filters, "filter_clauses")
    query = "red sofa velvet lamp table zeppelin"
    (found,) = searcher.candidates([query], mode="lexical", where="price < 50 or price is None")
    page = found.page()
    before = len(queries)

    explainer = Explainer(found)
    asked = len(queries) - before
    explanations = [explainer.explain(hit) for hit in page]

    shown = [0, 2, 3]
    texts = [TITLES[row] for row in shown] + [TEXTS[row] for row in shown] + ["Red", "dark red", "red"]
    assert len(explanations) == 3
    assert Counter(analysed) == Counter(text.lower() for text in [query, *texts])
    assert (len(queries) - before, len(parsed)) == (asked, 1)
