"""A shop to serve, made once; tests that change it copy it."""

import shutil

import pytest

from aisle.cli import main
from aisle.service.engine import Engine
from aisle.service.pairs.swap import PairSwapper, watched_index
from tests.service.served_shop import ServedShop, write_served_shop


@pytest.fixture(scope="session")
def shop(minilm_dir, tmp_path_factory):
    """A bundle and its index; read it, never write to it."""
    return write_served_shop(tmp_path_factory.mktemp("shop"), minilm_dir)


@pytest.fixture
def client(shop):
    with shop.client() as client:
        yield client


@pytest.fixture
def changing(shop, tmp_path):
    """A copy of the shop, to change."""
    shutil.copytree(shop.index_dir, tmp_path / "index")
    shutil.copytree(shop.bundle, tmp_path / "bundle")
    return ServedShop(tmp_path / "bundle", tmp_path / "index", shop.encoder)


@pytest.fixture
def swapper(changing):
    swapper = PairSwapper(Engine(), watched_index(changing.source()))
    swapper.load_first()
    return swapper


@pytest.fixture(scope="module")
def package(shop, tmp_path_factory):
    """A folder that `aisle package` wrote."""
    folder = tmp_path_factory.mktemp("models") / "model"
    flags = ["--index_dir", shop.index_dir, "--model", shop.bundle, "--output", folder]
    assert main(["package", *map(str, flags)]) == 0
    return folder
