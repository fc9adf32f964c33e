"""A shop to serve, made once; tests that change it copy it."""

import pytest

from tests.service.served_shop import write_served_shop


@pytest.fixture(scope="session")
def shop(minilm_dir, tmp_path_factory):
    """A bundle and its index; read it, never write to it."""
    return write_served_shop(tmp_path_factory.mktemp("shop"), minilm_dir)


@pytest.fixture
def client(shop):
    with shop.client() as client:
        yield client
