"""A search that has timed out stops computing, and no search may ask for too many hits."""

import threading
from dataclasses import dataclass, field

import pytest

from aisle.index import filters, lexical
from aisle.search import candidates, explain, highlighting
from aisle.service.deadline import Deadline
from aisle.service.engine import Engine, SearchJob
from aisle.service.request_errors import RequestError
from aisle.service.request_queue import QueueLimits
from aisle.service.requests import SearchRequest
from aisle.service.responses import SearchResponse
from aisle.service.service_limits import ServiceLimits


@dataclass(frozen=True)
class CheckedDeadline(Deadline):
    """A deadline that is over after a number of checks."""

    checks: list[int] = field(default_factory=list)

    def check(self):
        self.checks.append(1)
        if len(self.checks) > self.at:
            raise self.error


@pytest.fixture(scope="module")
def engine(shop):
    return Engine(shop.pair())


@pytest.mark.parametrize(
    ("asked", "of", "name", "whole"),
    [
        ({"query": "oak", "explain": True}, explain.Explainer, "explain", 8),
        ({"query": "oak", "highlight": True}, highlighting.Highlighter, "highlights", 8),
        ({"query": "oak", "facets": ["brand", "price", "title"]}, candidates, "count_values", 3),
        ({"query": "oak", "filter": "price >= 0"}, filters.Filter, "_evaluate", 5),
        ({"queries": ["oak"] * 12, "mode": "lexical"}, lexical.Bm25Index, "score", 12),
        ({"queries": ["oak"] * 12, "mode": "hybrid"}, lexical.Bm25Index, "score", 12),
    ],
)
def test_work_stops_between_hits_facets_queries_and_parts_of_a_filter(
    engine, counted, monkeypatch, asked, of, name, whole
):
    monkeypatch.setattr(filters, "CHECKED_ROWS", 2)  # of 8 products; a filter is first evaluated without rows
    done = counted(of, name)
    request = SearchRequest(**{"mode": "hybrid", **asked})
    never = CheckedDeadline(1000, 10_000)
    assert isinstance(engine.answer([SearchJob(request, never)])[0], SearchResponse)
    assert len(done) == whole

    amounts = []
    for checks in range(len(never.checks)):
        done.clear()
        (stopped,) = engine.answer([SearchJob(request, CheckedDeadline(1000, checks))])
        assert isinstance(stopped, RequestError)
        assert (stopped.kind, "1000 ms" in str(stopped)) == ("timeout", True)
        amounts.append(len(done))

    assert amounts[0] == 0
    assert amounts == sorted(amounts)
    assert len(set(amounts)) >= 3  # it stops in between, too


def test_a_search_whose_time_is_over_does_not_fail_those_beside_it(engine):
    request = SearchRequest(query="oak", mode="lexical")

    late, found = engine.answer([SearchJob(request, Deadline(5, 0.0)), SearchJob(request)])

    assert late.kind == "timeout"
    assert [hit.id for hit in found.hits] == ["p002", "p003"]


def test_a_worker_is_free_soon_after_a_request_has_timed_out(shop, monkeypatch):
    released, explained = threading.Event(), []
    original = explain.Explainer.explain

    def held(self, candidate):
        explained.append(candidate.product_id)
        assert released.wait(120)
        return original(self, candidate)

    monkeypatch.setattr(explain.Explainer, "explain", held)
    limits = ServiceLimits(queue=QueueLimits(workers=1))
    with shop.client(limits=limits) as client:
        late = client.post(
            "/search", json={"query": "oak", "mode": "dense", "explain": True, "timeout_ms": 2000}
        )
        released.set()
        found = client.post("/search", json={"query": "oak", "timeout_ms": 60_000})

    assert (late.status_code, found.status_code) == (504, 200)
    assert len(explained) <= 1  # 0 if the machine is so busy that the search did not come that far


@pytest.mark.parametrize(
    ("limits", "asked", "expected"), [({"timeout_ms": 700}, {}, 700), ({}, {"timeout_ms": 60_000}, 60_000)]
)
def test_the_limit_of_the_request_or_the_server_is_the_deadline(shop, limits, asked, expected):
    given = []

    class NotingEngine(Engine):
        def answer(self, jobs):
            given.extend(job.deadline.limit_ms for job in jobs)
            return super().answer(jobs)

    with shop.client(engine=NotingEngine(shop.pair()), limits=ServiceLimits(**limits)) as client:
        client.post("/search", json={"query": "oak", **asked})

    assert given == [expected]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"query": "oak", "top_k": 101, "explain": True}, "at most 100 explained hits"),
        ({"queries": ["oak"] * 21, "top_k": 5, "explain": True}, "found 105"),
        (
            {"query": "oak", "top_k": 10, "group_by": "brand", "group_size": 11, "explain": True},
            "(queries x top_k x group_size), found 110",
        ),
        (
            {"query": "oak", "top_k": 1000, "group_by": "brand", "group_size": 100},
            "at most 32000 hits in a request (queries x top_k x group_size), found 100000",
        ),
    ],
)
def test_more_hits_than_a_request_may_have_are_refused(client, asked, message):
    answer = client.post("/search", json=asked)

    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (422, "top_k")
    assert message in error["message"]
    fewer = {**asked, "top_k": 1, "group_size": 1, "queries": ["oak"] * 4}
    fewer = {name: value for name, value in fewer.items() if name in asked}
    assert client.post("/search", json=fewer).status_code == 200


@pytest.mark.parametrize(
    "asked", [{"a" * 100_000: 1}, {"facets": ["a" * 100_000]}, {"group_by": "a" * 100_000}]
)
def test_a_long_name_is_not_repeated(client, asked):
    answer = client.post("/search", json={"query": "oak", **asked})

    assert answer.status_code in {400, 422}
    assert len(answer.text) < 2000
