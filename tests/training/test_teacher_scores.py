"""A teacher scores each pair once: over processes and runs, after a kill, and with a damaged cache."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from aisle.errors import TrainingError
from aisle.io.embedding_cache import EmbeddingCache
from aisle.training import teacher_scores as module
from aisle.training.teacher_scores import ScoredTexts, teacher_scores

TEXTS = ["sofa", "lamp", "a bed of oak", "red sofa", "outdoor lamp, black", "oak"]
PAIRS = [(0, 3), (1, 4), (2, 5), (0, 5), (1, 4), (0, 0), (2, 3)]  # a pair twice, and a text on both sides


def score_of(query, product):
    return len(query) - 2 * len(product) + 0.5


class ProcessKilledError(Exception):
    """The end of a process."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Score the pairs; `run.calls` has the pairs of each call of the teacher."""
    monkeypatch.setattr(module, "PAIRS_AT_A_TIME", 2)
    monkeypatch.setattr(module, "MOST_SECONDS", 0.0)

    def scored(*, rank=0, ranks=1, calls_left=100, score=score_of, pairs=PAIRS):
        def teacher(texts):
            if len(scored.calls) == calls_left:
                raise ProcessKilledError
            scored.calls.append(texts)
            return np.array([score(*pair) for pair in texts])

        queries, products = np.array(pairs).T
        advanced = []
        found = teacher_scores(
            teacher,
            EmbeddingCache(tmp_path / "cache", dim=1),
            ScoredTexts(TEXTS, TEXTS, queries, products),
            accelerator=SimpleNamespace(
                process_index=rank, num_processes=ranks, wait_for_everyone=lambda: None
            ),
            log=lambda _: None,
            progress=lambda *_: nullcontext(SimpleNamespace(advance=advanced.append)),
        )
        assert sum(advanced) == sum(map(len, scored.calls[-len(advanced) :] if advanced else []))
        return found

    scored.calls = []
    scored.folder = tmp_path / "cache"
    return scored


def expected(pairs=PAIRS):
    return [score_of(TEXTS[query], TEXTS[product]) for query, product in pairs]


def test_each_pair_is_scored_once_and_then_read_from_the_cache(run):
    assert run().tolist() == expected()
    pairs = [pair for call in run.calls for pair in call]
    assert len(pairs) == len(set(pairs)) == 6
    lengths = [sum(map(len, pair)) for pair in pairs]
    assert lengths == sorted(lengths, reverse=True)
    run.calls.clear()
    assert run().tolist() == expected()
    assert run(pairs=[*PAIRS[:2], (1, 5)]).tolist() == expected([*PAIRS[:2], (1, 5)])
    assert run.calls == [[("lamp", "oak")]]


def test_the_other_way_around_is_another_pair(run):
    assert run(pairs=[(0, 3), (3, 0)]).tolist() == expected([(0, 3), (3, 0)])


def test_a_run_after_a_kill_scores_only_what_was_not_written(run):
    with pytest.raises(ProcessKilledError):
        run(calls_left=2)
    assert run().tolist() == expected()
    pairs = [pair for call in run.calls for pair in call]
    assert len(pairs) == len(set(pairs)) == 6


def test_processes_share_the_pairs(run):
    with pytest.raises(TrainingError, match="scores that were just written are gone"):
        run(rank=1, ranks=2)  # the other rank has not scored its share
    of_second = [pair for call in run.calls for pair in call]
    run.calls.clear()
    assert run(rank=0, ranks=2).tolist() == expected()
    of_first = [pair for call in run.calls for pair in call]
    assert (len(of_first), len(of_second)) == (3, 3)
    assert not set(of_first) & set(of_second)


def test_a_score_that_is_no_number_names_its_pair(run):
    with pytest.raises(TrainingError, match=r"--teacher: the score of \('lamp', 'outdoor lamp, black'\) is"):
        run(score=lambda query, product: np.nan if query == "lamp" else 1.0)


def test_a_damaged_file_of_scores_is_computed_again(run):
    run()
    for path in run.folder.glob("*.vectors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\1")
    run.calls.clear()
    assert run().tolist() == expected()
    assert sum(map(len, run.calls)) == 6
