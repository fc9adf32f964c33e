"""Highlights: spans of the query's words in texts as they are written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aisle.index.analyser import Analyser, normalise
from aisle.index.term_spans import term_spans
from aisle.search.highlighting import Highlighter, highlights

ENGLISH = Analyser.of("english")
EXAMPLES = settings(max_examples=200, derandomize=True, database=None, deadline=None)
# Letters, marks and signs whose normalised form has another length, or depends on what stands before.
ODD = "aAsSiI1230 .-'/™½²ßﬁİ\u0131Ée\u0301\u00ad\u200b\u200d\u0640蓝色沙ガｶﾞ한글ก่าसोफाŁ½💡+#"


def marked(text, query, language="english"):
    """Return the text with brackets around its highlights."""
    analyser = Analyser.of(language)
    marked, last = "", 0
    for start, end in highlights(analyser, query, {"title": text}).get("title", []):
        marked += f"{text[last:start]}[{text[start:end]}]"
        last = end
    return marked + text[last:]


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("Red Sofas for two", "sofa", "Red [Sofas] for two"),
        ("a sofa, a sofa", "sofas", "a [sofa], a [sofa]"),
        ("Apple iPhone-15/128GB", "iphone 15", "Apple [iPhone]-[15]/128GB"),
        ("Apple iPhone-15", "iphone15", "Apple [iPhone-15]"),
        ("LEGO™ Café-Set", "cafe lego", "[LEGO]™ [Café]-Set"),
        ("Cafe\u0301 table", "café", "[Cafe\u0301] table"),
        ("💡 lamp", "lamp", "💡 [lamp]"),
        ("Straße 5", "strasse", "[Straße] 5"),
        ("ﬁne lamp", "fine", "[ﬁne] lamp"),
        ("C++ primer", "c++", "[C++] primer"),
        ("women's shoes", "women", "[women]'s shoes"),
        ("5,5 mm drill", "5.5", "[5,5] mm drill"),
        ("1,299 pieces", "1299", "[1,299] pieces"),
        ("蓝色布艺沙发", "沙发", "蓝色布艺[沙发]"),
        ("蓝色布艺沙发", "布艺沙发", "蓝色[布艺沙发]"),
        ("soft\u00adware box", "software", "[soft\u00adware] box"),
        ("a table for the lamp", "the for", "a table for the lamp"),
        ("red sofa", "zeppelin", "red sofa"),
        ("", "sofa", ""),
        ("2½ inch pipe", "pipe", "2½ inch [pipe]"),
        ("10½ inch pipe", "10", "[10½] inch pipe"),
    ],
)
def test_words_of_the_query_are_marked(text, query, expected):
    assert marked(text, query) == expected


def test_turkish_capital_letters_are_marked():
    assert marked("KIRMIZI koltuk", "k\u0131rm\u0131z\u0131", "turkish") == "[KIRMIZI] koltuk"
    assert marked("İpek hal\u0131", "ipek", "turkish") == "[İpek] hal\u0131"


def test_only_texts_with_a_match_are_highlighted():
    payload = {"title": "red sofa", "brand": "Acme", "price": 5, "colours": ["red"], "note": None}

    assert highlights(ENGLISH, "red", payload) == {"title": [(0, 3)]}
    assert highlights(ENGLISH, "red acme", payload, ["brand", "absent"]) == {"brand": [(0, 4)]}
    assert highlights(None, "red", payload) == {}


@EXAMPLES
@given(st.text(ODD, max_size=30), st.sampled_from(["english", "turkish", "none"]))
def test_placed_terms_are_the_terms_of_the_text(text, language):
    analyser = Analyser.of(language)

    placed = list(analyser.placed_terms(normalise(text, language)))

    assert sorted(found.term for found in placed) == sorted(analyser.terms_of_text(text))


@EXAMPLES
@given(st.text(ODD, max_size=30), st.text(ODD, max_size=8))
def test_a_text_has_highlights_if_bm25_finds_a_word_of_it(text, query):
    terms = set(ENGLISH.terms_of_query(query))

    spans = term_spans(ENGLISH, text, terms)

    assert bool(spans) == (not terms.isdisjoint(ENGLISH.terms_of_text(text)))
    places = [place for span in spans for place in span]
    assert places == sorted(set(places))
    assert all(0 <= place <= len(text) for place in places)


def test_the_query_is_analysed_once_and_a_column_that_is_named_twice_once(counted):
    queries, texts = counted(Analyser, "terms_of_query"), counted(Analyser, "placed_terms")
    highlighter = Highlighter(ENGLISH, "red sofa")

    found = [highlighter.highlights({"title": title}, ["title"] * 9) for title in ("red bed", "a sofa")]

    assert found == [{"title": [(0, 3)]}, {"title": [(2, 6)]}]
    assert (queries, texts) == (["red sofa"], ["red bed", "a sofa"])
