"""SIGTERM ends the server in time, whatever its workers do, and every request gets an answer."""

import asyncio
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aisle.service import worker_threads
from aisle.service.http import server
from aisle.service.packages import loaded_models
from aisle.service.packages.loaded_models import LoadedModels
from aisle.service.running_service import STOP_SECONDS
from tests.service.running_server import SECONDS, running_server

SLOW = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from aisle.service import running_service
from aisle.service.engine import Engine
from aisle.service.http import server
from aisle.service.pairs import served_pair

server.DRAIN_SECONDS = 1
answer, load_pair = Engine.answer, served_pair.load_pair

def sleep():  # in a pool, for whose threads the interpreter waits at its end
    with ThreadPoolExecutor() as pool:
        pool.submit(time.sleep, 600).result()

def slow_answer(self, jobs):
    if any("slow" in job.texts for job in jobs):
        sleep()
    return answer(self, jobs)

def slow_load(source, **options):
    if "slow" in str(source.index_dir):
        print("loads slowly", file=sys.stderr, flush=True)
        sleep()
    return load_pair(source, **options)

Engine.answer, served_pair.load_pair = slow_answer, slow_load
"""
"""Searches for the word `slow`, and packages in a folder with that name, take 10 minutes."""
BLOCKED = """
import sys, time
from aisle.service.http import server
from aisle.service.running_service import RunningService

server.LAST_SECONDS = 1

def measure(self):
    print("blocked", file=sys.stderr, flush=True)
    time.sleep(600)

RunningService.measure = measure
"""
"""The event loop stands still for 10 minutes after GET /metrics."""


def batches(server, index):
    """Return how many batches the workers of an index have begun."""
    prefix = f'aisle_batch_requests_count{{index="{index}"}} '
    lines = server.client.get("/metrics").text.splitlines()
    return next((float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)), 0)


def assert_answered_with_503(answer):
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "application/json")
    assert answer.json()["error"]["type"] == "not_ready"
    assert "shutting down" in answer.json()["error"]["message"]


def search(server, path="/search", *, timeout_ms=60_000):
    return server.client.post(path, json={"query": "slow", "timeout_ms": timeout_ms})


def test_busy_workers_and_abandoned_jobs_do_not_hold_the_exit(shop):
    flags = ("--index_dir", shop.index_dir, "--workers", 2)
    with running_server(*flags, setup=SLOW) as server, ThreadPoolExecutor() as pool:
        server.wait_until_ready()
        assert search(server, timeout_ms=50).status_code == 504
        computed = pool.submit(search, server)
        server.wait_until(lambda server: batches(server, "tuned") == 2)
        waiting = pool.submit(search, server)
        server.wait_until(
            lambda server: 'aisle_queue_requests{index="tuned"} 1.0' in server.client.get("/metrics").text
        )

        status, _ = server.stop()

        assert status == 0, server.log
        for answer in (computed, waiting):
            assert_answered_with_503(answer.result(SECONDS))
    assert "Traceback" not in server.log


def test_models_that_are_busy_or_loading_do_not_hold_the_exit(package, tmp_path):
    slow = shutil.copytree(package, tmp_path / "slow")

    def load(server, name, folder):
        return server.client.post("/models", json={"model_name": name, "url": str(folder)})

    with running_server("--multi_model", setup=SLOW) as server, ThreadPoolExecutor() as pool:
        answers = []
        for name in "ab":
            assert load(server, name, package).status_code == 200
            answers.append(pool.submit(search, server, f"/models/{name}/invoke"))
            server.wait_until(lambda server, name=name: batches(server, name) == 1)
        answers.append(pool.submit(load, server, "c", slow))
        server.wait_until(lambda server: "loads slowly" in server.log)

        status, _ = server.stop()

        assert status == 0, server.log
        for answer in answers:
            assert_answered_with_503(answer.result(SECONDS))
    assert "Traceback" not in server.log


def test_a_blocked_event_loop_does_not_hold_the_exit(shop):
    with running_server("--index_dir", shop.index_dir, setup=BLOCKED) as server:
        server.wait_until_ready()
        with socket.create_connection(("127.0.0.1", server.client.base_url.port)) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
            server.wait_until(lambda server: "blocked" in server.log)
            server.process.send_signal(signal.SIGTERM)

        assert server.process.wait(SECONDS) == 1
    assert "Timeout" in server.log


def test_the_parts_of_a_shutdown_fit_into_30_seconds():
    """SageMaker kills a container 30 s after SIGTERM."""
    ticks = 0.5  # uvicorn looks for the signal every 0.1 s and for closed connections likewise
    parts = server.DRAIN_SECONDS + STOP_SECONDS + worker_threads.END_SECONDS + ticks
    assert parts < server.LAST_SECONDS < 30


class StoppedService:
    """Takes all the time that it gets to stop."""

    def __init__(self, clock):
        self.clock = clock
        self.seconds = None

    def stop(self, seconds):
        self.seconds = seconds
        self.clock.now += seconds


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


def test_loaded_models_share_the_seconds_of_the_shutdown(package, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loaded_models, "time", clock)
    models = LoadedModels(lambda _: StoppedService(clock), available=lambda: None)
    for name in "abc":
        models.load(name, str(package))
    services = [model.service for model in models.all()]

    models.close(2.0)

    assert [service.seconds for service in services] == [2.0, 0.0, 0.0]
    assert (clock.now, models.all()) == (2.0, [])


@pytest.mark.parametrize("raised", [None, RuntimeError])
def test_a_worker_passes_its_result_and_its_error_on(raised):
    def work(value):
        if raised is not None:
            raise raised
        return value, threading.current_thread().daemon

    async def run():
        return await worker_threads.run_in_worker(work, 7)

    if raised is None:
        assert asyncio.run(run()) == (7, True)
    else:
        with pytest.raises(raised):
            asyncio.run(run())
