"""No response has a path of the server, whatever goes wrong: messages keep the last part of a path."""

import shutil

import pytest

from aisle import errors
from aisle.errors import AisleError
from aisle.index import delete_products
from aisle.service.api_keys import ApiKeys
from aisle.service.engine import Engine
from aisle.service.hidden_paths import local_places, public_message, public_model_name
from aisle.service.http.multi_model_app import create_multi_model_app
from aisle.service.packages.loaded_models import LoadedModels
from aisle.service.pairs.pointer_file import publish_pair
from aisle.service.pairs.swap import PairSwapper, followed_pointer, watched_index
from tests.service.served_shop import ServedShop, write_served_shop
from tests.service.test_swap import damage

KEY = "k" * 16
HEADERS = {"X-API-Key": KEY}
HIDDEN = "hidden place"
"""Folder of everything that is served here; its name has a space, which no pattern of a path can find."""


def kinds(of=AisleError):
    return [of, *(kind for below in of.__subclasses__() for kind in kinds(below))]


KINDS = [kind for kind in kinds() if kind.__module__ == errors.__name__]


@pytest.fixture
def hidden(shop, tmp_path):
    """A copy of the shop in a folder whose name shows wherever a path is repeated."""
    folder = tmp_path / HIDDEN
    shutil.copytree(shop.index_dir, folder / "index")
    shutil.copytree(shop.bundle, folder / "bundle")
    return ServedShop(folder / "bundle", folder / "index", shop.encoder)


def check(answer):
    """Check that a response names no folder of the server; return it."""
    seen = answer.text + str(dict(answer.headers))
    assert HIDDEN not in seen
    assert "pytest-" not in seen  # the folder of all tests' files
    return answer


REQUESTS = [
    ("/search", {"query": "oak", "min_score": "calibrated"}),
    ("/search", {"query": "oak", "min_score": "calibrated", "mode": "lexical"}),
    ("/search", {"query": "oak", "min_score": "calibrated", "mode": "hybrid"}),
    ("/search", {"query": "oak", "filter": "prize < 3"}),
    ("/search", {"query": "oak", "filter": "price <"}),
    ("/search", {"query": "oak", "facets": ["brnd"]}),
    ("/search", {"query": "oak", "group_by": "colours"}),
    ("/search", {"query": "oak", "fields": ["brnd"]}),
    ("/search", {"query": "oak", "version": 9}),
    ("/search", {"query": "oak", "offset": 10_000}),
    ("/search", {"query": "oak", "pair": "base"}),
    ("/search", {"vector": [1.0]}),
    ("/search", {"quary": "oak"}),
    ("/embed", {"inputs": "oak", "dimensions": 99}),
    ("/embed", {"inputs": "oak " * 99, "truncate": False}),
    ("/v1/embeddings", {"input": [1]}),
    ("/rerank", {"query": "oak", "texts": ["oak"]}),
    ("/v2/rerank", {"query": "oak", "documents": ["oak"]}),
    ("/invocations", {"query": "oak", "min_score": "calibrated"}),
    ("/admin/reload", {}),
]


def test_requests_that_are_refused_name_no_path(hidden):
    with hidden.client(sagemaker=True) as client:
        statuses = [check(client.post(route, json=body)).status_code for route, body in REQUESTS]
    assert min(statuses) >= 400

    with hidden.client(engine=Engine(hidden.pair(mode="lexical"))) as client:
        assert check(client.post("/search", json={"query": "oak", "mode": "dense"})).status_code == 400
        assert check(client.post("/embed", json={"inputs": "oak"})).status_code == 400


def test_responses_name_the_model_by_the_last_part_of_its_path(hidden):
    with hidden.client() as client:
        explained = check(client.post("/search", json={"query": "oak", "explain": True, "mode": "hybrid"}))
        embedded = check(client.post("/v1/embeddings", json={"input": "oak"}))
        info = check(client.get("/info"))

    assert explained.json()["model"]["name"] == embedded.json()["model"] == "bundle"
    assert explained.json()["hits"][0]["explain"]["encoder"] == info.json()["model"]["name"] == "bundle"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("fails", ["search", "embed"])
def test_an_error_of_any_kind_in_the_worker_names_no_path(hidden, monkeypatch, caplog, kind, fails):
    pair = hidden.pair()
    damaged = f"{hidden.index_dir}/versions/000001/embeddings.npy"
    message = f"{damaged}: damaged; see {hidden.bundle}, {hidden.index_dir}."

    def fail(*_, **__):
        error = kind.__new__(kind)  # some kinds make their own message
        error.args = (message,)
        raise error

    if fails == "search":
        monkeypatch.setattr(pair.searcher, "candidates", fail)
    else:
        monkeypatch.setattr(type(pair.encoder), "tokenize", fail)
        monkeypatch.setattr(type(pair.encoder), "encode_queries", fail)
    with hidden.client(engine=Engine(pair)) as client:
        answers = [
            check(client.post("/search", json={"query": "oak"})),
            *([] if fails == "search" else [check(client.post("/embed", json={"inputs": "oak"}))]),
        ]

    if kind in (errors.SearchError, errors.ModelError):
        for answer in answers:
            assert answer.status_code in (400, 422)
            assert "index/versions/000001/embeddings.npy: damaged" in answer.json()["error"]["message"]
    else:  # not the client's fault: the operator reads the log
        assert [answer.status_code for answer in answers] == [500] * len(answers)
        assert message in caplog.text


def test_swaps_that_are_refused_name_no_path_and_the_log_does(hidden, minilm_dir, tmp_path, caplog):
    swapper = PairSwapper(Engine(), watched_index(hidden.source()), poll_seconds=3600)
    swapper.load_first()
    other = write_served_shop(tmp_path / HIDDEN / "other", minilm_dir, seed=1, fingerprint="b" * 64)
    with hidden.client(engine=swapper._engine, keys=ApiKeys([KEY]), swapper=swapper) as client:

        def refused(words):
            answer = check(client.post("/admin/reload", headers=HEADERS))
            assert answer.status_code == 409
            assert words in answer.json()["error"]["message"]
            info = check(client.get("/info", headers=HEADERS))
            assert words in info.json()["swaps"]["problem"]

        delete_products(hidden.index_dir, ["p004"])
        damage(hidden.index_dir, 2)
        refused("index/versions/000002/embeddings.npy: ")
        assert f"{hidden.index_dir}/versions/000002/embeddings.npy" in caplog.text
        (hidden.index_dir / "manifest.json").unlink()
        refused("index")
        shutil.rmtree(hidden.index_dir)
        shutil.copytree(other.index_dir, hidden.index_dir)
        refused("bundle")
        shutil.rmtree(hidden.index_dir)
        refused("index")


def test_a_pointer_that_cannot_be_followed_names_no_path(hidden, tmp_path):
    pointer = tmp_path / HIDDEN / "serving.json"
    publish_pair(hidden.pair(), pointer)
    swapper = PairSwapper(Engine(), followed_pointer(pointer, hidden.source()), poll_seconds=3600)
    swapper.load_first()
    published = pointer.read_text()
    with hidden.client(engine=swapper._engine, keys=ApiKeys([KEY]), swapper=swapper) as client:
        for content in ("{", published.replace(str(hidden.index_dir), str(hidden.index_dir) + " gone")):
            pointer.write_text(content)
            answer = check(client.post("/admin/reload", headers=HEADERS))
            assert answer.status_code == 409
            check(client.get("/info", headers=HEADERS))
        pointer.unlink()
        assert check(client.post("/admin/reload", headers=HEADERS)).status_code == 409


def test_a_package_that_cannot_be_loaded_names_no_path_but_its_own(hidden, tmp_path):
    from fastapi.testclient import TestClient

    folder = tmp_path / HIDDEN / "package"
    folder.mkdir()
    app = create_multi_model_app(LoadedModels(lambda _: None), max_body_bytes=1000)
    with TestClient(app) as client:
        for url in (folder, folder / "none", hidden.index_dir):
            asked = {"model_name": "a", "url": str(url)}
            answer = check(client.post("/models", json=asked))
            assert (answer.status_code, url.name in answer.text) == (422, True)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/srv/shop/index/manifest.json: missing", "manifest.json: missing"),
        ("'/srv/shop/index': (/srv/a.b/c-d) and /srv/e,", "'index': (c-d) and e,"),
        ("see /openapi.json, POST /search or https://example.org/a/b", None),
        ("filter: 1/2 and a/b/c, and/or ../x", None),
        ("/one two/index/x: and /one two/index2", "index/x: and /one two/index2"),
        ("index: in index", None),
        ("/one two/index", "index"),
    ],
)
def test_of_a_path_the_last_part_remains(message, shown):
    places = local_places(["/one two/index", None, "owner/index"])

    assert public_message(message, places) == (shown or message)


def test_a_relative_path_is_hidden_too(tmp_path, monkeypatch):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    message = f"runs/mine: bad; {tmp_path}/runs/mine/a: bad; runs/mine2"
    found = public_message(message, local_places(["runs/mine"]))

    assert found == "mine: bad; mine/a: bad; runs/mine2"
    assert [public_model_name(name) for name in ("runs/mine", "./runs/mine", "intfloat/e5", "e5")] == [
        "mine",
        "mine",
        "intfloat/e5",
        "e5",
    ]
