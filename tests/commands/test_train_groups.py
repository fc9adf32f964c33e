"""Training on texts with their groups, from the file to a saved model."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

import aisle
from aisle.cli import train_main
from aisle.models.tower import Tower
from tests.commands.conftest import write_rows

NOUNS = ["sofa", "lamp", "table", "chair", "bed", "rug"]
ROWS = [(f"{word} {noun}", noun) for noun in NOUNS for word in ("red", "blue", "old", "small")]


@pytest.fixture
def train(tiny_bert, tmp_path, capfd):
    """Train for a step or two; return the exit code, the output on one line, and the run."""

    def run(rows, *flags, header=("text", "kind"), output="run"):
        path = write_rows(tmp_path / "train.csv", header, rows)
        given = ["--use_peft", "--model_name_or_path", tiny_bert, "--output_dir", tmp_path / output]
        given += [
            "--train_file",
            path,
            "--max_train_steps",
            2,
            "--logging_steps",
            1,
            "--max_length",
            16,
            *flags,
        ]
        code = train_main([str(one) for one in given])
        printed = capfd.readouterr()
        return code, " ".join((printed.out + printed.err).split()), tmp_path / output

    return run


def test_a_run_on_groups_holds_out_groups_and_saves_a_model(train):
    flags = ["--group_column", "kind", "--validation_share", 0.4, "--eval_sample", 5]
    code, said, run_dir = train(ROWS, *flags, "--per_device_train_batch_size", 16, "--batch_metrics")
    assert code == 0, said
    assert "train: 24 texts; text: text, group: kind" in said
    assert "no group is on both sides" in said
    assert "validation: 5 texts rank the 8 texts, and those of the same group are right" in said
    assert "--in_batch_directions: query_to_product" in said
    logged = json.loads((run_dir / "log.jsonl").read_text().splitlines()[0])
    assert {"batch_mrr", "batch_r_precision", "batch_precision@1", "batch_precision@10"} <= logged.keys()
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert {"mrr", "r_precision", "precision@1", "precision@10"} <= metrics["best"].keys()
    assert metrics["selection_metric"] == "mrr"
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert (saved["group_column"], saved["texts_per_group"], saved["loss"]) == ("kind", 4, "in_batch")
    assert aisle.load_encoder(str(run_dir)).encode_products(["red sofa"]).shape == (1, 32)


def test_a_run_on_few_groups_holds_out_two_of_them(train):
    """The texts of a single group would rank each other perfectly before any training."""
    mixed = [(text, n % 6) for n, (text, _) in enumerate(ROWS)]  # no noun tells the group
    code, said, run_dir = train(mixed, "--group_column", "kind", "--per_device_train_batch_size", 16)
    assert code == 0, said
    assert "held out 8 texts for validation" in said
    assert json.loads((run_dir / "metrics.json").read_text())["base"]["mrr"] < 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS[:4], "validation: all 4 rows are of the group 'sofa'"),
        (
            [*ROWS[:8], ("red sofa", "lamp")],
            "validation: groups that share a text count as a single group: 1 of 2",
        ),
        (ROWS[::4], "validation: each of the 6 groups has a single text"),
    ],
)
def test_a_validation_file_in_which_nothing_can_be_ranked_is_refused(train, tmp_path, rows, message):
    path = write_rows(tmp_path / "validation.csv", ("text", "kind"), rows)
    code, said, _ = train(ROWS, "--group_column", "kind", "--validation_file", path)
    assert code == 2
    assert message in said


def test_pairs_with_groups_and_subgroups_are_read(train):
    rows = [(f"{noun} {n}", f"{n} {noun}", noun, n % 2) for noun in NOUNS for n in range(3)]
    flags = ["--group_column", "variant", "--subgroup_column", "shop", "--validation_share", 0.3]
    code, said, _ = train(rows, *flags, header=("query", "product", "variant", "shop"))
    assert code == 0, said
    assert "group of the product: variant, subgroup: shop" in said


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (ROWS, ["--group_column", "sort"], "sort"),
        (ROWS[:4], ["--group_column", "kind"], "all 4 rows are of the group 'sofa'"),
        (ROWS[::4], ["--group_column", "kind"], "groups has a single text"),
        (
            ROWS,
            ["--group_column", "kind", "--loss", "cosent"],
            "--loss cosent: needs pairs of a query and a product",
        ),
        (
            ROWS,
            ["--group_column", "kind", "--selection", "joint_pool"],
            "--selection joint_pool: needs pairs",
        ),
        (ROWS, ["--group_column", "kind", "--texts_per_group", 1], "--texts_per_group"),
        (ROWS[:12], ["--group_column", "kind"], "have 3 groups"),
        (
            [*ROWS, *(("nice", noun) for noun in NOUNS[:4])],
            ["--group_column", "kind"],
            "3 of 6 groups remain, and the largest has 71% of the rows",
        ),
        (
            [(f"{n} {noun}", noun) for noun in NOUNS for n in range(20)],
            ["--group_column", "kind", "--texts_per_group", 64, "--per_device_train_batch_size", 8],
            "8 texts and no negative: all texts are of the same group. Give a higher "
            "--per_device_train_batch_size, or a lower --texts_per_group (here 64, at least 2)",
        ),
    ],
)
def test_groups_that_cannot_be_trained_on_are_refused(train, rows, flags, message):
    code, said, _ = train(rows, *flags)
    assert code == 2
    assert message in said


def test_arcface_trains_vectors_of_groups_that_only_checkpoints_hold(train):
    flags = ["--group_column", "kind", "--loss", "arcface", "--arcface_scale", 16, "--validation_share", 0.4]
    flags += ["--checkpointing_steps", 1, "--matryoshka_dims", 32, 8]
    code, said, run_dir = train(ROWS, *flags)
    assert code == 0, said
    states = [
        torch.load(run_dir / "checkpoints" / step / "custom_checkpoint_2.pkl")
        for step in ("step_00000001", "step_00000002")
    ]
    vectors = [state["class_weights"] for state in states]
    assert vectors[0].shape == (4, 32)  # two of six groups are held out
    assert not torch.equal(*vectors)
    assert not [name for name in load_file(run_dir / "adapter_model.safetensors") if "class_weights" in name]

    shutil.rmtree(run_dir / "checkpoints" / "step_00000002")
    weights = (run_dir / "adapter_model.safetensors").read_bytes()
    code, said, _ = train(ROWS, *flags, "--resume_from_checkpoint", "latest")
    assert code == 0, said
    assert (run_dir / "adapter_model.safetensors").read_bytes() == weights
    resumed = torch.load(run_dir / "checkpoints" / "step_00000002" / "custom_checkpoint_2.pkl")
    torch.testing.assert_close(resumed["class_weights"], vectors[1], rtol=0, atol=0)


def test_a_model_with_separate_towers_is_refused(train, monkeypatch):
    monkeypatch.setattr(Tower, "separate_sides", True)
    code, said, _ = train(ROWS, "--group_column", "kind")
    assert code == 2
    assert "--group_column: rows of a text with its group train a single tower" in said


def test_arcface_is_refused_for_pairs(train):
    rows = [(f"{noun} {n}", f"{n} {noun}") for noun in NOUNS for n in range(2)]
    code, said, _ = train(rows, "--loss", "arcface", header=("query", "product"))
    assert code == 2
    assert "--loss arcface: needs rows of a text with its group, and the rows are pairs" in said


def test_settings_of_groups_that_nothing_reads_are_named(train):
    rows = [(f"{noun} {n}", f"{n} {noun}", n % 2, noun) for noun in NOUNS for n in range(3)]
    flags = ["--group_column", "variant", "--validation_share", 0.3, "--texts_per_group", 3]
    _, said, _ = train(rows, *flags, header=("query", "product", "label", "variant"))
    assert "--group_column is not used: cosine_target takes no negatives from the batch" in said
    assert "--texts_per_group is not used: the rows are pairs" in said
