"""The demo page over HTTP: its files, the base model beside the tuned one, and what the page asks for."""

import os
import re
import shlex
import subprocess
import threading
import time
from importlib.resources import files

import pyarrow as pa
import pytest
import yaml
from fastapi.testclient import TestClient

from aisle.commands.build.settings import BuildSettings
from aisle.commands.quickstart import TEXT_TEMPLATE, QuickstartSettings
from aisle.commands.serve import ServeSettings, serve_problems
from aisle.config.load import parse_settings
from aisle.service.api_keys import ApiKeys
from aisle.service.engine import Engine
from aisle.service.facet_fields import facet_fields
from aisle.service.http.app import create_app
from tests.doc_commands import ROOT
from tests.service.demo_shop import PRODUCTS, base_service, demo_app, demo_engines

FILES = [file.name for file in (files("aisle.service") / "demo").iterdir()]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    return demo_engines(tmp_path_factory.mktemp("demo"))


@pytest.fixture
def client(engines):
    with TestClient(demo_app(engines)) as client:
        yield client


def search(client, **request):
    answer = client.post("/search", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_root_leads_to_the_page(client):
    page = client.get("/")

    assert page.url.path == "/demo/"
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>aisle · search</title>" in page.text


@pytest.mark.parametrize("name", FILES)
def test_every_file_forbids_all_that_is_not_of_this_server(client, name):
    file = client.get(f"/demo/{name}")

    policy = dict(part.split(" ", 1) for part in file.headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    assert set(policy.values()) == {"'self'", "'none'"}
    assert file.headers["x-content-type-options"] == "nosniff"
    addresses = re.findall(r"https?://[^\"' )]+", file.text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}
    assert not re.search("innerHTML|outerHTML|insertAdjacentHTML|document.write|eval\\(", file.text)


def test_other_names_are_not_found(client):
    for name in ("secret", "..%2fapp.py", "%2e%2e/app.py", "__init__.py"):
        assert client.get(f"/demo/{name}").status_code == 404


def test_a_server_without_the_demo_has_no_page(engines):
    with TestClient(create_app(engines["tuned"])) as client:
        assert client.get("/demo/").status_code == 404
        assert client.get("/").status_code == 404
        assert client.get("/info").json()["pairs"] == ["tuned"]


def test_the_page_needs_no_key_and_its_searches_do(engines):
    with TestClient(create_app(engines["tuned"], keys=ApiKeys(["k" * 32]), demo=True)) as client:
        assert client.get("/demo/demo.js").status_code == 200
        assert client.post("/search", json={"query": "train"}).status_code == 401


def test_a_pair_answers_by_its_own_model_and_index(client):
    tuned, base = (search(client, query="red train", pair=pair) for pair in ("tuned", "base"))

    assert (tuned["model"]["name"], base["model"]["name"]) == ("models/tuned", "models/base")
    assert [hit["id"] for hit in tuned["hits"]] != [hit["id"] for hit in base["hits"]]
    assert search(client, query="red train")["hits"] == tuned["hits"]
    assert client.get("/info").json()["pairs"] == ["tuned", "base"]


def test_a_base_model_that_is_not_served_is_refused_and_one_that_loads_is_awaited(engines):
    with TestClient(create_app(engines["tuned"])) as client:
        refused = client.post("/search", json={"query": "train", "pair": "base"})
    assert refused.status_code == 400
    assert refused.json()["error"]["field"] == "pair"
    assert "--compare_index_dir" in refused.json()["error"]["message"]

    with TestClient(create_app(engines["tuned"], base=base_service(Engine()))) as client:
        assert client.post("/search", json={"query": "train", "pair": "base"}).status_code == 503
        assert client.post("/search", json={"query": "train"}).status_code == 200


def test_highlights_and_explanations_are_given_if_asked(client):
    (hit,) = search(client, query="train zoë", mode="lexical", top_k=1, highlight=True, explain=True)["hits"]
    assert hit["fields"]["title"] == "🚂🚂 train for Zoë"
    assert hit["highlights"] == {"title": [[3, 8], [13, 16]]}
    words = {word["word"]: word["fields"] for word in hit["explain"]["words"]}
    assert words == {"train": {"title": ["train"]}, "zoë": {"title": ["Zoë"]}}
    assert sum(word["bm25"] for word in hit["explain"]["words"]) == pytest.approx(hit["score"], rel=1e-5)
    assert hit["explain"]["text"].startswith(f"{hit['id']}: rank 1 of")

    (plain,) = search(client, query="train zoë", mode="lexical", top_k=1)["hits"]
    assert not {"highlights", "explain"} & plain.keys()


def test_an_explanation_has_the_clauses_of_the_filter(client):
    found = search(
        client, query="train", mode="hybrid", filter="price <= 30 and wooden", top_k=1, explain=True
    )

    explanation = found["hits"][0]["explain"]
    fields = found["hits"][0]["fields"]
    assert [(clause["text"], clause["result"]) for clause in explanation["filter"]] == [
        ("price <= 30", True),
        ("wooden", True),
    ]
    assert explanation["filter"][0]["values"] == {"price": fields["price"]}
    assert explanation["fused"]["dense"] + explanation["fused"]["bm25"] == pytest.approx(
        found["hits"][0]["scores"]["fused"], rel=1e-5
    )


def test_a_calibrated_threshold_without_a_calibration_names_the_command(client):
    refused = client.post("/search", json={"query": "train", "min_score": "calibrated", "p": 0.7})

    assert refused.status_code == 400
    assert refused.json()["error"]["field"] == "min_score"
    assert "aisle calibrate" in refused.json()["error"]["message"]
    assert client.get("/info").json()["calibrated"] == []


def test_facets_are_offered_for_columns_with_shared_values(client):
    fields = {field["name"]: field["facet"] for field in client.get("/info").json()["index"]["fields"]}

    assert fields == {
        "title": False,
        "brand": True,
        "price": False,
        "wooden": True,
        "tags": True,
        "description": False,
    }
    assert len(PRODUCTS) == 57


def test_columns_without_values_or_of_objects_have_no_facets():
    table = pa.table(
        {
            "product_id": ["a", "a", "a", "a"],
            "empty": pa.nulls(4),
            "blank": pa.array([None] * 4, pa.string()),
            "object": [{"a": 1}] * 4,
            "lists of lists": [[[1]]] * 4,
            "stars": [1, 1, 2, 2],
            "unique": [1, 2, 3, 4],
        }
    )
    assert facet_fields(table) == ["stars"]


def test_two_models_are_loaded_one_after_the_other(shop, monkeypatch):
    loading, overlaps = threading.Lock(), []

    def load(*_, **__):
        overlaps.append(not loading.acquire(blocking=False))
        time.sleep(0.05)  # the other thread would begin now
        loading.release()
        return shop.encoder

    monkeypatch.setattr("aisle.service.pairs.served_pair.encoder_of_index", load)
    threads = [threading.Thread(target=shop.pair) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert overlaps == [False, False]


def test_make_demo_compares_the_models_of_the_quickstart():
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    dry = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    lines = dry.stdout.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line.partition("bin/aisle ")[2]) for line in lines if "bin/aisle " in line]
    given = {name: rest for name, *rest in commands}
    build = parse_settings(BuildSettings, given["build"], prog="aisle build")
    serve = parse_settings(ServeSettings, given["serve"], prog="aisle serve")

    run = QuickstartSettings().output_dir
    recipe = yaml.safe_load((ROOT / "src/aisle/recipes/quickstart.yaml").read_text("utf-8"))
    assert build.model == recipe["model_name_or_path"]
    assert build.max_length == recipe["max_length"]
    assert build.text_template == TEXT_TEMPLATE
    assert build.catalog == (f"{run}-sample/products.csv",)
    assert serve.index_dir == f"{run}-index"
    assert serve.compare_index_dir == build.index_dir
    assert serve.demo


def test_a_base_model_needs_its_index():
    assert serve_problems(ServeSettings("index", compare_model="all-MiniLM-L6-v2")) == [
        "--compare_model: needs --compare_index_dir, the index that this model made"
    ]
    assert serve_problems(ServeSettings("index", compare_model="m", compare_index_dir="base")) == []
    assert serve_problems(ServeSettings(None, multi_model=True, demo=True)) == [
        "--multi_model: has no search page; leave --demo and --compare_index_dir out"
    ]


def test_the_colours_are_those_of_the_report():
    def colours(package, name):
        text = files(package).joinpath(name).read_text("utf-8")
        return dict(re.findall(r"--([a-z-]+): (light-dark\([^)]*\))", text))

    report, demo = colours("aisle.reporting.html", "style.css"), colours("aisle.service", "demo/demo.css")
    shared = report.keys() & demo.keys()
    assert {"paper", "ink", "muted", "rule", "base", "tuned"} <= shared
    assert {name: demo[name] for name in shared} == {name: report[name] for name in shared}
