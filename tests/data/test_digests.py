"""Repeated digests, compared with a dictionary, with collisions in one half, over many runs."""

from __future__ import annotations

import hashlib
import random
from itertools import pairwise

import numpy as np
import pytest

from aisle.data.digests import DigestSet, text_digests


def words(*values):
    return np.array(values, np.uint64)


def test_a_digest_is_the_128_bit_blake2b_of_the_text():
    digest = hashlib.blake2b("靴 é".encode(), digest_size=16).digest()
    expected = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")]
    assert text_digests(["a", "靴 é"])[1].tolist() == expected
    assert text_digests([]).shape == (0, 2)


@pytest.mark.parametrize("step", [1, 3, 50, 1000])
def test_first_times_and_kept_words_are_those_of_a_dictionary(step):
    draw = random.Random(step)
    # Few high words, so that digests with one half in common abound.
    digests = [(draw.randrange(5), draw.randrange(60)) for _ in range(1000)]
    seen, expected = DigestSet(), {}
    for start in range(0, len(digests), step):
        part = digests[start : start + step]
        numbers = words(*range(start, start + len(part)))
        is_new, (kept,) = seen.insert(np.array(part, np.uint64), numbers)
        fresh = [digest not in expected and digest not in part[:at] for at, digest in enumerate(part)]
        for at, digest in enumerate(part):
            expected.setdefault(digest, start + at)
        assert is_new.tolist() == fresh
        assert kept.tolist() == [expected[digest] for digest in part]
    assert len(seen) == len(expected)


def test_words_are_optional_and_no_digest_is_no_error():
    seen = DigestSet()
    assert [part.tolist() if len(part) else [] for part in seen.insert(text_digests([]))] == [[], []]
    is_new, kept = seen.insert(text_digests(["a", "b", "a"]))
    assert (is_new.tolist(), kept, len(seen)) == ([True, True, False], [], 2)


def test_there_are_few_runs_and_no_other_arrays():
    seen = DigestSet()
    for start in range(0, 5000, 10):
        seen.insert(text_digests(map(str, range(start, start + 10))))
    runs = [len(run[0]) for run in seen._runs]
    assert sum(runs) == len(seen) == 5000
    assert all(longer > 2 * shorter for longer, shorter in pairwise(runs))
    assert all([column.dtype for column in run] == [np.uint64] * 2 for run in seen._runs)
