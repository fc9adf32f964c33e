"""Special cases of training: hints, stop signals, memory, compilers, runs that learn nothing."""

import dataclasses
import json
import os
import shlex
import shutil
import signal

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file
from torch import nn

from aisle.cli import train_main
from tests.commands.conftest import QUERIES, judged_rows, write_rows

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


@pytest.fixture
def train(tiny_bert, tmp_path, capfd):
    """Run train_peft.py on the tiny model; return its exit code, the run's folder and its output."""

    def run(*flags, output="run"):
        run_dir = tmp_path / output
        given = ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(run_dir)]
        given += ["--max_length", "16", "--per_device_train_batch_size", "8", *map(str, flags)]
        code = train_main(given)
        said = capfd.readouterr()
        return code, run_dir, said.out + said.err

    return run


def with_positives(path, every):
    """A file of judged pairs, every n-th a positive."""
    rows = [(q, p, float(number % every == 0)) for number, (q, p, _) in enumerate(judged_rows(QUERIES))]
    return write_rows(path, ["query", "product", "relevance"], rows)


def weights(run_dir):
    return load_file(run_dir / "adapter_model.safetensors")


def test_few_positives_call_for_a_ranking_loss(train, tmp_path):
    pairs = with_positives(tmp_path / "few.csv", 5)
    _, _, said = train("--train_file", pairs, "--max_train_steps", 1)
    assert "hint: 20% of the training pairs are positives; --loss cosent" in " ".join(said.split())


def test_few_judged_negatives_call_for_in_batch_negatives(train, tmp_path):
    pairs = with_positives(tmp_path / "many.csv", 1)
    _, _, said = train("--train_file", pairs, "--max_train_steps", 1)
    assert "--loss in_batch takes negatives from the batch" in " ".join(said.split())


def test_balanced_labels_and_other_losses_get_no_hint(train, judged_csv, tmp_path):
    assert "hint" not in train("--train_file", judged_csv, "--max_train_steps", 1)[2]
    few = with_positives(tmp_path / "few.csv", 5)
    flags = ["--loss", "cosent", "--max_train_steps", 1]
    assert "hint" not in train("--train_file", few, *flags, output="other")[2]


@pytest.mark.parametrize(
    ("flags", "note"),
    [
        (["--temperature", 0.1], "--temperature is not used: the cosine_target loss has none"),
        (
            ["--loss", "cosent", "--in_batch_directions", "query_to_product"],
            "--in_batch_directions is not used: the cosent loss has none",
        ),
        (
            ["--lr_scheduler_type", "constant", "--num_warmup_steps", 1],
            "--num_warmup_steps is not used: it needs --lr_scheduler_type constant_with_warmup",
        ),
        (
            ["--torch_compile_backend", "eager"],
            "--torch_compile_backend is not used: it needs --torch_compile",
        ),
    ],
    ids=["temperature", "directions", "warmup", "compiler"],
)
def test_an_unused_setting_is_named(train, judged_csv, flags, note):
    code, _, said = train("--train_file", judged_csv, "--max_train_steps", 1, *flags)
    assert code == 0
    assert note in said


def test_unused_hard_negatives_are_named(train, tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"query": query, "product": product, "relevance": relevance, "hard_negatives": ["a set of nails"]}
        for query, product, relevance in judged_rows(QUERIES)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    note = "the hard negatives are not used"
    _, _, said = train("--train_file", path, "--max_train_steps", 1, "--loss", "cosent", output="cosent")
    assert note in said
    _, _, said = train("--train_file", path, "--max_train_steps", 1, "--loss", "in_batch", output="in_batch")
    assert note not in said


def test_used_and_default_settings_are_not_named(train, judged_csv):
    flags = ["--loss", "in_batch", "--temperature", 0.1, "--in_batch_directions", "query_to_product"]
    _, _, said = train("--train_file", judged_csv, "--max_train_steps", 1, *flags, output="in_batch")
    assert "not used" not in said
    _, _, said = train("--train_file", judged_csv, "--max_train_steps", 1, output="cosine_target")
    assert "not used" not in said


def test_learn_temperature_is_refused_if_the_default_loss_has_no_temperature(train, judged_csv):
    code, _, said = train("--train_file", judged_csv, "--max_train_steps", 1, "--learn_temperature")
    assert code == 2
    assert "--learn_temperature: cosine_target has no temperature; use another --loss" in said


def test_a_run_that_learned_nothing_is_an_error_with_advice(train, judged_csv):
    code, run_dir, said = train("--train_file", judged_csv, "--learning_rate", 1e-12, "--num_train_epochs", 1)
    assert code == 2
    for word in ("nothing was learned", "--learning_rate", "--lora_target_modules", "labels"):
        assert word in said
    assert not (run_dir / "aisle.json").exists()


def test_a_run_logs_warnings_about_its_model(train, judged_csv, monkeypatch):
    def of_figures(base, kept, **_):
        return f"from {base['roc_auc']:.4f} to {kept['roc_auc']:.4f}"

    monkeypatch.setattr("aisle.commands.train.outcome.no_gain_warning", of_figures)
    monkeypatch.setattr("aisle.commands.train.outcome.collapse_warning", lambda *_, **__: "it collapsed")
    code, run_dir, said = train("--train_file", judged_csv, "--max_train_steps", 3, "--validation_share", 0.4)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert code == 0
    assert "warning: it collapsed" in said
    assert f"warning: {of_figures(metrics['base'], metrics['best'])}" in " ".join(said.split())


def test_a_good_run_logs_no_warning(train, judged_csv, monkeypatch):
    monkeypatch.setattr("aisle.commands.train.outcome.no_gain_warning", lambda *_, **__: None)
    _, _, said = train("--train_file", judged_csv, "--max_train_steps", 3)
    assert "warning" not in said


@pytest.mark.parametrize(
    ("loss", "relevance", "why"),
    [
        ("cosent", 1.0, "ranks pairs by their relevance, but every training pair has relevance 1;"),
        ("in_batch", 0.5, "needs positives, and no training pair's relevance is above 0.5 (highest: 0.5);"),
        ("listwise", 0.0, "needs positives, and every training pair's relevance is 0;"),
    ],
)
def test_labels_that_a_loss_cannot_learn_from_are_refused(train, tmp_path, loss, relevance, why):
    rows = [(q, p, relevance) for q, p, _ in judged_rows(QUERIES)]
    pairs = write_rows(tmp_path / "equal.csv", ["query", "product", "relevance"], rows)
    code, run_dir, said = train("--train_file", pairs, "--loss", loss, "--num_train_epochs", 2)
    assert code == 2
    assert f"--loss {loss}: {why} look at --label_column" in " ".join(said.split())
    assert not run_dir.exists()


def test_a_stopped_run_prints_the_command_that_resumes_it(
    train, judged_csv, monkeypatch, tmp_path, tiny_bert
):
    from aisle.training.loop import Trainer

    flags = ["--train_file", str(judged_csv), "--max_train_steps", "8", "--logging_steps", "1"]
    code, whole, _ = train(*flags, output="whole")
    assert code == 0
    original = Trainer._log_metrics

    def log(self, *arguments):
        original(self, *arguments)
        if self.state.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    given = ["--use_peft", "--model_name_or_path", str(tiny_bert), "--output_dir", str(tmp_path / "run")]
    given += ["--max_length", "16", "--per_device_train_batch_size", "8", *flags]
    monkeypatch.setattr("sys.orig_argv", ["python", "train_peft.py", *given])
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_log_metrics", log)
        code, run_dir, said = train(*flags)
    assert code == 130
    assert "SIGTERM" in said
    assert "after step 4 of 8" in said
    command = next(line for line in said.splitlines() if line.startswith("resume with: "))
    words = shlex.split(command.partition(": ")[2])
    assert words[words.index("train_peft.py") - 1] == "python"
    resuming = words[words.index("train_peft.py") + 1 :]
    assert train_main(resuming) == 0
    for name, value in weights(whole).items():
        np.testing.assert_array_equal(weights(run_dir)[name], value)


def test_a_signal_while_the_model_is_saved_does_not_stop_saving(train, judged_csv, monkeypatch):
    import aisle.commands.train.save_run as pipeline

    saved = pipeline.save_encoder

    def save(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        saved(*arguments, **options)

    monkeypatch.setattr(pipeline, "save_encoder", save)
    before = signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("the signal was not caught"))
    try:
        code, run_dir, _ = train("--train_file", judged_csv, "--max_train_steps", 1)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 0
    assert (run_dir / "metrics.json").exists()


def test_early_stopping_is_recorded(train, judged_csv):
    flags = ["--max_train_steps", 40, "--eval_steps", 1, "--early_stopping_patience", 2]
    _, run_dir, _ = train("--train_file", judged_csv, *flags)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["stopped_early"]
    assert metrics["steps"] == metrics["best"]["step"] + 2 < 40


@pytest.mark.parametrize(
    "extra", [["--cached_embeddings", "--max_tokens_per_sub_batch", 64], ["--max_tokens_per_sub_batch", 64]]
)
def test_sub_batches_change_memory_and_not_the_result(train, judged_csv, extra):
    flags = ["--train_file", judged_csv, "--max_train_steps", 3, "--loss", "in_batch", "--dropout", 0]
    _, plain, _ = train(*flags, output="plain")
    _, small, _ = train(*flags, *extra, output="small")
    for name, value in weights(plain).items():
        np.testing.assert_allclose(weights(small)[name], value, atol=2e-5)


def test_hard_negatives_are_used_by_the_in_batch_loss(train, tmp_path):
    rows = list(judged_rows(QUERIES))
    losses = {}
    for name, negatives in (("with", ["modern wool rug", "a set of nails"]), ("without", [])):
        path = tmp_path / f"{name}.jsonl"
        lines = [
            {"query": query, "product": product, "hard_negatives": negatives} for query, product, _ in rows
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        _, run_dir, _ = train("--train_file", path, "--max_train_steps", 1, "--logging_steps", 1, output=name)
        losses[name] = json.loads((run_dir / "log.jsonl").read_text().splitlines()[0])["loss"]
    assert losses["with"] > losses["without"] + 0.01


def test_bf16_keeps_frozen_weights_in_bf16_and_the_adapter_in_float32(train, judged_csv, monkeypatch):
    """It is chosen here as on a GPU that computes bf16, where nothing names a compute type."""
    import torch

    from aisle.training.loop import Trainer

    types = {}
    original = Trainer.run

    def run(self):
        for name, parameter in self.model.named_parameters():
            types[name] = parameter.dtype
        original(self)

    monkeypatch.setattr(Trainer, "run", run)
    monkeypatch.setattr("aisle.commands.train.run.gpu_computes_bf16", lambda: True)
    code, run_dir, said = train("--train_file", judged_csv, "--max_train_steps", 2)
    assert code == 0
    assert "--mixed_precision no computes in float32" in " ".join(said.split())
    assert "mixed_precision: bf16" in (run_dir / "config.yaml").read_text()
    assert {kind for name, kind in types.items() if "lora_" in name} == {torch.float32}
    assert {kind for name, kind in types.items() if name.endswith("base_layer.weight")} == {torch.bfloat16}
    assert {value.dtype for value in weights(run_dir).values()} == {np.dtype("float32")}


@pytest.mark.filterwarnings("ignore")  # torch warns of what it does itself when it compiles
@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_train_the_same_weights(train, judged_csv, monkeypatch):
    """With dropout, too: its masks are drawn outside the compiled code, so they are the same."""
    flags = ("--train_file", judged_csv, "--max_train_steps", 3, "--learning_rate", 0.01, "--dropout", 0.1)
    _, run_dir, _ = train(*flags, output="plain")
    plain = weights(run_dir)
    compiled = []
    compile_layer = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, "compile", lambda layer, **how: compiled.append(layer) or compile_layer(layer, **how)
    )
    code, run_dir, _ = train(*flags, "--torch_compile", output="compiled")
    assert code == 0
    assert len(compiled) == 2
    found = weights(run_dir)
    assert plain.keys() == found.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(found[name], value, atol=5e-4, err_msg=name)


@pytest.mark.filterwarnings("ignore")  # torch warns of what it does itself when it compiles
def test_the_launchers_compiler_compiles_and_the_best_weights_are_saved(train, judged_csv, monkeypatch):
    flags = ["--train_file", judged_csv, "--num_train_epochs", 3, "--learning_rate", 0.02, "--dropout", 0]
    flags += ["--eval_steps", 1, "--checkpointing_steps", 4]
    _, plain, _ = train(*flags, output="plain")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")

    code, compiled, said = train(*flags, output="compiled")

    assert code == 0
    assert "accelerate launch sets the dynamo backend eager" in said
    settings = yaml.safe_load((compiled / "config.yaml").read_text())
    assert (settings["torch_compile"], settings["torch_compile_backend"]) == (True, "eager")
    best, steps = (json.loads((compiled / "metrics.json").read_text())[name] for name in ("best", "steps"))
    assert best["step"] < steps  # otherwise the last weights would be the best
    assert best["step"] == json.loads((plain / "metrics.json").read_text())["best"]["step"]
    for name, value in weights(plain).items():
        np.testing.assert_allclose(weights(compiled)[name], value, atol=5e-4, err_msg=name)
    _resume_and_compare(train, flags, compiled)


def _resume_and_compare(train, flags, run_dir):
    """Resume from a run's first checkpoint; the result has the same bytes."""
    first = "checkpoints/step_00000004"
    shutil.copytree(run_dir / first, run_dir.with_name("resumed") / first)
    code, resumed, said = train(*flags, "--resume_from_checkpoint", "latest", output="resumed")
    assert code == 0, said
    file = "adapter_model.safetensors"
    assert (resumed / file).read_bytes() == (run_dir / file).read_bytes()


def test_an_unknown_compiler_is_refused_with_the_known_ones(train, judged_csv, monkeypatch):
    flags = ("--train_file", judged_csv, "--torch_compile")
    code, _, said = train(*flags, "--torch_compile_backend", "inducer")
    assert code == 2
    assert "--torch_compile_backend inducer: torch has " in said
    assert "inductor" in said
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "nonsense")
    code, _, said = train(*flags)
    assert code == 2
    assert "--dynamo_backend of accelerate launch: 'NONSENSE' is not a valid DynamoBackend" in said


def test_directions_without_the_main_one_are_refused(train, judged_csv):
    code, _, said = train("--train_file", judged_csv, "--in_batch_directions", "query_to_query")
    assert code == 2
    assert "--in_batch_directions query_to_query: query_to_product must be among them" in said


def test_keep_last_saves_the_last_weights(train, judged_csv, monkeypatch):
    import aisle.training.selection as selection

    found = iter([0.5, 0.9, 0.8, 0.7, 0.6])  # before training and after each epoch
    score = selection.score_pairs
    monkeypatch.setattr(
        selection, "score_pairs", lambda *pairs: dataclasses.replace(score(*pairs), roc_auc=next(found))
    )
    _, run_dir, said = train("--train_file", judged_csv, "--num_train_epochs", 4, "--keep", "last")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["best"]["step"] == metrics["steps"]
    assert f"the weights of step {metrics['steps']}, the last" in said
    assert f"from step {metrics['steps']}, the last step." in (run_dir / "README.md").read_text()


@pytest.mark.parametrize(
    ("error", "code"), [("CUDA out of memory. Tried to allocate 2.00 GiB", 2), ("shapes do not fit", None)]
)
def test_out_of_memory_in_an_evaluation_is_one_message(train, judged_csv, monkeypatch, error, code):
    from aisle.training import validation

    def fail(*_):
        raise RuntimeError(error)

    monkeypatch.setattr(validation, "gather_rows", fail)
    if code is None:
        with pytest.raises(RuntimeError, match=error):
            train("--train_file", judged_csv)
        return
    found, _, said = train("--train_file", judged_csv)
    assert found == code
    assert "evaluation: out of memory. Give a lower --per_device_eval_batch_size" in said
