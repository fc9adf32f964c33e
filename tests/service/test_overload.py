"""A server that is busy refuses or times out, and answers again afterwards."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aisle.service.engine import Engine
from aisle.service.request_queue import QueueLimits
from aisle.service.service_limits import ServiceLimits


class HeldEngine(Engine):
    """An engine that answers only once it is released."""

    def __init__(self, pair):
        super().__init__(pair)
        self.released = threading.Event()
        self.begun = threading.Semaphore(0)

    def answer(self, jobs):
        self.begun.release()
        assert self.released.wait(30)
        return super().answer(jobs)


@pytest.fixture
def engine(shop):
    engine = HeldEngine(shop.pair())
    yield engine
    engine.released.set()


def search(client, **more):
    return client.post("/search", json={"query": "oak", **more})


def test_a_full_queue_is_429_with_the_time_to_come_back(shop, engine):
    limits = ServiceLimits(queue=QueueLimits(max_waiting=1, workers=1))
    with shop.client(engine=engine, limits=limits) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(search, client)
        assert engine.begun.acquire(timeout=30)
        second = pool.submit(search, client)
        while client.get("/metrics").text.find('aisle_queue_requests{index="tuned"} 1.0') < 0:
            pass

        refused = search(client)
        probe = client.get("/health")

        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        assert refused.json()["error"]["type"] == "queue_full"
        assert probe.status_code == 200
        engine.released.set()
        assert [answer.result(30).status_code for answer in (first, second)] == [200, 200]


@pytest.mark.parametrize(("limits", "asked"), [({"timeout_ms": 50}, {}), ({}, {"timeout_ms": 50})])
def test_a_slow_answer_is_504_after_the_servers_or_the_requests_limit(shop, engine, limits, asked):
    with shop.client(engine=engine, limits=ServiceLimits(**limits)) as client:
        answer = search(client, **asked)

        assert (answer.status_code, answer.json()["error"]["type"]) == (504, "timeout")
        assert "50 ms" in answer.json()["error"]["message"]
        engine.released.set()
        assert search(client, timeout_ms=30_000).status_code == 200


def test_requests_that_timed_out_leave_the_queue(shop, engine):
    limits = ServiceLimits(queue=QueueLimits(max_waiting=1, workers=1))
    with shop.client(engine=engine, limits=limits) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(search, client)
        assert engine.begun.acquire(timeout=30)

        late = [search(client, timeout_ms=20).status_code for _ in range(3)]

        assert late == [504, 504, 504]
        assert 'aisle_queue_requests{index="tuned"} 0.0' in client.get("/metrics").text
        engine.released.set()
        assert first.result(30).status_code == 200


def test_a_defect_is_500_without_its_message(shop):
    class BrokenEngine(Engine):
        def answer(self, jobs):
            raise ZeroDivisionError("secret")

    with shop.client(engine=BrokenEngine(shop.pair())) as client:
        answer = search(client)

        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal_error")
        assert "secret" not in answer.text
        assert client.get("/health").status_code == 200
