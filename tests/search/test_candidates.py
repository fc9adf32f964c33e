"""Candidate sets by hand: totals, pages, scores and ranks of each mode, and what is refused."""

import numpy as np
import pytest

from aisle.errors import SearchError
from aisle.index import open_index
from aisle.index.filters import Filter
from aisle.search.candidates import Total
from aisle.search.searcher import Searcher
from tests.search.word_encoder import WordEncoder, write_shop

ENCODER = WordEncoder()
TITLES = ["red sofa", "blue sofa", "red lamp", "oak table", "red sofa bed"]


def searcher_of(index_dir, titles=TITLES, **settings):
    write_shop(index_dir, titles=titles)
    return Searcher(open_index(index_dir), ENCODER, exact=True, **settings)


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    return searcher_of(tmp_path_factory.mktemp("candidates") / "index")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A searcher of 60 products, priced 0 to 59."""
    return searcher_of(tmp_path_factory.mktemp("candidates") / "shop", titles=None)


def test_mode_dense_ranks_all_products_and_counts_the_window(searcher):
    (all_,) = searcher.candidates(["red sofa"])
    (cut,) = searcher.candidates(["red sofa"], window=3)

    assert all_.total == Total(5, "eq")
    assert cut.total == Total(3, "gte")
    assert cut.product_ids.tolist() == all_.product_ids[:3].tolist()
    assert cut.product_ids[0] == "p000"
    assert all_.dense_rank.tolist() == [1, 2, 3, 4, 5]
    assert all_.bm25_rank.tolist() == [0] * 5
    np.testing.assert_array_equal(all_.score, all_.dense)
    assert all_.bm25 is None
    assert all_.fused is None


def test_a_window_as_large_as_the_catalogue_cuts_nothing_off(searcher):
    assert [searcher.candidates(["sofa"], window=size)[0].total for size in (4, 5)] == [
        Total(4, "gte"),
        Total(5, "eq"),
    ]


def test_a_window_that_ends_below_the_least_score_cuts_nothing_off(searcher):
    (found,) = searcher.candidates(["red sofa"])
    third, fourth = found.score[2:4]

    above = [
        searcher.candidates(["red sofa"], window=3, min_score=float(score))[0] for score in (third, fourth)
    ]

    assert [each.total for each in above] == [Total(3, "eq"), Total(3, "gte")]


def test_mode_lexical_counts_all_products_with_a_word_and_pages_through_the_window(searcher):
    (found,) = searcher.candidates(["red sofa"], mode="lexical", window=2)

    assert found.total == Total(4, "eq")
    assert found.product_ids.tolist() == ["p000", "p004"]
    assert found.unranked.tolist() == [1, 2]
    assert found.bm25_rank.tolist() == [1, 2]
    assert found.dense_rank.tolist() == [0, 0]
    assert sum(count for _, count in found.facets(["title"])["title"].values) == 4


def test_mode_hybrid_joins_both_windows(searcher):
    """By cosine "red sofa" is nearest to itself; by words "oak" is only in one product."""
    close = ENCODER.encode_queries(["red sofa"])

    (found,) = searcher.candidates(["oak"], mode="hybrid", window=1, weight=0.9, query_embeddings=close)

    assert found.total == Total(2, "gte")
    assert found.product_ids.tolist() == ["p000", "p003"]
    assert found.dense_rank.tolist() == [1, 0]
    assert found.bm25_rank.tolist() == [0, 1]
    highest = searcher.index.lexical.highest_score("oak")
    by_hand = 0.9 * (found.dense.astype(float) + 1) / 2 + 0.1 * found.bm25.astype(float) / highest
    np.testing.assert_allclose(found.fused, by_hand, atol=1e-6)


@pytest.mark.parametrize("fusion", ["convex", "rrf"])
def test_mode_hybrid_has_the_order_of_a_search(shop, fusion):
    shop = Searcher(shop.index, ENCODER, exact=True, fusion=fusion)
    expected = shop.search(["blue lamp"], 60, mode="hybrid")

    (found,) = shop.candidates(["blue lamp"], mode="hybrid")

    assert found.product_ids.tolist() == expected.product_ids[0].tolist()
    np.testing.assert_array_equal(found.score, expected.scores[0])
    np.testing.assert_array_equal(found.dense, expected.cosines[0])


def test_a_product_named_by_its_id_needs_no_least_cosine(shop):
    (found,) = shop.candidates(["p007"], mode="hybrid", min_score=1.5)

    assert (found.product_ids.tolist(), found.total) == (["p007"], Total(1, "eq"))


def test_a_candidate_has_rank_scores_payload_and_text(searcher):
    dense, lexical, hybrid = (
        searcher.candidates(["red sofa"], mode=mode)[0].page(0, 5) for mode in ("dense", "lexical", "hybrid")
    )

    first = hybrid[0]
    assert (first.product_id, first.rank, first.row, first.text) == ("p000", 1, 0, "red sofa")
    assert first.payload == {"title": "red sofa", "price": 0}
    assert first.scores["dense"] == pytest.approx(1, abs=1e-6)
    assert set(first.scores) == {"dense", "bm25", "fused"}
    assert first.ranks == {"dense": 1, "bm25": 1}
    assert hybrid[-1].ranks == {"dense": 5}
    assert (set(dense[0].scores), set(lexical[0].scores)) == ({"dense"}, {"bm25"})
    assert [hit.rank for hit in dense] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_a_filter_is_evaluated_once_for_total_page_facets_and_both_sides(shop, monkeypatch, mode):
    masks = []
    mask = Filter.mask

    def counted(self, products, **options):
        masks.append(self.text)
        return mask(self, products, **options)

    monkeypatch.setattr(Filter, "mask", counted)
    (found,) = shop.candidates(["red sofa"], where="price < 40", mode=mode, window=20)
    found.page(0, 10)
    found.facets(["price"])
    assert masks == ["price < 40"]

    shop.search(["red sofa"], where="price < 30", mode=mode)
    assert masks == ["price < 40", "price < 30"]


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_a_mask_finds_what_its_condition_finds(shop, mode):
    index, embeddings = shop.index, ENCODER.encode_queries(["red sofa"])

    by_text, by_mask = (
        index.search(embeddings, queries=["red sofa"], mode=mode, top_k=9, where=where)
        for where in ("price < 40", index.satisfying("price < 40"))
    )

    assert by_mask.product_ids.tolist() == by_text.product_ids.tolist()
    np.testing.assert_array_equal(by_mask.scores, by_text.scores)
    for wrong in (np.ones(59, np.bool_), np.ones(60, np.int64)):
        with pytest.raises(SearchError, match=r"where: a mask must have the type bool and the shape \(60,\)"):
            index.search(embeddings, queries=["red sofa"], mode=mode, top_k=9, where=wrong)


def test_a_filter_defines_the_set(shop):
    (found,) = shop.candidates(["sofa"], where="price < 7", window=7)
    (cut,) = shop.candidates(["sofa"], where="price < 8", window=7)
    (nothing,) = shop.candidates(["sofa"], where="price < 0", mode="hybrid")

    assert (found.total, cut.total, nothing.total) == (Total(7, "eq"), Total(7, "gte"), Total(0, "eq"))
    assert sorted(hit.payload["price"] for hit in found.page(0, 7)) == list(range(7))
    assert nothing.page() == []
    assert nothing.grouped("title").page() == []
    assert nothing.facets(["title"])["title"].values == []


def test_pages_end_with_the_set(shop):
    (found,) = shop.candidates(["lamp"], mode="lexical", window=100)

    assert len(found.page(found.total.value - 1, 10)) == 1
    assert found.page(found.total.value, 10) == []
    assert found.page(5, 0) == []


@pytest.mark.parametrize("paged", ["set", "groups"])
def test_a_page_has_the_columns_asked_for(shop, paged):
    (found,) = shop.candidates(["lamp"], mode="lexical")
    pages = found if paged == "set" else found.grouped("price")

    def hits(**columns):
        page = pages.page(2, 3, **columns)
        return page if paged == "set" else [group.hits[0] for group in page]

    everything, priced, bare = hits(), hits(columns=["price"]), hits(columns=[])

    assert [hit.payload for hit in priced] == [{"price": hit.payload["price"]} for hit in everything]
    assert [hit.payload for hit in bare] == [{}] * 3
    assert priced == bare == everything  # ids, scores and ranks
    assert [hit.text for hit in bare] == [hit.text for hit in everything]
    with pytest.raises(SearchError, match="columns: there is no column 'prise'; did you mean 'price'"):
        hits(columns=["prise"])


@pytest.mark.parametrize("paged", ["set", "groups"])
@pytest.mark.parametrize(
    ("page", "message"),
    [
        ((15, 6), r"at most the window of 20, found 15 \+ 6"),
        ((-1, 5), "offset: must be at least 0, found -1"),
        ((0, -1), "top_k: must be at least 0, found -1"),
        ((0, 2.5), "top_k: must be a whole number, found 2.5"),
    ],
)
def test_a_page_out_of_range_is_named(shop, page, message, paged):
    (found,) = shop.candidates(["lamp"], window=20)

    with pytest.raises(SearchError, match=message):
        (found if paged == "set" else found.grouped("title")).page(*page)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": "sofa"}, "queries must be a list of queries; found the text 'sofa'"),
        ({"window": 0}, "window: must be at least 1, found 0"),
        ({"mode": "fuzzy"}, "mode: must be one of dense, lexical, hybrid, found 'fuzzy'"),
        ({"where": "cost < 5"}, "no column 'cost'"),
        ({"min_score": float("nan")}, "min_score: must be a finite number, found nan"),
        ({"query_embeddings": ENCODER.encode_queries(["a", "b"])}, "those of the 1 queries, found 2"),
        ({"weight": 2.0, "mode": "hybrid"}, "weight"),
    ],
)
def test_arguments_out_of_range_are_named(searcher, arguments, message):
    with pytest.raises(SearchError, match=message):
        searcher.candidates(**({"queries": ["sofa"]} | arguments))


def test_a_searcher_that_reranks_has_no_candidate_sets(searcher):
    reranking = Searcher(searcher.index, ENCODER, rerank=lambda query, hits: [0.0] * len(hits))

    with pytest.raises(SearchError, match="candidates: the searcher has a rerank stage"):
        reranking.candidates(["sofa"])
