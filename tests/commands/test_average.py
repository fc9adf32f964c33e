"""`aisle average`: the mean of the weights of runs, and runs that are refused."""

import json
import shutil

import numpy as np
import pytest
import yaml

from aisle.cli import main, train_main
from aisle.models.loading import load_encoder
from tests.commands.conftest import QUERIES, judged_rows, write_rows

TEXTS = ["a red sofa", "lamp", "wooden table for the garden"]


@pytest.fixture(scope="module")
def runs(tiny_bert, tmp_path_factory):
    """Three runs of the same base: two with different LoRA ranks and layers, and a run of all weights."""
    folder = tmp_path_factory.mktemp("runs")
    pairs = write_rows(folder / "pairs.csv", ["query", "product", "relevance"], judged_rows(QUERIES))
    flags = [
        "--model_name_or_path",
        tiny_bert,
        "--train_file",
        pairs,
        "--max_length",
        16,
        "--max_train_steps",
        3,
    ]
    flags += ["--learning_rate", 0.01]
    kinds = {
        "one": ["--use_peft", "--lora_rank", 4],
        "two": ["--use_peft", "--lora_rank", 8, "--lora_target_modules", "query", "dense", "--seed", 7],
        "full": [],
    }
    for name, extra in kinds.items():
        assert train_main([*map(str, [*flags, *extra]), "--output_dir", str(folder / name)]) == 0
    return folder


@pytest.fixture
def average(runs, tmp_path, capfd):
    """Average runs by name; return the exit code, the averaged model's folder and the output."""

    def run(*names, output="average", flags=()):
        capfd.readouterr()
        folders = [str(runs / name) for name in names]
        code = main(["average", *folders, "--output_dir", str(tmp_path / output), *map(str, flags)])
        said = capfd.readouterr()
        return code, tmp_path / output, " ".join((said.out + said.err).split())

    return run


def parameters(folder):
    return {
        n: p.detach().numpy()
        for n, p in load_encoder(folder, device="cpu").model.product_tower.named_parameters()
    }


@pytest.mark.parametrize(
    ("names", "weights", "shares"),
    [(("one", "two", "full"), (), (1 / 3, 1 / 3, 1 / 3)), (("one", "full"), (3, 1), (0.75, 0.25))],
)
def test_weights_are_the_weighted_mean_of_the_runs(average, runs, names, weights, shares):
    flags = ["--weights", *weights] if weights else []
    code, folder, said = average(*names, flags=flags)
    assert code == 0, said
    assert f"averaged {len(names)} runs" in said
    found, of_runs = parameters(folder), [parameters(runs / name) for name in names]
    moved = 0.0
    for name, value in found.items():
        mean = sum(share * one[name].astype(np.float64) for share, one in zip(shares, of_runs, strict=True))
        np.testing.assert_allclose(value, mean, atol=1e-7, err_msg=name)
        moved = max(moved, float(np.abs(value - of_runs[0][name]).max()))
    assert moved > 1e-3


def test_an_average_is_a_run_that_every_reader_opens(average, tiny_bert):
    from sentence_transformers import SentenceTransformer

    _, folder, _ = average("one", "two")
    encoder = load_encoder(folder, device="cpu")
    other = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(encoder.encode_products(TEXTS), other, atol=1e-5)
    said = json.loads((folder / "aisle.json").read_text())
    assert (said["adapter"], said["base_model"], said["max_length"]) == (False, str(tiny_bert), 16)
    assert yaml.safe_load((folder / "config.yaml").read_text())["runs"][0].endswith("one")
    card = (folder / "README.md").read_text()
    assert "| Average of the weights of | one, two |" in card
    assert str(folder.parent) not in card
    assert not (folder / "metrics.json").exists()


def test_an_average_can_be_averaged_and_indexed_and_prints_a_document(average, runs, tmp_path, capfd):
    _, folder, _ = average("one", "two")
    shutil.copytree(folder, tmp_path / "copy")
    capfd.readouterr()
    given = [str(folder), str(runs / "full"), "--output_dir", str(tmp_path / "again"), "--json"]
    assert main(["average", *given]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["weights"] == [1.0, 1.0]
    assert document["fingerprint"] == load_encoder(tmp_path / "again", device="cpu").fingerprint


def test_runs_of_another_base_or_with_other_settings_are_refused_with_both(average, runs, tmp_path):
    for key, value in {"base_model": "another", "query_prompt": "query: ", "pooling": "cls"}.items():
        changed = shutil.copytree(runs / "two", tmp_path / f"with_{key}")
        description = json.loads((changed / "aisle.json").read_text())
        own = description[key]
        (changed / "aisle.json").write_text(json.dumps({**description, key: value}))
        code, folder, said = average("one", changed)
        assert code == 2
        assert f"has {key} {value!r}, and" in said
        assert f"has {key} {own!r}" in said or f"has {own!r}" in said
        assert not folder.exists()


@pytest.mark.parametrize(
    ("names", "flags", "why"),
    [
        (("one",), (), "an average needs two runs or more, found 1"),
        (("one", "two"), ("--weights", 1), "--weights: must be one for each of the 2 runs, found 1"),
        (("one", "two"), ("--weights", 1, 0), "--weights"),
        (("one", "two"), ("--weights", 1, "nan"), "--weights"),
        (("one", "one"), (), "a run is given twice"),
        (("one", "pairs.csv"), (), "pairs.csv"),
        (("one", "missing"), (), "missing"),
    ],
)
def test_runs_that_cannot_be_averaged_are_refused(average, names, flags, why):
    code, folder, said = average(*names, flags=flags)
    assert code == 2
    assert why in said
    assert "Traceback" not in said
    assert not folder.exists()


def test_a_base_model_cannot_be_averaged(average, tiny_bert):
    code, _, said = average("one", tiny_bert)
    assert code == 2
    assert "is not a run; it has no aisle.json" in said


def test_a_folder_with_a_run_is_replaced_only_with_overwrite_output_dir(average):
    _, folder, _ = average("one", "two")
    (folder / "metrics.json").write_text("{}")
    before = (folder / "model.safetensors").read_bytes()
    code, _, said = average("one", "full")
    assert code == 2
    assert "contains another run" in said
    assert (folder / "model.safetensors").read_bytes() == before
    code, _, _ = average("one", "full", flags=["--overwrite_output_dir"])
    assert code == 0
    assert (folder / "model.safetensors").read_bytes() != before
    assert not (folder / "metrics.json").exists()
