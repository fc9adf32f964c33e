"""POST /search with `rerank`: the order of the first products, pages, totals, and errors."""

import numpy as np
import pytest

from aisle.search.open_searcher import open_searcher
from aisle.search.rerank_stage import RerankStage, rerank_by
from aisle.search.reranked_candidates import rerank_candidates
from aisle.search.rerankers import Reranker
from aisle.service.engine import Engine
from aisle.service.service_limits import ServiceLimits
from tests.service.test_search_route import ids
from tests.service.test_status_routes import samples

ASKED = {"query": "oak lamp", "top_k": 8}


def logit(title):
    """Return the score of a title: its letters "e" and "a", so that some titles have the same."""
    return float(title.count("e") - title.count("a"))


class LetterReranker:
    """Scores titles, and keeps how many pairs each call had."""

    def __init__(self):
        self.calls = []
        self.reranker = Reranker("letters", self.score)

    def score(self, pairs):
        self.calls.append(len(pairs))
        return [logit(title) for _, title in pairs]


@pytest.fixture
def letters():
    return LetterReranker()


@pytest.fixture
def client(shop, letters):
    engine = Engine(shop.pair(), reranker=letters.reranker)
    with shop.client(engine=engine, limits=ServiceLimits(max_rerank_texts=20)) as client:
        yield client


def titles(answer):
    return [hit["fields"]["title"] for hit in answer["hits"]]


@pytest.mark.parametrize("mode", ["dense", "hybrid"])
def test_the_first_products_are_ordered_by_the_reranker_and_the_others_follow(client, mode):
    plain = client.post("/search", json={**ASKED, "mode": mode}).json()

    found = client.post("/search", json={**ASKED, "mode": mode, "rerank": {"top_n": 6}}).json()

    first = titles(plain)[:6]
    logits = np.array([logit(title) for title in first])
    order = np.argsort(-logits, kind="stable")
    assert titles(found) == [first[at] for at in order] + titles(plain)[6:]
    assert titles(found) != titles(plain)
    assert [hit["rank"] for hit in found["hits"]] == list(range(1, 9))
    reranked = [hit["scores"].get("rerank") for hit in found["hits"]]
    assert reranked == [*logits[order], None, None]
    # Everything else about a product, and the set, is that of the search.
    before = {hit["id"]: hit for hit in plain["hits"]}
    for hit in found["hits"]:
        assert hit["score"] == before[hit["id"]]["score"]
        assert hit["ranks"] == before[hit["id"]]["ranks"]
        assert {name: hit["scores"][name] for name in before[hit["id"]]["scores"]} == before[hit["id"]][
            "scores"
        ]
    assert found["total"] == plain["total"]
    assert found["took_ms"]["rerank"] >= 0


def test_pages_facets_and_groups_follow_the_reranked_order(client):
    asked = {**ASKED, "rerank": {"top_n": 5}, "facets": ["brand"], "group_by": "brand"}
    whole = client.post("/search", json={**ASKED, "rerank": {"top_n": 5}}).json()

    pages = [
        client.post("/search", json={**ASKED, "top_k": 3, "offset": offset, "rerank": {"top_n": 5}}).json()
        for offset in (0, 3, 6)
    ]
    grouped = client.post("/search", json=asked).json()
    plain = client.post("/search", json={**asked, "rerank": None}).json()

    assert [one for page in pages for one in ids(page)] == ids(whole)
    assert grouped["facets"] == plain["facets"]
    best = {}
    for hit in whole["hits"]:
        brand = hit["fields"]["brand"]
        best.setdefault(hit["id"] if brand is None else brand, hit["id"])
    assert ids(grouped) == list(best.values())


def test_the_searcher_and_the_service_give_the_same_order(client, shop, letters):
    searcher = open_searcher(
        shop.index_dir, mode="hybrid", rerank=rerank_by(letters.reranker), rerank_depth=6
    )

    answer = client.post("/search", json={**ASKED, "mode": "hybrid", "rerank": {"top_n": 6}}).json()

    assert [hit.product_id for hit in searcher.search([ASKED["query"]], 6)[0]] == ids(answer)[:6]


def test_each_of_several_queries_is_reranked_and_counted(client, letters):
    asked = {"queries": ["oak", "rug"], "rerank": {"top_n": 8}, "filter": "price < 50"}

    answer = client.post("/search", json=asked).json()

    found = [[hit["scores"]["rerank"] for hit in result["hits"]] for result in answer["results"]]
    assert found == [sorted(scores, reverse=True) for scores in found]
    assert letters.calls == [5, 5]
    assert samples(client)["aisle_phase_seconds_count", "rerank", "tuned"] == 1


def test_an_empty_set_needs_no_reranker(client, letters):
    answer = client.post("/search", json={**ASKED, "rerank": {"top_n": 5}, "filter": "price < 0"})

    assert (answer.status_code, answer.json()["hits"], letters.calls) == (200, [], [])


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"rerank": {"top_n": 0}}, 422, "greater than or equal to 1"),
        ({"rerank": {"top_n": 21}}, 422, "at most 20 products in a request (queries x top_n), found 21"),
        ({"rerank": {"top_n": 11}, "query": None, "queries": ["a", "b"]}, 422, "found 22"),
        ({"rerank": {"limit": 3}}, 422, "did you mean 'top_n'?"),
        ({"rerank": True}, 422, "rerank"),
        ({"rerank": {"top_n": 5}, "explain": True}, 422, "explain is of the search's own order"),
        ({"rerank": {"top_n": 5}, "query": None, "vector": [1.0]}, 422, "reads the query: give it beside"),
    ],
)
def test_a_wrong_request_is_refused_with_the_field(client, change, status, message):
    answer = client.post(
        "/search", json={name: v for name, v in {**ASKED, **change}.items() if v is not None}
    )

    error = answer.json()["error"]
    assert answer.status_code == status
    assert message in error["message"]
    assert error["field"] in ("rerank", "limit")


def test_a_server_without_a_reranker_or_with_one_that_fails_says_so(shop, caplog):
    with shop.client() as client:
        refused = client.post("/search", json={**ASKED, "rerank": {"top_n": 5}})
    assert (refused.status_code, refused.json()["error"]["field"]) == (501, "rerank")

    def score(pairs):
        raise ZeroDivisionError("secret")

    with shop.client(engine=Engine(shop.pair(), reranker=Reranker("broken", score))) as client:
        failed = client.post("/search", json={**ASKED, "rerank": {"top_n": 5}})
        assert client.post("/search", json=ASKED).status_code == 200
    assert (failed.status_code, failed.json()["error"]["type"]) == (500, "internal_error")
    assert "secret" not in failed.text
    assert "reranker broken: failed" in caplog.text


def test_equal_scores_keep_the_order_of_the_search(shop):
    (found,) = open_searcher(shop.index_dir, mode="hybrid").candidates(["oak lamp"])

    equal = rerank_candidates(found, RerankStage(Reranker("equal", lambda pairs: [0.5] * len(pairs))), 5)

    assert equal.rows.tolist() == found.rows.tolist()
    assert equal.rerank.tolist() == [0.5] * 5
