"""A job with a defect fails by itself: the other jobs of its batch are answered."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from aisle.errors import ModelError
from aisle.index import open_index
from aisle.search.searcher import Searcher
from aisle.service.engine import EmbedJob, Engine, SearchJob
from aisle.service.http.app import create_app
from aisle.service.pairs.served_pair import PairSource, ServedPair
from aisle.service.requests import SearchRequest
from aisle.service.responses import SearchResponse
from aisle.service.running_service import RunningService
from aisle.service.service_limits import ServiceLimits
from aisle.service.text_embedding import EmbedOptions
from tests.search.word_encoder import WordEncoder, write_shop

TITLES = ["red sofa", "red lamp", "blue lamp", "oak table"]
FAR = 2**62  # microseconds after 1970: a year that Python's datetime does not reach
COLUMNS = pa.table(
    {
        "title": TITLES,
        "code": pa.array([2**64 - 1, 7, None, 7], pa.uint64()),
        "codes": pa.array([[2**64 - 1, 7], [7], None, []], pa.list_(pa.uint64())),
        "brand": pa.array(["Acme", "Acme", "Zenith", None]).dictionary_encode(),
        "seen": pa.array([FAR, FAR, 0, 0], pa.timestamp("us")),
    }
)


@dataclass(frozen=True)
class FailingEncoder(WordEncoder):
    """An encoder that fails for a batch with the word "defect" or "refused"."""

    def encode_queries(self, queries, *, precision="fp32"):
        if any("defect" in query for query in queries):
            raise ZeroDivisionError("secret")
        if any("refused" in query for query in queries):
            raise ModelError("the text is refused")
        return super().encode_queries(queries, precision=precision)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    index_dir = tmp_path_factory.mktemp("failing") / "index"
    write_shop(index_dir, titles=TITLES, payload=COLUMNS)
    return open_index(index_dir)


@pytest.fixture
def engine(index):
    source = PairSource(Path("index"), model="m")
    return Engine(ServedPair(Searcher(index, FailingEncoder(), threads=1), source, "0" * 64))


@pytest.fixture
def client(engine):
    with TestClient(create_app(engine), raise_server_exceptions=False) as client:
        yield client


def search(query="red lamp", **more):
    return SearchJob(SearchRequest(query=query, **more))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (search("defect"), ZeroDivisionError),
        (search("refused lamp"), ModelError),
        (search("red lamp", vector=[1.0, 0.0]), Exception),
        (EmbedJob(["lamp"], EmbedOptions("query")), AttributeError),  # this encoder has no tokens
    ],
)
def test_only_the_failing_job_of_a_batch_fails(engine, wrong, error):
    right = search("oak table", fields=["title"], filter="title == 'oak table'")

    first, failed, second = engine.answer([right, wrong, right])

    assert isinstance(failed, error)
    assert isinstance(first, SearchResponse)
    assert first.hits == second.hits
    assert first.hits[0].fields == {"title": "oak table"}


def test_a_text_of_two_searches_is_embedded_although_one_of_them_fails(engine):
    jobs = [
        SearchJob(SearchRequest(queries=["oak table", "defect"])),
        search("oak table", filter="code is None"),
    ]

    failed, found = engine.answer(jobs)

    assert isinstance(failed, ZeroDivisionError)
    assert [hit.id for hit in found.hits] == ["p002"]


def test_an_answer_without_json_fails_alone(engine):
    class Unwritable(SearchResponse):
        def model_dump_json(self, **_):
            raise ValueError("secret")

    class Answers(Engine):
        def answer(self, jobs):
            found = super().answer(jobs)
            return [Unwritable(**dict(found[0])), *found[1:]]

    service = RunningService(Answers(engine.pair), ServiceLimits(), None, False)
    jobs = [search(filter="title == 'oak table'")] * 2

    failed, (_, written) = service._answer(jobs)

    assert isinstance(failed, ValueError)
    assert b"oak table" in written


def test_a_value_that_python_cannot_hold_is_null_and_named(client):
    asked = {
        "query": "red",
        "mode": "lexical",
        "highlight": True,
        "explain": True,
        "filter": "code is not None",
    }

    first, second = client.post("/search", json=asked).json()["hits"]

    for hit in (first, second):
        assert (hit["fields"]["seen"], hit["unreadable"]) == (None, ["seen"])
        assert hit["fields"]["title"] in TITLES
    fine = client.post("/search", json={"query": "blue", "mode": "lexical"}).json()["hits"][0]
    assert fine["fields"]["seen"] == "1970-01-01 00:00:00"
    assert "unreadable" not in fine


@pytest.mark.parametrize(
    "more", [{}, {"group_by": "brand"}, {"explain": True}, {"explain": True, "highlight": True}]
)
def test_a_value_that_is_not_asked_for_is_not_named(client, more):
    asked = {"query": "red", "mode": "lexical", "fields": ["title"], **more}

    hits = client.post("/search", json=asked).json()["hits"]

    assert {tuple(hit["fields"]) for hit in hits} == {("title",)}
    assert not any("unreadable" in hit for hit in hits)


def test_a_defect_is_500_without_its_message_and_the_server_goes_on(client):
    answer = client.post("/search", json={"query": "defect"})

    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert client.post("/search", json={"query": "oak", "filter": "code is None"}).status_code == 200


def test_whole_numbers_from_2_63_on_are_counted_and_grouped(client):
    asked = {"query": "red", "mode": "lexical", "fields": ["code"], "top_k": 0}

    facets = client.post("/search", json={**asked, "facets": ["code", "codes"]}).json()["facets"]

    assert facets["code"]["values"] == [{"value": 7, "count": 1}, {"value": 2**64 - 1, "count": 1}]
    assert facets["codes"]["values"] == [{"value": 7, "count": 2}, {"value": 2**64 - 1, "count": 1}]


def test_info_names_the_columns_to_count_whatever_their_types(client):
    answer = client.get("/info")

    assert answer.status_code == 200
    facet = {field["name"]: field["facet"] for field in answer.json()["index"]["fields"]}
    assert (facet["code"], facet["brand"], facet["title"]) == (False, False, False)
    assert facet["seen"]
