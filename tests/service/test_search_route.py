"""POST /search answers as the searcher does, with names of the index and the model."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from aisle.index.calibrate_index import calibrate_index
from aisle.io.durable import file_sha256
from aisle.search.calibration import measure_calibration
from aisle.search.open_searcher import open_searcher
from tests.service.served_shop import TITLES


def ids(answer):
    return [hit["id"] for hit in answer["hits"]]


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_hits_are_those_of_the_searcher(client, shop, mode):
    found = open_searcher(shop.index_dir, mode=mode).candidates(["blue lamp"])[0].page(0, 3)

    answer = client.post("/search", json={"query": "blue lamp", "top_k": 3, "mode": mode}).json()

    assert [(hit["id"], hit["rank"], hit["score"]) for hit in answer["hits"]] == [
        (hit.product_id, hit.rank, hit.score) for hit in found
    ]
    assert answer["hits"][0]["fields"]["title"] == "blue lamp"


def test_the_response_names_the_index_and_the_model(client, shop):
    answer = client.post("/search", json={"query": "rug"}).json()

    manifest = shop.index_dir / "versions" / "000001" / "manifest.json"
    assert answer["index"] == {"version": 1, "fingerprint": file_sha256(manifest)}
    assert answer["model"] == {"fingerprint": shop.encoder.fingerprint, "name": shop.bundle.name}
    assert min(answer["took_ms"].values()) >= 0
    assert set(answer) == {"hits", "total", "index", "model", "took_ms"}


def test_several_queries_have_a_result_each(client):
    answer = client.post("/search", json={"queries": ["oak", "rug", "oak"], "mode": "lexical"}).json()

    assert [ids(result) for result in answer["results"]] == [["p002", "p003"], ["p006"], ["p002", "p003"]]
    assert "hits" not in answer


def test_a_page_begins_at_the_offset(client):
    whole = client.post("/search", json={"query": "blue lamp", "top_k": 8}).json()
    page = client.post("/search", json={"query": "blue lamp", "top_k": 3, "offset": 4}).json()

    assert ids(page) == ids(whole)[4:7]
    assert [hit["rank"] for hit in page["hits"]] == [5, 6, 7]


def test_filter_fields_and_lowest_score(client):
    asked = {"query": "blue lamp", "filter": "price < 50 and brand == 'Acme'", "fields": ["price", "brand"]}

    answer = client.post("/search", json=asked).json()

    assert all(hit["fields"]["brand"] == "Acme" and hit["fields"]["price"] < 50 for hit in answer["hits"])
    assert [set(hit["fields"]) for hit in answer["hits"]] == [{"brand", "price"}] * 1
    highest = client.post("/search", json={"query": "blue lamp", "min_score": 0.999, "exact": True}).json()
    assert ids(highest) == [f"p{TITLES.index('blue lamp'):03d}"]


def test_a_calibrated_threshold_finds_products_with_the_probability(shop, tmp_path):
    copied = replace(shop, index_dir=tmp_path / "index")
    shutil.copytree(shop.index_dir, copied.index_dir)
    texts = {title: title for title in TITLES}
    qrels = {
        title: {f"p{row:03d}": float(other == title) for row, other in enumerate(TITLES)} for title in TITLES
    }
    calibrate_index(copied.index_dir, lambda index: measure_calibration(index, shop.encoder, texts, qrels))

    with copied.client() as client:
        asked = {"query": "blue lamp", "mode": "hybrid", "exact": True, "min_score": "calibrated"}
        likely, any_ = (client.post("/search", json={**asked, "p": p}).json() for p in (0.9, 1e-9))
        wrong = client.post("/search", json={**asked, "p": 0})
        calibrated = client.get("/info").json()["calibrated"]

    assert ids(likely) == ["p004"]
    assert likely["total"] == {"value": 1, "relation": "eq"}
    assert len(ids(any_)) > 1
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "p")
    assert calibrated == ["dense", "hybrid", "lexical"]


def test_a_probability_is_for_a_calibrated_threshold(client):
    unused = client.post("/search", json={"query": "blue lamp", "p": 0.5})

    assert (unused.status_code, unused.json()["error"]["field"]) == (400, "p")


def test_total_facets_and_groups_come_from_the_set_of_candidates(client):
    asked = {"query": "oak lamp", "mode": "lexical", "top_k": 1, "facets": ["brand", "colours"]}

    answer = client.post("/search", json=asked).json()

    assert (len(answer["hits"]), answer["total"]) == (1, {"value": 4, "relation": "eq"})
    # Rows 2, 3, 4 and 5; every fourth product has no brand.
    assert answer["facets"]["brand"] == {
        "values": [
            {"value": "Möbel & Söhne", "count": 2},
            {"value": "Zenith", "count": 1},
        ],
        "missing": 1,
        "other": 0,
    }
    assert answer["facets"]["colours"]["values"][0] == {"value": "oak", "count": 2}
    grouped = client.post("/search", json={**asked, "group_by": "brand", "top_k": 10, "group_size": 2}).json()
    assert grouped["total"] == {"value": 4, "relation": "eq", "groups": 3}
    assert grouped["facets"] == answer["facets"]
    groups = {hit["group"]["value"]: hit["group"]["count"] for hit in grouped["hits"]}
    assert groups == {"Möbel & Söhne": 2, "Zenith": 1, None: 1}
    assert len(grouped["hits"]) == 4


def test_the_window_limits_the_total(client):
    answer = client.post("/search", json={"query": "oak", "window": 3, "top_k": 3}).json()

    assert answer["total"] == {"value": 3, "relation": "gte"}
    whole = client.post("/search", json={"query": "oak", "top_k": 0}).json()
    assert (whole["hits"], whole["total"]) == ([], {"value": 8, "relation": "eq"})


def test_hybrid_hits_have_every_score_and_rank(client):
    hits = client.post("/search", json={"query": "oak", "mode": "hybrid", "top_k": 8}).json()["hits"]

    by_id = {hit["id"]: hit for hit in hits}
    assert set(by_id["p002"]["scores"]) == {"dense", "bm25", "fused"}
    assert by_id["p002"]["ranks"]["bm25"] == 1
    assert "bm25" not in by_id["p000"]["ranks"]


def test_a_vector_finds_what_its_query_finds(client, shop):
    [vector] = shop.encoder.encode_queries(["oak bed"]).tolist()

    by_vector = client.post("/search", json={"vector": vector, "top_k": 8}).json()
    by_query = client.post("/search", json={"query": "oak bed", "top_k": 8}).json()
    hybrid = client.post("/search", json={"query": "oak bed", "vector": vector, "mode": "hybrid"}).json()

    assert by_vector["hits"] == by_query["hits"]
    assert (
        hybrid["hits"] == client.post("/search", json={"query": "oak bed", "mode": "hybrid"}).json()["hits"]
    )


def test_payload_values_are_json(client):
    hit = client.post("/search", json={"query": "oak bed", "top_k": 1}).json()["hits"][0]

    assert hit["fields"] == {"title": "oak bed", "brand": None, "price": 30.0, "colours": ["oak"]}


@pytest.mark.parametrize(
    ("asked", "status", "kind", "field", "message"),
    [
        ({"quary": "oak"}, 422, "invalid_request", "quary", "did you mean 'query'?"),
        ({"query": "oak", "where": "price < 1"}, 422, "invalid_request", "where", "did you mean 'filter'?"),
        (
            {"query": "oak", "zzzz": 1},
            422,
            "invalid_request",
            "zzzz",
            "the fields are query, queries, vector",
        ),
        ({}, 422, "invalid_request", None, "give query, queries or vector"),
        ({"query": "a", "queries": ["b"]}, 422, "invalid_request", None, "found query and queries"),
        ({"query": "  "}, 422, "invalid_request", "query", "must not be blank"),
        ({"query": "oak", "top_k": -1}, 422, "invalid_request", "top_k", "greater than or equal to 0"),
        ({"query": "oak", "top_k": "10"}, 422, "invalid_request", "top_k", "valid integer"),
        ({"query": "oak", "mode": "fuzzy"}, 422, "invalid_request", "mode", "'dense', 'lexical' or 'hybrid'"),
        ({"query": "oak", "filter": "prize < 10"}, 400, "invalid_search", "filter", "prize"),
        ({"query": "oak", "fields": ["titel"]}, 400, "invalid_search", "fields", "it has title, brand"),
        ({"query": "oak", "fingerprint": "ab12"}, 410, "version_gone", "fingerprint", "ab12 is not open"),
        ({"query": "oak", "version": 7}, 410, "version_gone", "version", "version 1 is current"),
        ({"vector": [1.0, 0.0]}, 400, "invalid_search", "vector", "(queries, 8)"),
        ({"vector": [0.6] + [0.0] * 7}, 400, "invalid_search", "vector", "norm"),
        ({"vector": [1.0] + [0.0] * 7, "mode": "lexical"}, 400, "invalid_search", "query", "give the query"),
        ({"query": "oak", "facets": ["brnd"]}, 400, "invalid_search", "facets", "brand"),
        ({"query": "oak", "group_by": "colours"}, 400, "invalid_search", "group_by", "several groups"),
        ({"query": "oak", "offset": 995}, 400, "invalid_search", "offset", "at most the window of 1000"),
        ({"queries": ["oak"] * 33}, 422, "invalid_request", "queries", "at most 32"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(client, asked, status, kind, field, message):
    answer = client.post("/search", json=asked)

    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error.get("field")) == (status, kind, field)
    assert message in error["message"]


def test_scores_do_not_depend_on_the_queries_beside(client):
    alone = client.post("/search", json={"query": "oak bed"}).json()["hits"]
    beside = client.post("/search", json={"queries": [*TITLES, "oak bed"]}).json()["results"][-1]["hits"]

    assert [hit["id"] for hit in alone] == [hit["id"] for hit in beside]
    np.testing.assert_array_equal([hit["score"] for hit in alone], [hit["score"] for hit in beside])
