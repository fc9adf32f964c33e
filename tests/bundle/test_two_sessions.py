"""A graph for single texts and for batches: opened when needed, with the same embeddings in both sessions."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from aisle.bundle import graph_session
from aisle.bundle.onnx_encoder import load_bundle
from tests.bundle.small_bundle import open_twice, write_small_bundle

DIM = 8
BATCH = [f"red sofa {number} with a lamp" for number in range(100)]


@pytest.fixture
def opened(monkeypatch):
    """Return the threads of the sessions that were opened."""
    open_twice(monkeypatch)
    threads, open_session = [], graph_session._open_session

    def counted(folder, tower, count):
        threads.append(count)
        return open_session(folder, tower, count)

    monkeypatch.setattr(graph_session, "_open_session", counted)
    return threads


@pytest.fixture
def folder(minilm_dir, tmp_path):
    write_small_bundle(tmp_path / "bundle", minilm_dir, dim=DIM)
    return tmp_path / "bundle"


def one_by_one(encoder, texts):
    return np.concatenate([encoder.encode_products([text]) for text in texts])


def test_the_session_for_batches_is_opened_by_the_first_batch(opened, folder):
    encoder = load_bundle(folder)
    alone = one_by_one(encoder, BATCH)
    encoder.encode_queries(BATCH[:5])
    assert opened == [2]

    first, second = encoder.encode_products(BATCH), encoder.encode_products(BATCH)

    assert opened == [2, 1]
    np.testing.assert_allclose(first, alone, atol=1e-6)
    np.testing.assert_array_equal(first, second)


def test_threads_that_need_it_at_the_same_time_open_it_once(opened, folder):
    encoder = load_bundle(folder)
    alone = one_by_one(encoder, BATCH)
    start = threading.Barrier(8)

    def work(_):
        start.wait()
        return encoder.encode_products(BATCH)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(8)))

    assert opened == [2, 1]
    for embeddings in found:
        np.testing.assert_allclose(embeddings, alone, atol=1e-6)


def replaced(folder, minilm_dir):
    write_small_bundle(folder.with_name("other"), minilm_dir, dim=DIM, seed=5)
    folder.rename(folder.with_name("before"))
    folder.with_name("other").rename(folder)


def graph_replaced(folder, minilm_dir):
    write_small_bundle(folder.with_name("other"), minilm_dir, dim=DIM, seed=5)
    os.replace(folder.with_name("other") / "tower.onnx", folder / "tower.onnx")


def damaged(folder, _):
    content = (folder / "tower.onnx").read_bytes()
    (folder / "new").write_bytes(content[: len(content) // 2])
    os.replace(folder / "new", folder / "tower.onnx")


def removed(folder, _):
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", [replaced, graph_replaced, damaged, removed])
def test_a_bundle_that_changes_after_it_was_loaded_keeps_its_embeddings(
    change, opened, folder, minilm_dir, caplog
):
    encoder = load_bundle(folder)
    alone = one_by_one(encoder, BATCH)
    change(folder, minilm_dir)

    for _ in range(2):
        np.testing.assert_allclose(encoder.encode_products(BATCH), alone, atol=1e-6)

    assert opened == [2, 1]  # a failed opening is not repeated
    assert encoder.product_graph.for_batches() is encoder.product_graph.single
    assert [record.message[:33] for record in caplog.records] == ["batches are computed by the sessi"]


def test_large_weights_are_held_once(opened, folder, monkeypatch):
    monkeypatch.setattr(graph_session, "LARGEST_COPY", 0)

    load_bundle(folder).encode_products(BATCH)

    assert opened == [2]


def test_a_single_thread_needs_a_single_session(opened, folder, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    load_bundle(folder).encode_products(BATCH)

    assert opened == [1]


@pytest.mark.parametrize(("texts", "shrunk"), [(1, 0), (100, 1)])
def test_the_memory_of_large_calls_is_given_back_once_after_the_last(
    texts, shrunk, opened, folder, monkeypatch
):
    encoder = load_bundle(folder)
    encoder.encode_products(BATCH)
    session = encoder.product_graph.for_batches()
    before, options = session._session, []

    class Watched:
        def run(self, names, inputs, run_options=None):
            options.append(run_options)
            return before.run(names, inputs, run_options)

    monkeypatch.setattr(session, "_session", Watched())
    monkeypatch.setattr(encoder.product_graph.single, "_session", session._session)
    encoder.encode_products([f"{text} sofa" * 5 for text in BATCH[:texts]])

    assert [one is not None for one in options] == [False] * (len(options) - shrunk) + [True] * shrunk
