"""SageMaker's calls to one model: the health check, and every form of request."""

import numpy as np
import pytest

from aisle.service.engine import Engine
from aisle.service.http.sagemaker import MAX_BODY_BYTES, MAX_TEXTS
from aisle.service.service_limits import ServiceLimits


@pytest.fixture
def client(shop):
    with shop.client(sagemaker=True, limits=ServiceLimits(max_body_bytes=MAX_BODY_BYTES)) as client:
        yield client


def invoke(client, body, **headers):
    return client.post("/invocations", json=body, headers=headers)


def test_ping_answers_200_with_an_empty_body_once_the_pair_is_loaded(shop):
    engine = Engine()
    with shop.client(engine=engine, sagemaker=True) as client:
        before = client.get("/ping")
        refused = invoke(client, {"query": "sofa"})
        engine.switch(shop.pair())
        after = client.get("/ping")

    assert (before.status_code, refused.status_code) == (503, 503)
    assert (after.status_code, after.content) == (200, b"")


def test_a_server_without_the_flag_has_no_routes_of_sagemaker(shop):
    with shop.client() as client:
        assert client.get("/ping").status_code == 404
        assert invoke(client, {"query": "sofa"}).status_code == 404


def test_texts_are_compared_with_the_query_the_nearest_first(client, shop):
    texts = ["oak table", "red sofa", "blue sofa", "red sofa"]

    found = invoke(client, {"query_from_app": "red sofa", "actual_queries": texts})

    embeddings = shop.encoder.encode_queries(["red sofa", *texts])
    cosines = embeddings[1:] @ embeddings[0]
    expected = sorted(zip(texts, cosines, strict=True), key=lambda pair: -pair[1])
    assert found.status_code == 200
    assert list(found.json()) == ["Scores"]
    assert [text for text, _ in found.json()["Scores"]] == [text for text, _ in expected]
    scores = [score for _, score in found.json()["Scores"]]
    np.testing.assert_allclose(scores, [cosine for _, cosine in expected], atol=1e-6)
    np.testing.assert_allclose(scores[:2], 1, atol=1e-6)  # the query itself, twice


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/embed", {"inputs": ["red sofa", "oak bed"], "prompt_name": "product"}),
        ("/v1/embeddings", {"input": "red sofa", "model": "any", "encoding_format": "base64"}),
    ],
)
def test_other_forms_are_answered_as_by_their_own_routes(route, body, client):
    found = invoke(client, body)

    assert found.status_code == 200
    assert found.content == client.post(route, json=body).content


def test_a_search_is_answered_as_by_its_own_route(client):
    body = {"query": "red sofa", "top_k": 3, "filter": "price < 50", "fields": ["price"]}

    found, expected = invoke(client, body).json(), client.post("/search", json=body).json()

    assert len(found["hits"]) == 3
    assert {**found, "took_ms": None} == {**expected, "took_ms": None}


def test_the_header_content_type_does_not_matter(client):
    """SageMaker passes on what its caller gave, which may be nothing."""
    body = b'{"query": "red sofa"}'

    for headers in ({}, {"Content-Type": "application/octet-stream"}, {"Content-Type": "application/json"}):
        assert client.post("/invocations", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "kind", "field"),
    [
        (b"", 400, "invalid_json", None),
        (b"query,sofa", 400, "invalid_json", None),
        (b'{"query": NaN}', 400, "invalid_json", None),
        (b"\xff", 400, "invalid_json", None),
        (b"[]", 422, "invalid_request", None),
        (b"7", 422, "invalid_request", None),
        (b"{}", 422, "invalid_request", None),
        (b'{"query": "sofa", "limt": 3}', 422, "invalid_request", "limt"),
        (b'{"query_from_app": "sofa"}', 422, "invalid_request", "actual_queries"),
        (b'{"query_from_app": "sofa", "actual_queries": []}', 422, "invalid_request", "actual_queries"),
        (b'{"query_from_app": 1, "actual_queries": ["a"]}', 422, "invalid_request", "query_from_app"),
        (
            b'{"actual_queries": ["a", " "], "query_from_app": "b"}',
            422,
            "invalid_request",
            "actual_queries",
        ),
        (b'{"query": "sofa", "inputs": "sofa"}', 422, "invalid_request", "query"),
        (b'{"query": "sofa", "filter": "pric < 3"}', 400, "invalid_search", "filter"),
    ],
)
def test_a_wrong_body_is_a_message(body, status, kind, field, client):
    found = client.post("/invocations", content=body)

    error = found.json()["error"]
    assert (found.status_code, error["type"]) == (status, kind)
    assert error.get("field") == field
    assert error["message"]


def test_more_texts_than_the_limit_are_refused(client):
    texts = ["sofa"] * MAX_TEXTS

    assert invoke(client, {"query_from_app": "a", "actual_queries": texts}).status_code == 200
    refused = invoke(client, {"query_from_app": "a", "actual_queries": [*texts, "sofa"]})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "actual_queries")


def test_a_body_has_at_most_6_mb(client):
    start, end = b'{"query": "sofa"', b"}"
    fits = start + b" " * (MAX_BODY_BYTES - len(start) - len(end)) + end

    assert len(fits) == 6 * 1024 * 1024
    assert client.post("/invocations", content=fits).status_code == 200
    assert client.post("/invocations", content=fits + b" ").status_code == 413


def test_keys_are_needed_if_the_server_has_keys(shop):
    from aisle.service.api_keys import ApiKeys

    with shop.client(sagemaker=True, keys=ApiKeys(["k" * 32])) as client:
        assert client.get("/ping").status_code == 200
        assert invoke(client, {"query": "sofa"}).status_code == 401
        assert invoke(client, {"query": "sofa"}, **{"X-API-Key": "k" * 32}).status_code == 200
