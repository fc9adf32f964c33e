"""Probes, the description of the server, and metrics that Prometheus' own parser reads."""

from prometheus_client.parser import text_string_to_metric_families

from aisle.service.engine import Engine
from aisle.service.running_service import RunningService
from aisle.service.service_limits import ServiceLimits


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
    phases = [found["aisle_phase_seconds_count", phase, "tuned"] for phase in ("queue", "embed", "search")]
    assert phases == [3] * 3
    assert found["aisle_batch_requests_count", "tuned"] == 3
    assert found["aisle_queue_requests", "tuned"] == 0
    assert (found["aisle_index_version", "tuned"], found["aisle_index_products", "tuned"]) == (1, 8)


def test_the_base_model_is_measured_and_counts_for_readiness(shop):
    base = RunningService(Engine(), ServiceLimits(), None, log_queries=False)
    with shop.client(base=base) as client:
        assert client.get("/ready").status_code == 503
        base.engine.switch(shop.pair())
        assert client.get("/ready").json() == {"version": 1, "base": {"version": 1}}
        for pair in ("tuned", "base", "base"):
            client.post("/search", json={"query": "rug", "pair": pair})

        found = samples(client)
        info = client.get("/info").json()

    assert info["pairs"] == ["tuned", "base"]
    assert found["aisle_requests_total", "/search", "200"] == 3
    for index, searches in (("tuned", 1), ("base", 2)):
        assert found[("aisle_phase_seconds_count", *sorted(["search", index]))] == searches
        assert (found["aisle_index_version", index], found["aisle_index_products", index]) == (1, 8)
        assert found["aisle_queue_requests", index] == 0


def test_each_metric_is_listed_once(shop):
    base = RunningService(Engine(), ServiceLimits(), None, log_queries=False)
    with shop.client(base=base) as client:
        types = [line for line in client.get("/metrics").text.splitlines() if line.startswith("# TYPE")]

    assert len(types) == len(set(types)) > 8


def test_a_server_of_words_only_has_no_model(shop):
    engine = Engine(shop.pair(mode="lexical"))
    with shop.client(engine=engine) as client:
        assert client.get("/info").json()["modes"] == ["lexical"]
        answer = client.post("/search", json={"query": "oak"}).json()
        assert [hit["id"] for hit in answer["hits"]] == ["p002", "p003"]
        assert "model" not in answer
        assert client.post("/search", json={"query": "oak", "mode": "dense"}).status_code == 400
        assert client.post("/embed", json={"inputs": "oak"}).status_code == 400
