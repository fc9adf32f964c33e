import threading

import pytest

from aisle.system.prefetch import prefetched

PATIENCE = 30
"""Seconds to wait for a thread before the test fails."""


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_items_keep_their_order_and_come_with_their_results():
    assert list(prefetched(range(5), lambda item: item * item)) == [(0, 0), (1, 1), (2, 4), (3, 9), (4, 16)]


def test_no_items_give_no_results():
    assert list(prefetched([], lambda item: 1 / 0)) == []


def test_a_result_may_be_none():
    assert list(prefetched([0, 1], lambda item: None)) == [(0, None), (1, None)]


def test_the_next_result_is_made_while_the_current_one_is_used():
    made = {item: threading.Event() for item in range(3)}
    steps = prefetched(range(3), lambda item: made[item].set() or item)

    assert next(steps) == (0, 0)

    assert made[1].wait(PATIENCE)  # before it is requested
    assert not made[2].is_set()
    steps.close()


def test_only_one_result_is_made_ahead():
    """Later items are not even drawn: there may be endlessly many, with large batches."""
    drawn = []
    steps = prefetched((drawn.append(item) or item for item in range(100)), lambda item: item)

    next(steps)
    next(steps)

    assert drawn == [0, 1, 2]
    steps.close()


def test_results_are_made_in_a_separate_thread_one_at_a_time():
    threads = [made for _, made in prefetched(range(3), lambda item: threading.current_thread())]

    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


def test_an_error_is_raised_when_its_item_is_due():
    def make(item):
        if item == 2:
            raise ValueError("item 2 is bad")
        return item

    steps = prefetched(range(5), make)

    assert [next(steps), next(steps)] == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="item 2 is bad"):
        next(steps)
    assert next(steps, None) is None
    assert prefetch_threads() == []


def test_closing_early_ends_the_thread():
    steps = prefetched(range(100), lambda item: item)
    next(steps)
    assert len(prefetch_threads()) == 1

    steps.close()

    assert prefetch_threads() == []


def test_an_error_in_the_consumer_ends_the_thread():
    def use(steps):
        for item, _ in steps:
            raise KeyboardInterrupt(item)

    steps = prefetched(range(100), lambda item: item)
    with pytest.raises(KeyboardInterrupt):
        use(steps)
    steps.close()

    assert prefetch_threads() == []


def test_the_thread_ends_with_the_items():
    assert len(list(prefetched(range(3), lambda item: item))) == 3
    assert prefetch_threads() == []
