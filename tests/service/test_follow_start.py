"""`aisle serve --follow` starts with the pair before if the published one cannot be served."""

import shutil
from pathlib import Path

import pytest

from aisle import extras
from aisle.cli import main
from aisle.commands.served_source import computes_with_torch, usable_source
from aisle.service.engine import Engine
from aisle.service.pairs.pointer_file import publish_pair
from aisle.service.pairs.served_pair import PairSource, load_pair
from aisle.service.pairs.swap import PairSwapper, followed_pointer
from aisle.service.request_errors import RequestError
from tests.service.running_server import running_server
from tests.service.served_shop import ServedShop


@pytest.fixture
def followed(shop, tmp_path):
    """A pointer whose pair and previous pair have the folders `new` and `old`."""
    pointer = tmp_path / "serving.json"
    for name in ("old", "new"):
        folder = tmp_path / name
        shutil.copytree(shop.index_dir, folder / "index")
        shutil.copytree(shop.bundle, folder / "bundle")
        publish_pair(
            load_pair(ServedShop(folder / "bundle", folder / "index", shop.encoder).source()), pointer
        )
    return pointer


def no_index(folder):
    shutil.rmtree(folder / "index")


def no_manifests(folder):
    for path in (folder / "index").rglob("manifest.json"):
        path.write_text("{")


def damaged_embeddings(folder):
    path = next((folder / "index" / "versions").rglob("embeddings.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def no_bundle(folder):
    shutil.rmtree(folder / "bundle")


def damaged_bundle(folder):
    (folder / "bundle" / "tokenizer.json").write_text("{}")


def model_for_torch(folder):
    (folder / "bundle" / "bundle.json").unlink()


def empty_model(folder):
    no_bundle(folder)
    (folder / "bundle").mkdir()


FAULTS = [no_index, no_manifests, damaged_embeddings, no_bundle, damaged_bundle, model_for_torch, empty_model]


@pytest.fixture
def no_torch(monkeypatch):
    """Let torch be missing, as where only bundles are served."""
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "torch" else found(name))


def watched_by(pointer):
    return followed_pointer(pointer, PairSource(Path()))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("no_torch")
def test_a_start_serves_the_pair_before(fault, followed):
    fault(followed.parent / "new")
    watched, engine = watched_by(followed), Engine()

    assert not computes_with_torch(usable_source(watched))
    swapper = PairSwapper(engine, watched)
    swapper.load_first()

    assert engine.pair.source.index_dir == followed.parent / "old" / "index"
    assert "keeps answering" in swapper.status.problem


@pytest.mark.usefixtures("no_torch")
def test_a_pair_whose_extra_is_missing_is_refused_by_a_running_server(followed):
    swapper = PairSwapper(Engine(), watched_by(followed))
    swapper.load_first()
    model_for_torch(followed.parent / "new")

    with pytest.raises(RequestError, match=r"keeps answering: torch is not installed"):
        swapper.swap()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (no_index, "new/index: an index holds manifest.json, found none"),
        (no_bundle, "new/bundle is missing; if it has moved, give its folder with --model"),
        (model_for_torch, "torch is not installed; install it with: pip install 'aisle-search[encode]'"),
    ],
)
@pytest.mark.usefixtures("no_torch")
def test_a_message_names_the_published_pair_if_neither_can_be_served(fault, message, followed, capsys):
    for name in ("old", "new"):
        fault(followed.parent / name)

    assert main(["serve", "--follow", str(followed), "--port", "0"]) == 2

    assert message in capsys.readouterr().err


def test_the_program_starts_with_the_pair_before_if_the_published_index_is_gone(followed):
    no_index(followed.parent / "new")

    with running_server("--follow", followed) as server:
        server.wait_until_ready()

        assert server.client.post("/search", json={"query": "red sofa"}).status_code == 200
        assert f"version 1 of {followed.parent / 'old' / 'index'} answers" in server.log
        assert server.stop() == (0, "False\n")
