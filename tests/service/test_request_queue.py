"""The queue answers in batches, refuses what does not fit, and drops what nobody waits for."""

import threading

import pytest

from aisle.service.request_errors import RequestError
from aisle.service.request_queue import QueueLimits, RequestQueue


class Gate:
    """Answers a batch with its jobs, once it is open; notes the batches."""

    def __init__(self):
        self.open = threading.Event()
        self.begun = threading.Semaphore(0)
        self.batches = []

    def __call__(self, jobs):
        self.batches.append(list(jobs))
        self.begun.release()
        assert self.open.wait(30)
        return [ZeroDivisionError() if job == "wrong" else job for job in jobs]


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def queue_of(gate, *, max_waiting=10, batch_tokens=10, workers=1):
    return RequestQueue(gate, QueueLimits(max_waiting, batch_tokens, workers))


def held_queue(gate, **limits):
    """Return a queue whose only worker is busy with a first job."""
    queue = queue_of(gate, **limits)
    first = queue.submit("first", tokens=1)
    assert gate.begun.acquire(timeout=30)
    return queue, first


def test_jobs_that_wait_are_answered_together_up_to_the_token_limit(gate):
    queue, first = held_queue(gate)
    others = [queue.submit(job, tokens=tokens) for job, tokens in (("a", 4), ("b", 6), ("c", 1), ("d", 99))]

    gate.open.set()

    assert [future.result(30) for future in (first, *others)] == ["first", "a", "b", "c", "d"]
    assert gate.batches == [["first"], ["a", "b"], ["c"], ["d"]]
    queue.close()


def test_a_full_queue_refuses_and_says_when_to_come_back(gate):
    queue, _ = held_queue(gate, max_waiting=2)
    waiting = [queue.submit(job, tokens=1) for job in "ab"]

    with pytest.raises(RequestError, match="2 requests are waiting") as refused:
        queue.submit("c", tokens=1)

    assert (refused.value.status, refused.value.retry_after, len(queue)) == (429, 1, 2)
    gate.open.set()
    assert [future.result(30) for future in waiting] == ["a", "b"]
    queue.close()


def test_a_cancelled_job_is_not_computed(gate):
    queue, _ = held_queue(gate)
    cancelled, kept = (queue.submit(job, tokens=1) for job in ("cancelled", "kept"))

    assert cancelled.cancel()
    gate.open.set()

    assert kept.result(30) == "kept"
    assert gate.batches == [["first"], ["kept"]]
    queue.close()


def test_cancelled_jobs_take_no_place_from_others(gate):
    queue, _ = held_queue(gate, max_waiting=4, batch_tokens=4)
    cancelled = [queue.submit(f"cancelled {number}", tokens=2) for number in range(4)]
    assert all(future.cancel() for future in cancelled)
    assert len(queue) == 0

    kept = [queue.submit(job, tokens=1) for job in "abcd"]
    gate.open.set()

    assert [future.result(30) for future in kept] == ["a", "b", "c", "d"]
    assert gate.batches == [["first"], ["a", "b", "c", "d"]]
    queue.close()


def test_an_error_reaches_its_own_job_only(gate):
    queue, _ = held_queue(gate)
    wrong, right = (queue.submit(job, tokens=1) for job in ("wrong", "right"))

    gate.open.set()

    assert isinstance(wrong.exception(30), ZeroDivisionError)
    assert right.result(30) == "right"
    queue.close()


def test_a_worker_survives_a_defect():
    def answer(jobs):
        return [1 // job for job in jobs]

    queue = RequestQueue(answer, QueueLimits(workers=1))

    assert isinstance(queue.submit(0, tokens=1).exception(30), ZeroDivisionError)
    assert queue.submit(1, tokens=1).result(30) == 1
    queue.close()


def test_closing_answers_what_waits_and_refuses_the_rest(gate):
    queue, first = held_queue(gate)
    waiting = queue.submit("waiting", tokens=1)
    closing = threading.Thread(target=queue.close)
    closing.start()

    gate.open.set()
    closing.join(30)

    assert (first.result(0), waiting.result(0)) == ("first", "waiting")
    with pytest.raises(RequestError, match="shutting down"):
        queue.submit("late", tokens=1)


def test_a_failing_observer_ends_no_worker_and_is_logged(caplog):
    def observe(*_):
        raise ZeroDivisionError("secret")

    queue = RequestQueue(lambda jobs: [job.upper() for job in jobs], QueueLimits(10, 10, 1), on_batch=observe)

    assert [queue.submit(job, tokens=1).result(30) for job in "ab"] == ["A", "B"]
    queue.close()
    assert [record.getMessage() for record in caplog.records] == ["a batch was not counted"] * 2
