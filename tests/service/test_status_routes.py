"""Probes, the description of the server, and metrics that Prometheus' own parser reads."""

from prometheus_client.parser import text_string_to_metric_families

from aisle.service.engine import Engine


def samples(client):
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def test_a_server_that_still_loads_is_healthy_but_not_ready(shop):
    engine = Engine()
    with shop.client(engine=engine) as client:
        assert client.get("/health").json() == {"status": "ok"}
        refused = [client.get("/ready"), client.post("/search", json={"query": "rug"}), client.get("/info")]
        assert [answer.status_code for answer in refused] == [503] * 3
        assert [answer.headers["Retry-After"] for answer in refused] == ["1"] * 3
        assert client.get("/metrics").status_code == 200

        engine.switch(shop.pair())

        assert client.get("/ready").json() == {"version": 1}
        assert client.post("/search", json={"query": "rug"}).status_code == 200


def test_info_describes_index_model_and_fields(client, shop):
    found = client.get("/info").json()

    assert (found["index"]["version"], found["index"]["products"], found["index"]["dim"]) == (1, 8, 8)
    assert {field["name"]: field["kind"] for field in found["index"]["fields"]} == {
        "title": "texts",
        "brand": "texts",
        "price": "numbers",
        "colours": "lists",
    }
    assert found["model"]["name"] == shop.bundle.name
    assert found["modes"] == ["dense", "lexical", "hybrid"]


def test_metrics_count_requests_phases_and_batches(client):
    for _ in range(3):
        client.post("/search", json={"query": "rug"})
    client.post("/search", json={"quary": "rug"})
    client.get("/no/such/page")

    found = samples(client)

    assert found["aisle_requests_total", "/search", "200"] == 3
    assert found["aisle_requests_total", "/search", "422"] == 1
    assert found["aisle_requests_total", "404", "other"] == 1
    assert found["aisle_request_seconds_count", "/search"] == 4
    assert [found["aisle_phase_seconds_count", phase] for phase in ("queue", "embed", "search")] == [3] * 3
    assert found["aisle_batch_requests_count",] == 3
    assert found["aisle_queue_requests",] == 0
    assert (found["aisle_index_version",], found["aisle_index_products",]) == (1, 8)


def test_a_server_of_words_only_has_no_model(shop):
    engine = Engine(shop.pair(mode="lexical"))
    with shop.client(engine=engine) as client:
        assert client.get("/info").json()["modes"] == ["lexical"]
        answer = client.post("/search", json={"query": "oak"}).json()
        assert [hit["id"] for hit in answer["hits"]] == ["p002", "p003"]
        assert "model" not in answer
        assert client.post("/search", json={"query": "oak", "mode": "dense"}).status_code == 400
        assert client.post("/embed", json={"inputs": "oak"}).status_code == 400
