"""A finished run or an untrained adapter, with an index, and the flags that evaluate it."""

import shutil

import pytest

from aisle.cli import train_main
from tests.commands.evaluate.evaluated_shop import build, write_adapter, write_shop, write_table

PAIRS = [
    ("red sofa", "red sofa", 1), ("red sofa", "blue lamp", 0), ("oak bed", "oak bed", 1),
    ("oak bed", "oak table", 0), ("blue lamp", "blue lamp", 1), ("blue lamp", "wool rug", 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_bert, tmp_path_factory):
    """A finished run, its index, and the files of the shop."""
    folder = tmp_path_factory.mktemp("shop")
    files = write_shop(folder)
    files["pairs"] = write_table(folder / "pairs.csv", ["query", "product", "relevance"], PAIRS)
    files["run"] = folder / "run"
    given = {
        "--model_name_or_path": tiny_bert, "--train_file": files["pairs"], "--output_dir": files["run"],
        "--max_train_steps": 2, "--max_length": 16, "--learning_rate": 0.01,
    }  # fmt: skip
    assert train_main(["--use_peft", *(str(word) for flag in given.items() for word in flag)]) == 0
    files["index"] = build(files["run"], files["catalog"], folder / "index", "--precision", "fp32")
    return files


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of the run that a test may write to."""
    return shutil.copytree(trained["run"], tmp_path / "run")


@pytest.fixture
def judged(trained):
    return flags_of(trained)


@pytest.fixture
def run_flags(judged, run_dir):
    return [*judged, "--model", run_dir]


@pytest.fixture(scope="module")
def shop(tiny_bert, tmp_path_factory):
    """Files of a shop, an adapter and its index; for reading only."""
    folder = tmp_path_factory.mktemp("shop")
    files = write_shop(folder)
    files["run"] = write_adapter(folder / "run", tiny_bert)
    files["index"] = build(files["run"], files["catalog"], folder / "index", "--precision", "fp32")
    return files


@pytest.fixture
def flags(shop):
    return flags_of(shop)


def flags_of(files):
    return ["--index_dir", files["index"], "--queries", files["queries"], "--qrels", files["qrels"]]


@pytest.fixture
def never_embeds(monkeypatch):
    def fail(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr("aisle.commands.evaluate.run.load_models", fail)
