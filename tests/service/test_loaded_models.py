"""SageMaker's multi-model calls: load, list, get, invoke and unload packages by name."""

import gc
import threading
import weakref

import pytest
from fastapi.testclient import TestClient

from aisle.service.engine import Engine
from aisle.service.http import multi_model_app
from aisle.service.http.multi_model_app import create_multi_model_app
from aisle.service.http.sagemaker import MAX_BODY_BYTES
from aisle.service.packages.loaded_models import LoadedModels
from aisle.service.pairs.served_pair import PairSource, load_pair
from aisle.service.running_service import RunningService
from aisle.service.service_limits import ServiceLimits


def start(folder):
    pair = load_pair(PairSource(folder / "index", str(folder / "bundle")))
    service = RunningService(Engine(pair), ServiceLimits(), None, log_queries=False)
    service.start()
    return service


def client_of(*, start=start, **options):
    models = LoadedModels(start, **options)
    return TestClient(
        create_multi_model_app(models, max_body_bytes=MAX_BODY_BYTES), raise_server_exceptions=False
    )


@pytest.fixture
def client():
    with client_of() as client:
        yield client


def load(client, name, url):
    return client.post("/models", json={"model_name": name, "url": str(url)})


def test_a_model_is_loaded_listed_asked_and_unloaded(client, package, shop):
    assert client.get("/ping").status_code == 200
    assert client.get("/models").json() == {"models": []}
    assert client.post("/models/a/invoke", json={"query": "sofa"}).status_code == 404

    loaded = load(client, "a", package)

    described = {"modelName": "a", "modelUrl": str(package)}
    assert (loaded.status_code, loaded.json()) == (200, described)
    assert client.get("/models/a").json() == described
    assert client.get("/models").json() == {"models": [described]}
    found = client.post("/models/a/invoke", json={"query": "red sofa", "top_k": 2}).json()
    expected = shop.pair().searcher.search(["red sofa"], 2)[0]
    assert [hit["id"] for hit in found["hits"]] == [hit.product_id for hit in expected]

    assert client.delete("/models/a").status_code == 200

    assert client.get("/models").json() == {"models": []}
    for answer in (
        client.get("/models/a"),
        client.delete("/models/a"),
        client.post("/models/a/invoke", json={"query": "sofa"}),
    ):
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found")


def test_readiness_and_metrics_cover_each_loaded_model(client, package):
    assert (client.get("/health").status_code, client.get("/ready").json()) == (200, {"models": {}})
    for name in ("a", "b/c"):
        load(client, name, package)
    client.post("/models/b/c/invoke", json={"query": "sofa"})

    assert client.get("/ready").json() == {"models": {"a": 1, "b/c": 1}}
    text = client.get("/metrics").text
    for line in (
        'aisle_requests_total{route="/models/{model_name:path}/invoke",status="200"} 1.0',
        'aisle_index_version{index="a"} 1.0',
        'aisle_index_version{index="b/c"} 1.0',
        'aisle_phase_seconds_count{index="b/c",phase="search"} 1.0',
    ):
        assert line in text
    client.delete("/models/a")
    assert 'index="a"' not in client.get("/metrics").text


def test_a_name_in_use_is_409_and_its_model_goes_on_answering(client, package):
    load(client, "a", package)

    assert load(client, "a", package).status_code == 409
    assert client.post("/models/a/invoke", json={"query": "sofa"}).status_code == 200
    assert load(client, "b", package).status_code == 200


def test_a_name_that_is_being_loaded_is_409(package):
    entered, go_on = threading.Event(), threading.Event()

    def slow(folder):
        entered.set()
        assert go_on.wait(30)
        return start(folder)

    models = LoadedModels(slow, available=lambda: None)
    with TestClient(create_multi_model_app(models, max_body_bytes=MAX_BODY_BYTES)) as client:
        thread = threading.Thread(target=load, args=(client, "a", package))
        thread.start()
        assert entered.wait(30)
        second = load(client, "a", package)
        alive = client.get("/ping")
        go_on.set()
        thread.join()
        assert client.get("/models/a").status_code == 200

    assert second.status_code == 409
    assert alive.status_code == 200


def test_a_model_that_does_not_fit_is_507_and_can_be_loaded_after_another_is_unloaded(package):
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    free = size

    with client_of(available=lambda: free) as client:
        assert load(client, "a", package).status_code == 200
        free = size - 1
        refused = load(client, "b", package)
        free = size
        client.delete("/models/a")
        again = load(client, "b", package)

    assert (refused.status_code, refused.json()["error"]["type"]) == (507, "insufficient_memory")
    assert again.status_code == 200


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory")])
def test_memory_that_ends_while_a_model_is_loaded_is_507(error, package):
    failures = [error]

    def failing(folder):
        if failures:
            raise failures.pop()
        return start(folder)

    with client_of(start=failing) as client:
        assert load(client, "a", package).status_code == 507
        assert client.get("/models/a").status_code == 404
        assert load(client, "a", package).status_code == 200


def test_models_being_loaded_count_as_memory_in_use(package):
    size = sum(path.stat().st_size for path in package.rglob("*") if path.is_file())
    answers = []

    def load_another(folder):
        if not answers:
            answers.append(None)
            with pytest.raises(Exception, match="takes about") as refused:
                models.load("b", str(package))
            answers[0] = refused.value.status
        return start(folder)

    models = LoadedModels(load_another, available=lambda: 2 * size - 1)
    models.load("a", str(package))

    assert answers == [507]
    models.close(30)
    assert models.all() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"model_name": "a", "url": "/no/such/folder"}, 422),
        ({"model_name": "a"}, 422),
        ({"model_name": "", "url": "/"}, 422),
        ({"model_name": "a", "url": "bad\0name"}, 422),
    ],
)
def test_a_model_that_cannot_be_loaded_is_a_message(body, status, client):
    found = client.post("/models", json=body)

    assert found.status_code == status
    assert found.json()["error"]["message"]
    assert client.get("/models").json() == {"models": []}


def test_an_unloaded_model_is_gone_from_memory_when_the_call_returns(package):
    models = LoadedModels(start)
    models.load("a", str(package))
    pair = models["a"].service.engine.pair
    kept = [weakref.ref(pair.index), weakref.ref(pair.encoder.query_graph)]
    del pair

    gc.disable()  # nothing else may collect the parts that refer to each other
    try:
        models.unload("a")
        assert [reference() for reference in kept] == [None, None]
    finally:
        gc.enable()


def test_the_list_has_pages(client, package, monkeypatch):
    monkeypatch.setattr(multi_model_app, "PAGE", 2)
    for name in "edcba":
        load(client, name, package)

    names, token = [], None
    while True:
        page = client.get("/models", params={} if token is None else {"next_page_token": token}).json()
        names.append([model["modelName"] for model in page["models"]])
        token = page.get("nextPageToken")
        if token is None:
            break

    assert names == [["a", "b"], ["c", "d"], ["e"]]


def test_a_name_may_have_any_characters(client, package):
    load(client, "shop é/1", package)

    assert client.get("/models/shop%20%C3%A9%2F1").status_code == 200
