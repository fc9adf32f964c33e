"""Training that starts from a finished run, and runs that continue for more epochs than first planned."""

import json
import shutil

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from aisle.cli import train_main
from aisle.models.loading import load_encoder
from tests.commands.conftest import QUERIES

TITLES = ["modern sofa", "small lamp", "large oak table", "a bed of wool"]


@pytest.fixture
def train(tiny_bert, judged_csv, tmp_path, capfd):
    """Run train_peft.py; return its exit code, the run's folder and its output on one line."""

    def run(output, *flags, model=tiny_bert):
        given = ["--model_name_or_path", str(model), "--output_dir", str(tmp_path / output)]
        given += ["--train_file", str(judged_csv), "--max_length", "16", "--learning_rate", "0.01"]
        given += ["--per_device_train_batch_size", "8", "--dropout", "0", *map(str, flags)]
        code = train_main(given)
        said = capfd.readouterr()
        return code, tmp_path / output, " ".join((said.out + said.err).split())

    return run


def embeddings(run_dir):
    encoder = load_encoder(run_dir, device="cpu")
    return np.concatenate([encoder.encode_queries(QUERIES), encoder.encode_products(TITLES)])


def log_of(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


SHAPE = (
    "--use_peft",
    "--lora_rank",
    4,
    "--lora_target_modules",
    "query",
    "dense",
    "--query_prompt",
    "find: ",
)


@pytest.mark.parametrize("dora", [[], ["--use_dora"]], ids=["lora", "dora"])
def test_the_adapter_of_a_finished_run_is_trained_further(train, dora, tiny_bert):
    """The new run starts with the figures of the finished run, and its steps change them."""
    _, first, _ = train("first", *SHAPE, *dora, "--max_train_steps", 4)
    finished = json.loads((first / "metrics.json").read_text())["best"]

    code, second, said = train("second", "--use_peft", "--max_train_steps", 3, model=first)

    assert code == 0, said
    assert "rank 4, alpha 16" in said
    assert f"is trained further, over {tiny_bert}" in said
    metrics = json.loads((second / "metrics.json").read_text())
    assert metrics["base"]["average_precision"] == pytest.approx(finished["average_precision"], abs=1e-6)
    settings = yaml.safe_load((second / "config.yaml").read_text())
    assert (settings["lora_rank"], settings["use_dora"]) == (4, bool(dora))
    assert sorted(settings["lora_target_modules"]) == ["dense", "query"]
    assert settings["query_prompt"] == "find: "
    saved, before = (json.loads((run / "aisle.json").read_text()) for run in (second, first))
    assert saved["base_model"] == before["base_model"]
    assert saved["began_at"]["fingerprint"] == before["fingerprint"] != saved["fingerprint"]
    assert "the LoRA run `first`: adapter trained further" in (second / "README.md").read_text()
    weights = [load_file(run / "adapter_model.safetensors") for run in (first, second)]
    assert weights[0].keys() == weights[1].keys()
    assert any("magnitude" in name for name in weights[1]) == bool(dora)
    assert load_encoder(second, device="cpu").fingerprint == saved["fingerprint"]
    moved = max(float(np.abs(weights[1][name] - weights[0][name]).max()) for name in weights[0])
    assert 1e-3 < moved < 0.1


@pytest.mark.parametrize("dora", [[], ["--use_dora"]], ids=["lora", "dora"])
def test_full_fine_tuning_merges_a_finished_adapter_and_trains_all_weights(train, dora):
    _, first, _ = train("first", *SHAPE, *dora, "--max_train_steps", 4)
    finished = json.loads((first / "metrics.json").read_text())["best"]

    code, second, said = train("second", "--max_train_steps", 1, "--learning_rate", 1e-5, model=first)

    assert code == 0, said
    assert "is merged into" in said
    metrics = json.loads((second / "metrics.json").read_text())
    assert metrics["base"]["average_precision"] == pytest.approx(finished["average_precision"], abs=1e-6)
    np.testing.assert_allclose(embeddings(second), embeddings(first), atol=5e-3)
    saved = json.loads((second / "aisle.json").read_text())
    assert saved["began_at"]["adapter"] == "merged"
    assert not saved["adapter"]
    assert not (second / "adapter_config.json").exists()
    assert "the LoRA run `first`: adapter merged" in (second / "README.md").read_text()


def test_an_adapter_of_another_shape_than_the_finished_one_is_refused(train):
    _, first, _ = train("first", *SHAPE, "--max_train_steps", 1)
    code, _, said = train("second", "--use_peft", "--lora_rank", 16, "--max_train_steps", 1, model=first)
    assert code == 2
    assert "--lora_rank 16: the adapter of" in said
    assert "has 4, and is trained further; leave the flag out, or merge the adapter first" in said


def test_a_run_does_not_overwrite_the_run_it_starts_from(train):
    _, first, _ = train("first", *SHAPE, "--max_train_steps", 1)
    code, _, said = train("first", "--use_peft", "--overwrite_output_dir", model=first)
    assert code == 2
    assert "is the model that training starts from" in said
    assert (first / "aisle.json").exists()


def test_a_run_that_started_from_another_resumes_to_the_same_weights(train, tmp_path):
    _, first, _ = train("first", *SHAPE, "--max_train_steps", 2)
    flags = ["--use_peft", "--max_train_steps", 4, "--checkpointing_steps", 2]
    _, whole, _ = train("whole", *flags, model=first)
    step = "checkpoints/step_00000002"
    shutil.copytree(whole / step, tmp_path / "resumed" / step)
    code, resumed, said = train("resumed", *flags, "--resume_from_checkpoint", "latest", model=first)
    assert code == 0, said
    file = "adapter_model.safetensors"
    assert (resumed / file).read_bytes() == (whole / file).read_bytes()
    _, other, _ = train("other", *SHAPE, "--max_train_steps", 3)
    code, _, said = train("resumed", *flags, "--resume_from_checkpoint", "latest", model=other)
    assert code == 2
    assert "base model's fingerprint was" in said


@pytest.mark.parametrize("shape", [["constant"], ["constant_with_warmup", "--num_warmup_steps", 3]])
def test_more_epochs_at_a_constant_rate_end_in_the_weights_of_a_run_that_had_them(train, shape):
    flags = [
        "--use_peft",
        "--lr_scheduler_type",
        *shape,
        "--checkpointing_steps",
        "epoch",
        "--lora_dropout",
        0.1,
    ]
    flags += ["--keep", "last"]
    _, whole, _ = train("whole", *flags, "--num_train_epochs", 3)
    train("grown", *flags, "--num_train_epochs", 2)

    more = ["--num_train_epochs", 3, "--resume_from_checkpoint", "latest"]
    code, grown, said = train("grown", *flags, *more)

    assert code == 0, said
    assert "steps in all: 15; they were 10 when the checkpoint was written" in said
    file = "adapter_model.safetensors"
    assert (grown / file).read_bytes() == (whole / file).read_bytes()
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (whole, grown)]
    assert metrics[0]["history"] == metrics[1]["history"]
    assert yaml.safe_load((grown / "config.yaml").read_text())["num_train_epochs"] == 3


def test_more_epochs_at_a_rate_that_is_spread_over_them_are_refused_with_what_to_do(train):
    flags = ["--use_peft", "--checkpointing_steps", "epoch"]
    _, run_dir, _ = train("run", *flags, "--num_train_epochs", 1)
    before = (run_dir / "adapter_model.safetensors").read_bytes()
    more = ["--num_train_epochs", 2, "--resume_from_checkpoint", "latest"]
    code, _, said = train("run", *flags, *more)
    assert code == 2
    assert (
        "steps in all were 5 and are now 10, and --lr_scheduler_type linear spreads the learning rate" in said
    )
    assert f"--model_name_or_path {run_dir} and another --output_dir" in said
    assert (run_dir / "adapter_model.safetensors").read_bytes() == before


def test_a_finished_run_without_checkpoints_is_resumed_as_a_model_to_train_further(train):
    _, run_dir, _ = train("run", "--use_peft", "--num_train_epochs", 1)
    more = ["--num_train_epochs", 2, "--resume_from_checkpoint", "latest"]
    code, _, said = train("run", "--use_peft", *more)
    assert code == 2
    assert (
        f"The run is finished: train its model further in a new run: --model_name_or_path {run_dir}" in said
    )
