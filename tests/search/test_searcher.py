"""The searcher: an index, its encoder and search settings behind one call."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

import aisle
from aisle.errors import FingerprintMismatchError, IndexStoreError, ModelError, SearchError
from aisle.index import delete_products, open_index, rollback, upsert_products
from aisle.index.manifest import EMBEDDINGS_FILE
from aisle.search.searcher import Searcher
from tests.search.word_encoder import WordEncoder, write_shop

TITLES = ["red sofa", "blue lamp", "oak table", "oak bed"]
QUERIES = ["red sofa", "oak", "lamp zeppelin"]
ENCODER = WordEncoder()


@pytest.fixture
def index_dir(tmp_path):
    write_shop(tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture
def index(index_dir):
    return open_index(index_dir)


@pytest.fixture
def searcher(index):
    return Searcher(index, ENCODER)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.product_ids, expected.product_ids)
    assert (found.cosines is None) == (expected.cosines is None)
    if found.cosines is not None:
        np.testing.assert_array_equal(found.cosines, expected.cosines)


# --- modes, filters, scores


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
@pytest.mark.parametrize("where", [None, "price < 30"])
def test_answers_are_those_of_the_index(index, searcher, mode, where):
    found = searcher.search(QUERIES, 7, where, mode=mode)

    embeddings = ENCODER.encode_queries(QUERIES)
    assert_same(found, index.search(embeddings, queries=QUERIES, mode=mode, top_k=7, where=where))
    assert found.version == 1


def test_a_search_can_override_the_settings_of_the_searcher(index):
    searcher = Searcher(index, ENCODER, mode="hybrid", weight=0.2, exact=True)
    embeddings = ENCODER.encode_queries(QUERIES)
    common = {"queries": QUERIES, "top_k": 5, "mode": "hybrid", "exact": True}

    assert_same(searcher.search(QUERIES, 5), index.search(embeddings, weight=0.2, **common))
    assert_same(searcher.search(QUERIES, 5, weight=0.9), index.search(embeddings, weight=0.9, **common))
    rrf = Searcher(index, ENCODER, mode="hybrid", fusion="rrf", exact=True)
    assert_same(rrf.search(QUERIES, 5), index.search(embeddings, fusion="rrf", **common))


def test_the_searcher_s_condition_applies_to_every_search(index):
    searcher = Searcher(index, ENCODER, where="price < 30 or price == 50")

    found = searcher.search(["sofa"], 60, "price >= 20")[0]

    assert sorted(hit.payload["price"] for hit in found) == [*range(20, 30), 50]


def test_a_condition_of_a_search_cannot_lift_the_searcher_s(index):
    searcher = Searcher(index, ENCODER, where="price < 30")

    with pytest.raises(SearchError):
        searcher.search(["sofa"], 60, "price > 100) or (price >= 0")


def test_embeddings_of_the_queries_may_be_given(index, searcher):
    embeddings = ENCODER.encode_queries(QUERIES)[::-1]

    found = searcher.search(QUERIES, 5, query_embeddings=embeddings)

    assert_same(found, index.search(embeddings, top_k=5))


def test_hits_have_rank_id_scores_payload_and_text(tmp_path):
    write_shop(tmp_path / "index", titles=TITLES)
    searcher = Searcher(open_index(tmp_path / "index"), ENCODER)

    dense, hybrid = (searcher.search(["red sofa"], 4, mode=mode)[0] for mode in ("dense", "hybrid"))

    assert [hit.rank for hit in dense] == [1, 2, 3, 4]
    first = hybrid[0]
    assert (first.product_id, first.text, first.payload) == (
        "p000",
        "red sofa",
        {"title": "red sofa", "price": 0},
    )
    assert first.cosine == pytest.approx(1.0, abs=1e-6)
    assert dense[0].cosine is None
    assert dense[0].score == pytest.approx(1.0, abs=1e-6)


# --- the least score


def by_hand(index, query, *, mode, top_k, min_score):
    """Return ids of the best products with the least score, out of a ranking of all products."""
    full = index.search(
        ENCODER.encode_queries([query]), queries=[query], mode=mode, top_k=len(index), exact=True
    )
    judged = full.scores if full.cosines is None else full.cosines
    answer = zip(full.product_ids[0], judged[0], strict=True)
    return [product for product, score in answer if product and score >= min_score][:top_k]


@pytest.mark.parametrize(("mode", "min_score"), [("dense", 0.4), ("lexical", 0.5), ("hybrid", 0.4)])
@pytest.mark.parametrize("query", ["blue lamp", "white shelf desk", "green"])
def test_products_below_min_score_are_left_out(index, searcher, mode, min_score, query):
    found = searcher.search([query], 8, mode=mode, min_score=min_score, exact=True)

    expected = by_hand(index, query, mode=mode, top_k=8, min_score=min_score)
    assert [hit.product_id for hit in found[0]] == expected
    assert len(expected) > 0
    assert [hit.rank for hit in found[0]] == list(range(1, len(expected) + 1))


def test_a_least_cosine_is_looked_for_below_the_best_of_a_hybrid_order(tmp_path):
    """The best by fused score match the words but not the cosine; the product with the cosine follows."""
    titles = ["lamp lamp", "lamp blue", "lamp red", "sofa bed"]
    write_shop(tmp_path / "index", titles=titles)
    searcher = Searcher(open_index(tmp_path / "index"), ENCODER, mode="hybrid", weight=0.0)
    close = ENCODER.encode_queries(["sofa bed"])

    found = searcher.search(["lamp"], 1, min_score=0.9, query_embeddings=close)

    assert [hit.product_id for hit in found[0]] == ["p003"]


def test_a_product_named_by_its_id_needs_no_least_cosine(searcher):
    found = searcher.search(["p007", "sofa"], 5, mode="hybrid", min_score=1.5)

    assert [[hit.product_id for hit in hits] for hits in found] == [["p007"], []]


# --- rerank


def by_price(_, hits):
    return [-hit.payload["price"] for hit in hits]


def test_the_rerank_stage_orders_the_best_candidates_of_each_query(index):
    plain = Searcher(index, ENCODER).search(QUERIES, 12)
    found = Searcher(index, ENCODER, rerank=by_price, rerank_depth=12).search(QUERIES, 3)

    for hits, candidates in zip(found, plain, strict=True):
        cheapest = sorted(candidates, key=lambda hit: hit.payload["price"])[:3]
        assert [hit.product_id for hit in hits] == [hit.product_id for hit in cheapest]
        assert [hit.score for hit in hits] == [-hit.payload["price"] for hit in cheapest]
        assert [hit.cosine for hit in hits] == [hit.score for hit in cheapest]
        assert [hit.rank for hit in hits] == [1, 2, 3]


def test_a_rerank_stage_gets_query_text_and_first_scores(index):
    seen = []

    def keep_order(query, hits):
        seen.append((query, [hit.text for hit in hits], [hit.score for hit in hits]))
        return [0.0] * len(hits)

    plain = Searcher(index, ENCODER).search(QUERIES, 5)
    found = Searcher(index, ENCODER, rerank=keep_order, rerank_depth=1).search(QUERIES, 5)

    assert [[hit.product_id for hit in hits] for hits in found] == plain.product_ids.tolist()
    assert seen == [
        (query, [hit.payload["title"] for hit in hits], [hit.score for hit in hits])
        for query, hits in zip(QUERIES, plain, strict=True)
    ]


def test_short_answers_are_reranked_too(index):
    searcher = Searcher(index, ENCODER, mode="lexical", rerank=by_price, rerank_depth=50)

    found = searcher.search(["p007", "zeppelin", "red"], 60)

    assert [hit.product_id for hit in found[0]] == ["p007"]
    assert found[1] == []
    prices = [hit.payload["price"] for hit in found[2]]
    assert prices == sorted(prices)
    assert 1 < len(prices) < 60


@pytest.mark.parametrize("scores", [[1.0], [float("nan")] * 3, [1.0] * 4])
def test_a_rerank_stage_with_wrong_scores_is_an_error(index, scores):
    searcher = Searcher(index, ENCODER, rerank=lambda query, hits: scores, rerank_depth=3)

    with pytest.raises(SearchError, match="rerank: must return a finite score for each of the 3 candidates"):
        searcher.search(["sofa"], 3)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": "sofa"}, "queries must be a list of queries; found the text 'sofa'"),
        ({"top_k": 0}, "top_k: must be at least 1, found 0"),
        ({"top_k": 2.5}, "top_k: must be a whole number, found 2.5"),
        ({"mode": "fuzzy"}, "mode: must be one of dense, lexical, hybrid, found 'fuzzy'"),
        ({"where": "cost < 5"}, "no column 'cost'"),
        ({"weight": 2.0, "mode": "hybrid"}, "weight"),
    ],
)
def test_arguments_out_of_range_are_named(searcher, arguments, message):
    with pytest.raises(SearchError, match=message):
        searcher.search(**({"queries": QUERIES} | arguments))


def test_a_mode_that_needs_an_encoder_is_refused_without_it(index):
    with pytest.raises(SearchError, match="searcher has no encoder, which mode 'dense' and 'hybrid' need"):
        Searcher(index, mode="lexical").search(["sofa"], mode="dense")


def test_another_encoder_is_refused(index):
    with pytest.raises(FingerprintMismatchError, match=f"made by {'f' * 64}.*queried with {'e' * 64}"):
        Searcher(index, WordEncoder("e" * 64))
    with pytest.raises(SearchError, match="embeddings of 32 components, as the index has, found 16"):
        Searcher(index, WordEncoder(dim=16))


# --- new versions


def upsert(index_dir, product_id, title, encoder=ENCODER):
    return upsert_products(
        index_dir,
        products=pa.table({"product_id": [product_id], "__text__": [title], "title": [title], "price": [0]}),
        embeddings=[encoder.encode_products([title])],
        fingerprint=encoder.fingerprint,
        threads=1,
    )


def test_reload_if_changed_opens_new_versions(index_dir, searcher):
    assert searcher.reload_if_changed() is False
    upsert(index_dir, "new", "zeppelin")
    before = searcher.search(["zeppelin"], 1, mode="lexical")

    assert searcher.reload_if_changed() is True

    after = searcher.search(["zeppelin"], 1)
    assert (before.version, list(before)) == (1, [[]])
    assert (after.version, after[0][0].product_id) == (2, "new")
    assert searcher.encoder is ENCODER
    assert searcher.reload_if_changed() is False
    rollback(index_dir)
    assert searcher.reload_if_changed() is True
    assert (searcher.version, len(searcher.index)) == (1, 60)


def test_results_of_an_old_version_keep_their_payload(index_dir, searcher):
    found = searcher.search(["sofa"], 60)
    expected = found.payloads(0)

    delete_products(index_dir, ["p000"])
    searcher.reload_if_changed()

    assert [hit.payload for hit in found[0]] == expected
    assert len(searcher.search(["sofa"], 60)[0]) == 59


def test_a_rebuilt_index_with_the_same_version_number_is_a_change(tmp_path):
    import shutil

    write_shop(tmp_path / "index", titles=TITLES)
    searcher = Searcher(open_index(tmp_path / "index"), ENCODER)
    shutil.rmtree(tmp_path / "index")
    write_shop(tmp_path / "index", titles=TITLES[:3])

    assert searcher.reload_if_changed() is True
    assert (searcher.version, len(searcher.index)) == (1, 3)


def test_the_encoder_of_a_new_version_is_loaded_before_the_switch(index_dir, index):
    other = WordEncoder("e" * 64)
    searcher = Searcher(index, ENCODER, load_encoder=lambda version: other)
    write_shop(index_dir, other, titles=TITLES)

    assert searcher.reload_if_changed() is True

    assert searcher.encoder is other
    assert searcher.search(["oak bed"], 1)[0][0].product_id == "p003"


def fail(_):
    raise ModelError("the new encoder is not there")


@pytest.mark.parametrize("load_encoder", [None, fail])
def test_the_old_version_answers_if_the_new_encoder_cannot_be_loaded(index_dir, index, load_encoder):
    searcher = Searcher(index, ENCODER, load_encoder=load_encoder)
    expected = searcher.search(QUERIES, 5)
    write_shop(index_dir, WordEncoder("e" * 64), titles=TITLES)

    reason = "queried with f" if load_encoder is None else "the new encoder is not there"
    for _ in range(2):
        with pytest.raises(IndexStoreError, match=rf"version 1 keeps answering: .*{reason}"):
            searcher.reload_if_changed()
        assert_same(searcher.search(QUERIES, 5), expected)


def test_the_old_version_answers_if_the_new_one_is_damaged(index_dir, searcher):
    expected = searcher.search(QUERIES, 5)
    upsert(index_dir, "new", "zeppelin")
    damaged = index_dir / "versions" / "000002" / EMBEDDINGS_FILE
    damaged.write_bytes(damaged.read_bytes()[:-1])

    with pytest.raises(IndexStoreError, match=r"version 1 keeps answering: .*embeddings\.npy"):
        searcher.reload_if_changed()

    assert_same(searcher.search(QUERIES, 5), expected)


def test_the_old_version_answers_if_the_new_one_lacks_the_condition_s_columns(index_dir, index):
    searcher = Searcher(index, ENCODER, where="price < 30")
    write_shop(index_dir, payload=pa.table({"title": ["x"] * 60}))

    with pytest.raises(IndexStoreError, match=r"version 1 keeps answering: .*no column 'price'"):
        searcher.reload_if_changed()

    assert len(searcher.search(["sofa"], 60)[0]) == 30


# --- opening


def test_a_lexical_searcher_opens_without_torch_and_without_its_encoder(index_dir):
    code = (
        "import aisle, sys\n"
        f"searcher = aisle.open_searcher({str(index_dir)!r}, mode='lexical')\n"
        "assert searcher.search(['p007'], 1)[0][0].product_id == 'p007'\n"
        "sys.exit('torch' in sys.modules)"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_searcher_opens_with_the_encoder_that_the_index_names(tiny_bert, tmp_path):
    encoder = aisle.load_encoder(tiny_bert, device="cpu")
    write_shop(tmp_path / "index", encoder, titles=TITLES, encoder={"model": str(tiny_bert)})

    searcher = aisle.open_searcher(tmp_path / "index", mode="hybrid")

    assert [hits[0].product_id for hits in searcher.search(TITLES, 1)] == ["p000", "p001", "p002", "p003"]
    assert repr(searcher) == (
        f"Searcher(version 1 of {tmp_path / 'index'}, 4 products, mode hybrid, fingerprint "
        f"{encoder.fingerprint[:12]})"
    )


def test_a_condition_that_does_not_fit_is_refused_before_the_encoder_is_loaded(index_dir, monkeypatch):
    monkeypatch.setattr("aisle.search.encoders.encoder_of_index", lambda *_, **__: pytest.fail("loaded"))

    with pytest.raises(SearchError, match="no column 'cost'"):
        aisle.open_searcher(index_dir, where="cost < 5")
