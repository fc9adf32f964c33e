"""Two ranks over gloo call the same collectives in the same order, whatever their share of the batch."""

import json

import pytest

from tests.commands.launch import start_ranks
from tests.training.rank_calls import CASES


@pytest.fixture(scope="module")
def calls_by_rank(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")
    start_ranks(2, "tests/training/rank_calls.py", tiny_bert, folder, timeout=150)
    return [json.loads((folder / f"rank_{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_every_rank_calls_the_same_collectives(calls_by_rank, case):
    first, second = (calls[case] for calls in calls_by_rank)

    assert len(first) >= 2 * 3  # each step exchanges at least embeddings, their gradient and metrics
    assert first == second


def test_ranks_that_retry_call_more_collectives_and_equally_many(calls_by_rank):
    plain, retried = calls_by_rank[0]["full_batch"], calls_by_rank[0]["out_of_memory_forward"]

    assert len(retried) > len(plain)
    assert {name for name, *_ in retried} == {name for name, *_ in plain}


def test_a_rank_without_a_share_of_a_batch_calls_the_same_collectives(calls_by_rank):
    """The calls in a step do not depend on the contents of its batch."""
    full, empty = (
        [name for name, *_ in calls_by_rank[1][case]] for case in ("full_batch", "rank_without_a_positive")
    )

    assert full == empty
