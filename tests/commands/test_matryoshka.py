"""A run that is trained for prefixes of its embeddings, from the flag to a search."""

import json
import shutil

import numpy as np
import pytest
import yaml

import aisle
from aisle.cli import main, train_main
from tests.commands.conftest import QUERIES, judged_rows, write_rows


@pytest.fixture(scope="module")
def run_dir(tiny_bert, tmp_path_factory):
    folder = tmp_path_factory.mktemp("matryoshka")
    rows = write_rows(folder / "train.csv", ["query", "product", "relevance"], judged_rows(QUERIES))
    flags = ["--train_file", rows, "--model_name_or_path", tiny_bert, "--output_dir", folder / "run"]
    flags += ["--max_length", 16, "--max_train_steps", 2, "--use_peft", "--loss", "in_batch"]
    assert train_main([*map(str, flags), "--matryoshka_dims", "16", "8"]) == 0
    return folder / "run"


def test_the_dimensions_are_recorded_and_kept_by_a_merge_and_an_average(run_dir, tmp_path):
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["matryoshka_dims"] == [16, 8]
    assert "| Matryoshka dimensions | 16, 8 |" in (run_dir / "README.md").read_text()
    assert main(["merge", str(run_dir), "--output_dir", str(tmp_path / "merged")]) == 0
    runs = [str(run_dir), str(shutil.copytree(run_dir, tmp_path / "other"))]
    assert main(["average", *runs, "--output_dir", str(tmp_path / "average")]) == 0
    for folder in (run_dir, tmp_path / "merged", tmp_path / "average"):
        assert json.loads((folder / "aisle.json").read_text())["matryoshka"] == {"dims": [16, 8]}


def test_build_keeps_a_trained_prefix_and_notes_another(run_dir, catalog_csv, tmp_path, capsys):
    for dimensions, noted in ((8, False), (5, True)):
        index_dir = tmp_path / str(dimensions)
        flags = ["--model", run_dir, "--catalog", catalog_csv, "--index_dir", index_dir]
        assert main(["build", *map(str, flags), "--dimensions", str(dimensions)]) == 0
        note = f"note: --dimensions {dimensions}: the model was trained with --matryoshka_dims 16 8"
        assert (note in " ".join(capsys.readouterr().out.split())) == noted
    searcher = aisle.open_searcher(tmp_path / "8")
    hits = searcher.search(["red sofa"], top_k=3)
    encoder = aisle.load_encoder(str(run_dir))
    whole = encoder.encode_queries(["red sofa"])
    cut = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.truncated(8).encode_queries(["red sofa"]), cut, atol=1e-6)
    assert hits


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        (["16", "16"], "--matryoshka_dims 16 16: give each number once"),
        (["512"], "--matryoshka_dims 512: the model's embeddings have 32 components; give at most 32"),
        (["0"], "--matryoshka_dims"),
    ],
)
def test_dimensions_that_cannot_be_trained_are_refused(tiny_bert, judged_csv, tmp_path, capfd, dims, message):
    flags = ["--train_file", judged_csv, "--model_name_or_path", tiny_bert, "--output_dir", tmp_path / "run"]
    assert train_main([*map(str, flags), "--matryoshka_dims", *dims]) == 2
    printed = capfd.readouterr()
    assert message in " ".join((printed.out + printed.err).split())
