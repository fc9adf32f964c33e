"""A bundle is loaded in a thread while the index is opened, with the same result and the same errors."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

import aisle
from aisle.bundle.onnx_encoder import load_bundle
from aisle.errors import IndexIntegrityError, ModelError
from aisle.index import build_index
from aisle.search.started_bundle import start_bundle
from tests.bundle.small_bundle import write_small_bundle

TITLES = ["red sofa", "blue lamp", "oak table"]


@pytest.fixture
def bundle(minilm_dir, tmp_path):
    write_small_bundle(tmp_path / "bundle", minilm_dir)
    return tmp_path / "bundle"


@pytest.fixture
def index_dir(bundle, tmp_path):
    encoder = load_bundle(bundle)
    build_index(
        tmp_path / "index",
        product_ids=["a", "b", "c"],
        payload=pa.table({"title": TITLES}),
        embeddings=[encoder.encode_products(TITLES)],
        dim=encoder.dim,
        fingerprint=encoder.fingerprint,
        encoder={"model": str(bundle)},
        text_template=None,
    )
    return tmp_path / "index"


@pytest.mark.parametrize("named", [True, False])
def test_the_started_bundle_is_the_encoder_of_the_searcher(index_dir, bundle, named):
    model = str(bundle) if named else None
    started = start_bundle(index_dir, model)

    searcher = aisle.open_searcher(index_dir, model=model, started=started)

    assert searcher.encoder is started.encoder()
    assert searcher.search(["blue lamp"], top_k=1).product_ids.tolist() == [["b"]]
    expected = load_bundle(bundle).encode_queries(TITLES)
    assert np.array_equal(searcher.encoder.encode_queries(TITLES), expected)


def test_a_bundle_of_another_name_is_not_used(index_dir, bundle, minilm_dir, tmp_path):
    write_small_bundle(tmp_path / "other", minilm_dir, seed=1)
    started = start_bundle(index_dir, str(tmp_path / "other"))

    searcher = aisle.open_searcher(index_dir, started=started)

    assert searcher.encoder.name == str(bundle)


def test_nothing_is_started_without_an_index_or_for_another_encoder(index_dir, tmp_path):
    assert start_bundle(tmp_path / "none", None) is None
    assert start_bundle(index_dir, "all-MiniLM-L6-v2") is None


def test_an_altered_bundle_is_reported_as_without_the_thread(index_dir, bundle):
    with (bundle / "tower.onnx").open("r+b") as file:
        file.write(b"\xff")

    with pytest.raises(ModelError, match=r"tower\.onnx: altered") as caught:
        aisle.open_searcher(index_dir)

    assert f"{index_dir}: its encoder cannot be loaded; if it has moved, give it with --model" in str(
        caught.value
    )


def test_a_damaged_index_is_reported_before_the_bundle(index_dir, bundle):
    (bundle / "tower.onnx").write_bytes(b"")
    next(index_dir.glob("versions/*/graph.bin")).write_bytes(b"")

    with pytest.raises(IndexIntegrityError, match=r"graph\.bin"):
        aisle.open_searcher(index_dir)


def test_the_thread_imports_nothing_and_the_command_loads_neither_tyro_nor_pydantic(index_dir):
    """Packages that two threads import at the same time may be found half imported."""
    code = """
import builtins, json, sys, threading
import aisle.cli
there, in_threads = builtins.__import__, set()
def recorded(name, *rest, **named):
    before = set(sys.modules)
    found = there(name, *rest, **named)
    if threading.current_thread() is not threading.main_thread():
        in_threads.update(set(sys.modules) - before)
    return found
builtins.__import__ = recorded
code = aisle.cli.main(["query", "--index_dir", sys.argv[1], "blue lamp", "--json"])
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps([code, sorted(in_threads), sorted(names & {"tyro", "pydantic", "yaml", "torch", "joblib"})]))
"""
    command = [sys.executable, "-c", code, str(index_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    answer, last = done.stdout.splitlines()
    assert json.loads(answer)[0]["results"][0]["product_id"] == "b"
    assert json.loads(last) == [0, [], []]
