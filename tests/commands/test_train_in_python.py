"""`aisle.train`: training from a notebook or a program, on data in memory."""

import json
import os
import signal
import subprocess
import sys

import pytest
import yaml

import aisle
from aisle.cli import main
from aisle.commands.train.run_dir import TrainingLog
from aisle.errors import ConfigError, DataError, TrainingStopped
from tests.commands.conftest import QUERIES, judged_rows

ROWS = [
    {"query": query, "product": product, "relevance": relevance}
    for query, product, relevance in judged_rows(QUERIES)
]
SETTINGS = {
    "use_peft": True,
    "max_train_steps": 3,
    "per_device_train_batch_size": 8,
    "learning_rate": 0.001,
    "validation_share": 0.25,
    "logging_steps": 1,
}


def adapter_of(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.fixture
def train(tiny_bert, tmp_path):
    """Return a function that trains the tiny model into a folder of `tmp_path`."""

    def call(data, name="run", **settings):
        given = {"model_name_or_path": tiny_bert, **SETTINGS, **settings}
        return aisle.train(train_data=data, output_dir=tmp_path / name, **given)

    return call


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    return path


def forms(rows):
    """Return the rows in every form that `train_data` may have."""
    import datasets
    import pandas as pd

    return {
        "list": rows,
        "frame": pd.DataFrame(rows),
        "dataset": datasets.Dataset.from_list(rows),
        "splits": datasets.DatasetDict(train=datasets.Dataset.from_list(rows)),
    }


def test_rows_in_memory_train_the_same_bytes_as_their_jsonl_file(train, jsonl, tiny_bert, tmp_path):
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in SETTINGS.items()]
    arguments = ["--model_name_or_path", tiny_bert, "--train_file", jsonl, "--output_dir", tmp_path / "file"]
    assert main(["train", *map(str, arguments), *flags]) == 0

    runs = {name: train(data, name) for name, data in {**forms(ROWS), "path": jsonl}.items()}

    expected = adapter_of(tmp_path / "file")
    assert {name for name, run in runs.items() if adapter_of(run.run_dir) != expected} == set()
    assert len({run.metrics["final_loss"] for run in runs.values()}) == 1


def test_the_finished_run_gives_metrics_best_step_and_encoder(train):
    run = train(ROWS)

    assert run.run_dir.name == "run"
    assert json.loads((run.run_dir / "metrics.json").read_text()) == run.metrics
    assert run.best_step == run.metrics["best"]["step"] > 0
    assert run.load_encoder().encode_queries(["red sofa"]).shape == (1, run.load_encoder().dim)


def test_a_second_run_may_have_another_compute_type_and_a_third_repeats_the_first(train):
    first = train(ROWS, "first")
    train(ROWS, "second", mixed_precision="bf16")
    third = train(ROWS, "third")

    assert adapter_of(first.run_dir) == adapter_of(third.run_dir)


def test_nothing_is_printed_on_stdout(train, capfd):
    train(ROWS)

    shown = capfd.readouterr()
    assert shown.out == ""
    assert "saved to" in shown.err


def test_validation_data_of_another_form_is_used(train):
    run = train(ROWS[:30], validation_data=forms(ROWS[30:])["frame"])

    assert (run.metrics["train_pairs"], run.metrics["validation_pairs"]) == (30, 10)


def test_the_splits_of_a_dataset_dict_are_train_and_validation(train):
    import datasets

    parts = {"train": ROWS[:30], "validation": ROWS[30:], "test": ROWS[:1]}
    data = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()})

    run = train(data)

    assert (run.metrics["train_pairs"], run.metrics["validation_pairs"]) == (30, 10)


def test_bad_rows_are_named_by_their_numbers(train):
    rows = [*ROWS[:2], {**ROWS[2], "query": None}, "red sofa", *ROWS[4:]]

    with pytest.raises(DataError) as caught:
        train(rows)

    assert "train_data, row 3: " in str(caught.value)
    assert "train_data, row 4: is not a mapping from column to value: 'red sofa'" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 1}, "aisle.train: unknown key 'lr'; did you mean 'learning_rate'?"),
        ({"lora_rank": 0}, "aisle.train: lora_rank: input should be greater than or equal to 1; found 0"),
        ({"json": True}, "aisle.train: json is for the command line only; leave it out"),
        ({"train_file": ["x.csv"]}, "aisle.train: train_data and train_file: give one of them"),
        ({"keep": "last", "early_stopping_patience": 1}, "--early_stopping_patience: needs --keep best"),
        ({"config": "no_such_recipe"}, "config no_such_recipe: there is no such file"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_right_one(settings, message, train):
    with pytest.raises(ConfigError) as caught:
        train(ROWS, **settings)

    assert message in str(caught.value)


@pytest.mark.parametrize("data", [7, "x", {"query": ["a"]}, []], ids=["int", "name", "dict", "empty"])
def test_data_of_another_kind_is_refused(data, train, tmp_path):
    with pytest.raises(DataError):
        train(tmp_path / "none.csv" if data == "x" else data)


def test_settings_of_a_recipe_are_defaults(tiny_bert, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("max_train_steps: 1\nlora_rank: 4\n")

    run = aisle.train(
        train_data=ROWS,
        output_dir=tmp_path / "run",
        config=recipe,
        model_name_or_path=tiny_bert,
        use_peft=True,
        max_train_steps=2,
    )

    saved = yaml.safe_load((run.run_dir / "config.yaml").read_text())
    assert (saved["lora_rank"], saved["max_train_steps"]) == (4, 2)


def test_an_interrupted_run_resumes_from_python_to_the_same_bytes_and_not_from_the_command_line(
    train, monkeypatch, tmp_path, capfd
):
    whole = train(ROWS, "whole")
    interrupt_after_step(1, monkeypatch)
    with pytest.raises(TrainingStopped, match=r'resume_from_checkpoint="latest"') as caught:
        train(ROWS, "stopped")
    monkeypatch.undo()

    assert "step_00000002" in str(caught.value)
    saved = yaml.safe_load((tmp_path / "stopped/config.yaml").read_text())
    assert saved["train_file"] == [f"memory: pairs, {digest_of_run(tmp_path / 'stopped')}"]
    capfd.readouterr()
    resume = ["--config", str(tmp_path / "stopped/config.yaml"), "--resume_from_checkpoint", "latest"]
    assert main(["train", *resume]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: --train_file memory: ")
    assert "resume it from Python: aisle.train" in said
    assert len(said.splitlines()) == 1

    resumed = train(ROWS, "stopped", resume_from_checkpoint="latest")

    assert adapter_of(resumed.run_dir) == adapter_of(whole.run_dir)


def test_other_data_do_not_resume_a_run(train, monkeypatch):
    interrupt_after_step(1, monkeypatch)
    with pytest.raises(TrainingStopped):
        train(ROWS)
    monkeypatch.undo()

    with pytest.raises(aisle.errors.CheckpointError, match="training pairs"):
        train([*ROWS[1:], {**ROWS[0], "query": "green sofa"}], resume_from_checkpoint="latest")


def interrupt_after_step(step, monkeypatch):
    """Send this process a SIGINT, as Ctrl-C does, when a step is logged; the run stops after the next one."""
    add = TrainingLog.add

    def interrupted(self, values):
        add(self, values)
        if values["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TrainingLog, "add", interrupted)


def digest_of_run(folder):
    (checkpoint,) = (folder / "checkpoints").iterdir()
    (identity,) = checkpoint.glob("*.json")
    return json.loads(identity.read_text())["identity"]["training pairs"]


def test_importing_the_function_loads_no_torch():
    code = "import aisle, sys; aisle.train; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
