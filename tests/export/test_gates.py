"""The figures of a gate, computed by hand, and their limits."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from aisle.errors import ModelError
from aisle.export import gates
from aisle.export.gates import check_tokens, failures, measure, ndcg_figures, overlap
from aisle.export.sample_texts import (
    Judgements,
    SampleTexts,
    added_texts,
    sample_shop_texts,
    tokenizer_texts,
)
from aisle.models.loading import load_encoder

SAMPLE = SampleTexts(("a", "b"), ("c", "d"))


@dataclass
class Fixed:
    """An encoder with given embeddings of the sample."""

    queries: np.ndarray
    products: np.ndarray

    def encode_queries(self, texts):
        return self.queries[[SAMPLE.queries.index(text) for text in texts]]

    def encode_products(self, texts):
        return self.products[[SAMPLE.products.index(text) for text in texts]]


def unit(*angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


SOURCE = Fixed(unit(0, 1), unit(0.1, 0.9))


@pytest.fixture
def two_are_enough(monkeypatch):
    """Let two products and two queries be enough to compare rankings."""
    monkeypatch.setattr(gates, "LEAST_PRODUCTS", 2)
    monkeypatch.setattr(gates, "LEAST_QUERIES", 2)


@pytest.mark.usefixtures("two_are_enough")
def test_the_same_embeddings_pass_with_differences_of_zero():
    results = measure(SOURCE, SOURCE, SAMPLE, "fp32")

    assert results.passed
    assert results.limits == {
        "greatest_difference": 1e-4,
        "greatest_difference_in_a_batch": 1e-6,
        "top10_overlap": 0.999,
    }
    assert results.figures["greatest_difference"] == 0
    assert results.figures["top10_overlap"] == 1


def test_the_greatest_difference_of_a_component_is_compared_with_its_limit():
    moved = Fixed(SOURCE.queries, SOURCE.products + np.float32([[0, 0], [3e-4, 0]]))

    results = measure(SOURCE, moved, SAMPLE, "fp32")

    assert not results.passed
    assert results.failed == ("greatest_difference",)
    assert results.figures["greatest_difference"] == pytest.approx(3e-4, rel=1e-3)
    (failure,) = failures(results, "fp32")
    assert failure.startswith("greatest_difference is 0.0")
    assert failure.endswith("and must be at most 0.0001")


def test_cosines_of_int8_are_those_of_the_angles():
    turned = Fixed(unit(0, 1.2), unit(0.1, 0.9))

    results = measure(SOURCE, turned, SAMPLE, "int8")

    assert results.figures["lowest_cosine"] == pytest.approx(np.cos(0.2), abs=1e-6)
    assert results.figures["mean_cosine"] == pytest.approx((3 + np.cos(0.2)) / 4, abs=1e-6)
    assert [text.split()[0] for text in failures(results, "int8")] == ["lowest_cosine", "mean_cosine"]


def test_embeddings_that_are_not_finite_are_refused():
    broken = Fixed(SOURCE.queries, SOURCE.products * np.float32(np.nan))

    with pytest.raises(ModelError, match="not finite"):
        measure(SOURCE, broken, SAMPLE, "int8")


def test_the_overlap_counts_the_products_that_both_rank():
    angles = np.arange(20) * 0.1
    queries, products = unit(0), unit(*angles)
    moved = angles.copy()
    moved[[0, 1]] = 2.5, 2.6  # two of the ten nearest products move away, and two others take their places

    assert overlap((queries, products), (queries, products)) == 1
    assert overlap((queries, products), (queries, unit(*moved))) == pytest.approx(0.8)


def test_a_tie_for_the_last_place_counts_as_the_same_ranking():
    tied = unit(*np.zeros(12))

    assert overlap((unit(0), tied), (unit(0), tied[::-1].copy())) == 1


def test_the_difference_of_ndcg_is_that_of_the_rankings():
    queries, products = unit(0, 1), unit(0, 0.4, 1)
    judgements = Judgements(("q1", "q2"), ("p1", "p2", "p3"), {"q1": {"p1": 1.0}, "q2": {"p3": 1.0}})
    # The first query now finds its product second: nDCG falls from 1 to 1 / log2(3).
    turned = unit(0.3, 1)

    figures = ndcg_figures((queries, products), (turned, products), judgements)

    fall = 1 / np.log2(3) - 1
    assert figures["ndcg@10_source"] == 1
    assert figures["ndcg@10_difference"] == pytest.approx(fall / 2)
    assert figures["ndcg@10_difference_low"] == pytest.approx(fall)
    assert figures["judged_queries"] == 2


def test_texts_with_other_tokens_are_refused_with_the_text(tiny_bert):
    encoder = load_encoder(tiny_bert, device="cpu")
    other = load_encoder(tiny_bert, device="cpu")
    other.tokenizer.backend_tokenizer.normalizer = None  # upper case and accents stay

    assert check_tokens(encoder, encoder, SAMPLE) == 1000
    with pytest.raises(ModelError, match="other tokens than its tokenizer for the text"):
        check_tokens(encoder, other, SAMPLE)


def test_the_sample_has_texts_of_every_length_and_script(tiny_bert):
    encoder = load_encoder(tiny_bert, device="cpu")
    sample = sample_shop_texts()

    texts = tokenizer_texts(sample, encoder.tokenizer)

    assert min(len(text.split()) for text in sample.queries) == 1
    assert max(len(text.split()) for text in sample.products) > 512
    assert len(texts) == 1000
    assert max(map(len, texts)) > 40_000
    assert any("[SEP]" in text for text in texts)
    assert {"CJK", "ARABIC", "CYRILLIC"} <= scripts(texts)
    assert sample_shop_texts() == sample


def scripts(texts):
    import unicodedata

    return {unicodedata.name(letter, "").split()[0] for text in texts for letter in text if letter.isalpha()}


@pytest.mark.parametrize("side", ["encode_queries", "encode_products"])
@pytest.mark.parametrize(("precision", "step"), [("int8", 1e-7), ("fp32", 2e-6)])
def test_an_embedding_that_depends_on_its_batch_fails(side, precision, step):
    class Shifting(Fixed):
        pass

    def shifted(self, texts):
        return getattr(Fixed, side)(self, texts) + np.float32(step * (len(texts) - 1))

    setattr(Shifting, side, shifted)

    results = measure(SOURCE, Shifting(SOURCE.queries, SOURCE.products), SAMPLE, precision)

    assert results.figures["greatest_difference_in_a_batch"] == pytest.approx(step, rel=0.5)
    assert results.failed == ("greatest_difference_in_a_batch",)


class Hashed:
    """An encoder with a direction for each text; `turned` texts turn by an angle."""

    def __init__(self, turned=(), angle=0.0):
        self.turned, self.angle = frozenset(turned), angle

    def encode_queries(self, texts):
        angles = [float(np.frombuffer(text.encode().ljust(8)[-8:], np.uint64)[0] % 1000) for text in texts]
        return unit(
            *(one + self.angle * (text in self.turned) for one, text in zip(angles, texts, strict=True))
        )

    encode_products = encode_queries


def texts(word, count):
    return [f"{word} {number}" for number in range(count)]


@pytest.mark.parametrize(
    ("products", "queries", "measured"),
    [(100, 25, True), (99, 25, False), (100, 24, False)],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_rankings_are_compared_only_with_enough_products_and_queries(precision, products, queries, measured):
    ids = texts("q", queries), texts("p", products)
    judgements = Judgements(*ids, {query: {"p 0": 1.0} for query in ids[0]})
    sample = SampleTexts(texts("query", queries), texts("product", products), judgements)

    results = measure(Hashed(), Hashed(), sample, precision)

    rankings = {"top10_overlap", "ndcg@10_difference"}
    assert set(results.figures) & rankings == (rankings if measured else set())
    assert results.passed
    reason = (
        f"needs at least 100 products and 25 queries with different texts, found {products} and {queries}"
    )
    names = ("top10_overlap", "ndcg@10_difference")
    assert results.not_measured == (() if measured else tuple(f"{name}: {reason}" for name in names))


def test_a_text_that_occurs_often_counts_once():
    results = measure(Hashed(), Hashed(), SampleTexts(texts("query", 25), ["sofa"] * 500), "fp32")

    assert "top10_overlap" not in results.figures
    assert results.not_measured[0].endswith("found 1 and 25")


def test_added_texts_are_compared_but_not_ranked():
    sample = SampleTexts(texts("query", 25), texts("product", 100))
    added = replace(sample, added_queries=texts("more", 5), added_products=texts("long", 5))

    for wrong in ("more 4", "long 4"):
        results = measure(Hashed(), Hashed([wrong], 0.2), added, "int8")
        assert results.failed == ("lowest_cosine",)
        assert results.figures["texts"] == 135
        assert results.figures["top10_overlap"] == 1
        assert measure(Hashed(), Hashed([wrong], 0.2), sample, "int8").passed


def test_added_texts_do_not_raise_the_mean_of_a_users_texts():
    own = texts("product", 100)
    sample = SampleTexts(texts("query", 25), own, None, (), texts("long", 400))
    turned = Hashed(own, 0.06)  # a cosine of .9982: the mean of 125 texts is .9986, of all 525 .9997

    results = measure(Hashed(), turned, sample, "int8")

    assert results.failed == ("mean_cosine",)
    assert results.figures["mean_cosine"] == pytest.approx((25 + 100 * np.cos(0.06)) / 125, abs=1e-6)


def test_the_last_product_is_also_embedded_alone():
    class Shifting(Fixed):
        def encode_products(self, texts):
            found = super().encode_products(texts)
            return found + np.float32(1e-5 * (len(texts) - 1)) * (np.array(texts) == "d")[:, None]

    results = measure(SOURCE, Shifting(SOURCE.queries, SOURCE.products), SAMPLE, "int8")

    assert results.failed == ("greatest_difference_in_a_batch",)


def test_tokens_are_compared_on_texts_from_everywhere_in_the_sample(tiny_bert):
    encoder = load_encoder(tiny_bert, device="cpu")
    sample = SampleTexts(
        texts("query", 2_000), texts("product", 2_000), None, texts("more", 40), ["a " * 600]
    )

    found = tokenizer_texts(sample, encoder.tokenizer)

    assert len(found) == 1000
    assert {"query", "product", "more"} <= {text.split()[0] for text in found[6:506]}


def test_the_added_texts_have_queries_and_products_of_every_length():
    shop = sample_shop_texts()

    added = added_texts(shop)

    assert {len(text.split()) for text in added.queries} == {len(text.split()) for text in shop.queries}
    assert added.products[-4:] == shop.products[-4:]
    assert min(len(text.split()) for text in added.products[-4:]) > 512
    assert any(20 < len(text.split()) < 100 for text in added.products)
    assert len(added.queries) + len(added.products) < len(shop.queries + shop.products) / 4
