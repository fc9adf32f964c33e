"""A model that is replaced in its folder while it is served comes into use once it is whole and fits."""

import json
import os
import shutil

import numpy as np
import pytest

from aisle.errors import ModelError
from aisle.index import delete_products
from aisle.service.engine import Engine
from aisle.service.pairs import served_pair
from aisle.service.pairs.model_files import ModelFiles
from aisle.service.pairs.pointer_file import publish_pair
from aisle.service.pairs.served_pair import load_pair
from aisle.service.pairs.swap import PairSwapper, followed_pointer
from aisle.service.request_errors import RequestError
from tests.service.running_server import running_server
from tests.service.served_shop import write_served_shop

ASKED = {"query": "blue lamp", "top_k": 1}


@pytest.fixture(scope="module")
def other(tmp_path_factory, minilm_dir):
    """A shop of the same products with another model."""
    return write_served_shop(tmp_path_factory.mktemp("other"), minilm_dir, seed=1, fingerprint="b" * 64)


def replace_folder(folder, by):
    """Put a copy of a folder in the place of another, as `aisle export` does."""
    new = folder.with_name("new")
    shutil.copytree(by, new)
    folder.rename(folder.with_name("old"))
    new.rename(folder)
    shutil.rmtree(folder.with_name("old"))


def fingerprint(swapper):
    return swapper._engine.pair.encoder.fingerprint


def test_a_model_written_again_is_loaded_and_the_previous_version_stays_open(changing, swapper):
    engine = swapper._engine
    delete_products(changing.index_dir, ["p004"])
    assert swapper.swap() is True
    before = engine.pair

    replace_folder(changing.bundle, changing.bundle)

    assert swapper.swap() is True
    assert engine.pair.encoder is not before.encoder
    assert (engine.pair.version, swapper.status.swaps, swapper.status.problem) == (2, 2, None)
    assert swapper.swap() is False
    with changing.client(engine=engine) as client:
        for version, found in ((2, False), (1, True)):
            answer = client.post("/search", json={**ASKED, "version": version}).json()
            assert (answer["hits"][0]["id"] == "p004") is found


def test_model_and_index_replaced_one_after_the_other_swap_together(changing, swapper, other):
    """The model alone does not fit the old index; it is used with the new one."""
    replace_folder(changing.bundle, other.bundle)

    with pytest.raises(RequestError, match=r"version 1 of index keeps answering: .*fingerprint"):
        swapper.swap()
    assert swapper.swap() is False  # the same files are not tried again at once
    assert fingerprint(swapper) == changing.encoder.fingerprint
    texts = ["blue lamp"]
    np.testing.assert_array_equal(
        swapper._engine.pair.encoder.encode_queries(texts), changing.encoder.encode_queries(texts)
    )

    replace_folder(changing.index_dir, other.index_dir)

    assert swapper.swap() is True
    assert (fingerprint(swapper), swapper.status.problem) == (other.encoder.fingerprint, None)


def test_a_half_written_model_is_refused_until_it_is_whole(changing, swapper):
    graph = next(changing.bundle.glob("*.onnx"))
    content = graph.read_bytes()
    graph.write_bytes(content[:100])

    with pytest.raises(RequestError, match=r"keeps answering: .*bundle/tower.onnx: truncated"):
        swapper.swap()
    assert (swapper.status.refused, swapper._engine.pair.version) == (1, 1)

    with graph.open("ab") as file:  # the rest arrives, and is tried at once
        file.write(content[100:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RequestError, match="altered"):
        swapper.swap()
    graph.write_bytes(content)
    assert swapper.swap() is True
    assert (swapper.status.refused, swapper.status.problem) == (2, None)


@pytest.mark.parametrize("name", ["bundle.json", "tokenizer.json", ""])
def test_a_model_that_lost_files_is_refused_and_the_old_one_answers(changing, swapper, name):
    shutil.rmtree(changing.bundle) if name == "" else (changing.bundle / name).unlink()

    with pytest.raises(RequestError, match="keeps answering"):
        swapper.swap()

    with changing.client(engine=swapper._engine) as client:
        assert client.post("/search", json=ASKED).status_code == 200


def test_a_model_that_changes_while_it_is_loaded_is_refused(changing, swapper, monkeypatch):
    load = served_pair.encoder_of_index
    replace_folder(changing.bundle, changing.bundle)

    def load_and_write(*given, **options):
        encoder = load(*given, **options)
        os.utime(changing.bundle / "bundle.json", (1, 1))
        return encoder

    monkeypatch.setattr(served_pair, "encoder_of_index", load_and_write)
    with pytest.raises(RequestError, match="changed while the model was loaded"):
        swapper.swap()
    os.utime(changing.bundle / "bundle.json")
    with pytest.raises(ModelError, match="wait until all are written"):
        load_pair(changing.source())

    monkeypatch.undo()
    assert swapper.swap() is True


def test_the_model_that_the_index_records_is_watched_too(changing, shop):
    manifest = json.loads((changing.index_dir / "manifest.json").read_text())
    assert manifest["encoder"]["model"] == str(shop.bundle)

    pair = load_pair(changing.source(), keep=None)
    recorded = load_pair(served_pair.PairSource(changing.index_dir))

    assert pair.model_files.folders == (str(changing.bundle),)
    assert recorded.model_files.folders == (str(shop.bundle),)
    assert len(recorded.model_files.state) >= 3
    assert load_pair(changing.source(mode="lexical")).model_files == ModelFiles()


def test_a_published_model_that_is_replaced_is_loaded(changing, tmp_path):
    pointer = tmp_path / "serving.json"
    publish_pair(changing.pair(), pointer)
    swapper = PairSwapper(Engine(), followed_pointer(pointer, changing.source()))
    swapper.load_first()
    assert swapper.swap() is False

    replace_folder(changing.bundle, changing.bundle)

    assert swapper.swap() is True
    assert swapper.swap() is False


def test_only_files_that_are_served_count(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints" / "step").mkdir(parents=True)
    (run / "1_Pooling").mkdir()
    for name in ("aisle.json", "adapter_model.safetensors", "metrics.json", "1_Pooling/config.json"):
        (run / name).write_text("1")
    files = ModelFiles.of([str(run), None, "intfloat/e5-small-v2"])
    assert not files.changed

    for name in ("metrics.json", "report.html", "checkpoints/model.safetensors", "log.txt"):
        (run / name).write_text("22")
    assert not files.changed

    for name in ("aisle.json", "adapter_model.safetensors", "1_Pooling/config.json", "model.safetensors"):
        before = ModelFiles.of(files.folders)
        (run / name).write_text("22")
        assert before.changed, name
    before = ModelFiles.of(files.folders)
    shutil.rmtree(run)
    assert before.changed


def test_a_running_server_follows_the_model_and_the_index_in_their_places(changing, other):
    flags = ("--index_dir", changing.index_dir, "--model", changing.bundle, "--watch_seconds", 0.05)
    with running_server(*flags) as server:
        server.wait_until_ready()
        replace_folder(changing.bundle, other.bundle)
        server.wait_until(lambda server: server.client.get("/info").json()["swaps"]["problem"])
        old = server.client.post("/search", json=ASKED).json()
        replace_folder(changing.index_dir, other.index_dir)
        server.wait_until(lambda server: not server.client.get("/info").json()["swaps"]["problem"])
        new = server.client.post("/search", json=ASKED).json()

    assert old["model"]["fingerprint"] == changing.encoder.query_fingerprint
    assert new["model"]["fingerprint"] == other.encoder.query_fingerprint
