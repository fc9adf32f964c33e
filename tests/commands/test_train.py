"""Training from the command line, on a tiny model."""

import json
import shutil

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from aisle.cli import train_main
from aisle.models.loading import load_encoder
from tests.commands.conftest import QUERIES, judged_rows, write_rows


@pytest.fixture
def train(tiny_bert, tmp_path):
    """Run train_peft.py on the tiny model and return its exit code and the run's folder."""

    def run(*flags, output="run", peft=True, model=tiny_bert):
        run_dir = tmp_path / output
        given = ["--model_name_or_path", str(model), "--output_dir", str(run_dir), "--max_length", "16"]
        given += ["--use_peft"] if peft else []
        given += [] if "--per_device_train_batch_size" in flags else ["--per_device_train_batch_size", "8"]
        return train_main([*given, *map(str, flags)]), run_dir

    return run


def weights(run_dir):
    return load_file(run_dir / "adapter_model.safetensors")


def test_a_run_leaves_everything_of_the_contract(train, judged_csv):
    code, run_dir = train("--train_file", judged_csv, "--num_train_epochs", 1)
    assert code == 0
    names = {path.name for path in run_dir.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "modules.json",
        "1_Pooling",
        "config_sentence_transformers.json",
        "aisle.json",
        "config.yaml",
        "metrics.json",
        "README.md",
    } <= names
    assert not [name for name in names if name.startswith(".")]


def test_metrics_hold_base_history_best_and_rates(train, judged_csv):
    _, run_dir = train("--train_file", judged_csv, "--num_train_epochs", 2, "--eval_steps", 2)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert set(metrics["base"]) >= {"roc_auc", "average_precision", "best_f1", "best_f1_threshold"}
    assert [entry["step"] for entry in metrics["history"]] == sorted(
        {entry["step"] for entry in metrics["history"]}
    )
    assert metrics["best"] in metrics["history"]
    assert metrics["best"]["roc_auc"] == max(entry["roc_auc"] for entry in metrics["history"])
    assert metrics["pairs_per_second"] > 0
    assert metrics["tokens_per_second"] > metrics["pairs_per_second"]
    assert 0 <= metrics["padding_share"] < 1


def test_the_saved_encoder_is_the_best_one(train, judged_csv, tmp_path):
    from aisle.evaluation.pair_metrics import score_pairs

    validation = write_rows(
        tmp_path / "validation.csv",
        ["query", "product", "relevance"],
        list(judged_rows(["green sofa", "tall lamp", "small rug"], per_query=8, seed=3)),
    )
    flags = ["--train_file", judged_csv, "--validation_file", validation, "--learning_rate", "0.02"]
    _, run_dir = train(*flags, "--num_train_epochs", 4, "--eval_steps", 1)
    rows = list(judged_rows(["green sofa", "tall lamp", "small rug"], per_query=8, seed=3))
    encoder = load_encoder(run_dir, device="cpu")
    queries = encoder.encode_queries([row[0] for row in rows])
    products = encoder.encode_products([row[1] for row in rows])
    found = score_pairs((queries * products).sum(axis=1), np.array([row[2] for row in rows]))
    best = json.loads((run_dir / "metrics.json").read_text())["best"]
    assert found.roc_auc == pytest.approx(best["roc_auc"], abs=1e-6)


def test_training_changes_the_embeddings(train, judged_csv, tiny_bert):
    _, run_dir = train("--train_file", judged_csv, "--learning_rate", "0.01")
    tuned = load_encoder(run_dir, device="cpu").encode_queries(QUERIES)
    base = load_encoder(tiny_bert, device="cpu").encode_queries(QUERIES)
    assert float(np.abs(tuned - base).max()) > 1e-3


def test_full_fine_tuning_saves_a_whole_model(train, judged_csv):
    code, run_dir = train("--train_file", judged_csv, "--num_train_epochs", 1, peft=False)
    assert code == 0
    assert (run_dir / "model.safetensors").is_file()
    assert not (run_dir / "adapter_config.json").exists()
    assert load_encoder(run_dir, device="cpu").encode_queries(["sofa"]).shape == (1, 32)


def test_pairs_without_labels_train_with_in_batch_negatives(train, tmp_path):
    rows = [(f"question {n} about {q}", f"answer {n} on {q}") for n, q in enumerate(QUERIES * 4)]
    pairs = write_rows(tmp_path / "faq.csv", ["question", "answer"], rows)
    code, run_dir = train(
        "--train_file", pairs, "--query_column", "question", "--product_column", "answer",
        "--num_train_epochs", 1,
    )  # fmt: skip
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert code == 0
    assert metrics["loss"] == "in_batch"
    assert (metrics["selection"], metrics["selection_metric"]) == ("retrieval", "mrr")
    assert 0 < metrics["best"]["mrr"] <= 1


@pytest.fixture
def clicks(tmp_path):
    """Clicks of many queries on few products."""
    rng = np.random.default_rng(0)
    rows = [(f"{QUERIES[n]} {m}", f"{QUERIES[n]} by Acme") for m in range(12) for n in rng.permutation(8)[:5]]
    return write_rows(tmp_path / "clicks.csv", ["query", "product"], rows)


def test_without_labels_the_best_evaluation_is_the_best_at_retrieval(train, clicks, capfd):
    code, run_dir = train("--train_file", clicks, "--num_train_epochs", 3, "--validation_share", 0.4)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert code == 0
    assert metrics["best"]["mrr"] == max(entry["mrr"] for entry in metrics["history"])
    assert metrics["base"].keys() >= {"mrr", "recall@10", "ndcg@10", "precision@1"}
    queries, products = metrics["best"]["ranked_queries"], metrics["best"]["ranked_products"]
    assert (queries, products) == (24, 7)
    said = capfd.readouterr()
    assert "24 queries rank the 7 products; the best evaluation has the highest mrr" in said.out + said.err
    assert f"the weights of step {metrics['best']['step']}, best by mrr" in said.out + said.err
    card = (run_dir / "README.md").read_text()
    assert "24 validation queries rank 7 products each." in card
    assert "the best by MRR" in card
    assert "ROC-AUC" not in card


def test_the_saved_encoder_has_the_mrr_that_was_kept(train, clicks, tmp_path):
    rows = [(f"{query} {n}", f"{query} by Acme") for n in range(20, 23) for query in QUERIES]
    validation = write_rows(tmp_path / "validation.csv", ["query", "product"], rows)
    flags = ["--train_file", clicks, "--validation_file", validation, "--learning_rate", "0.02"]
    _, run_dir = train(*flags, "--num_train_epochs", 3, "--eval_steps", 1)
    encoder = load_encoder(run_dir, device="cpu")
    products = sorted({product for _, product in rows})
    cosines = encoder.encode_queries([query for query, _ in rows]) @ encoder.encode_products(products).T
    own = cosines[np.arange(len(rows)), [products.index(product) for _, product in rows]]
    ranks = (cosines >= own[:, None]).sum(axis=1)
    best = json.loads((run_dir / "metrics.json").read_text())["best"]
    assert best["mrr"] == pytest.approx((1 / ranks).mean(), abs=1e-6)


def test_the_joint_pool_selects_on_request(train, clicks):
    from aisle.evaluation.joint_pool import joint_pool

    code, run_dir = train(
        "--train_file",
        clicks,
        "--validation_file",
        clicks,
        "--num_train_epochs",
        2,
        "--selection",
        "joint_pool",
    )
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert code == 0
    assert (metrics["selection"], metrics["selection_metric"]) == ("joint_pool", "joint_pool_mrr")
    assert metrics["best"]["joint_pool_mrr"] == max(e["joint_pool_mrr"] for e in metrics["history"])
    rows = [line.split(",") for line in clicks.read_text().splitlines()[1:]]
    encoder = load_encoder(run_dir, device="cpu")
    pool = joint_pool(
        encoder.encode_queries([query for query, _ in rows]),
        encoder.encode_products([product for _, product in rows]),
    )
    assert metrics["best"]["joint_pool_mrr"] == pytest.approx(pool.mrr, abs=1e-6)


def test_labelled_pairs_are_selected_by_retrieval_on_request(train, judged_csv):
    _, run_dir = train("--train_file", judged_csv, "--num_train_epochs", 1, "--selection", "retrieval")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["selection_metric"] == "mrr"
    assert metrics["best"].keys() >= {"roc_auc", "average_precision", "mrr", "ndcg@10"}


@pytest.mark.parametrize(
    ("rows", "selection", "message"),
    [
        ([("sofa", "red sofa"), ("lamp", "lamp")], "roc_auc", "--selection roc_auc: needs labelled pairs"),
        (
            [("sofa", "red sofa", 0), ("lamp", "lamp", 0), ("lamp", "bulb", 0.4)],
            "retrieval",
            "--selection retrieval: none of the 3 validation pairs is a positive",
        ),
    ],
)
def test_a_selection_that_the_pairs_do_not_allow_is_refused(train, tmp_path, capfd, rows, selection, message):
    header = ["query", "product", "relevance"][: len(rows[0])]
    held_out = write_rows(tmp_path / "held_out.csv", header, rows)
    more = [(f"{query} two", *row) for query, *row in rows]
    pairs = write_rows(tmp_path / "pairs.csv", header, more)
    code, _ = train("--train_file", pairs, "--validation_file", held_out, "--selection", selection)
    assert code == 2
    assert message in capfd.readouterr().err


def test_the_saved_configuration_gives_the_same_run_again(train, judged_csv, tmp_path):
    _, first = train("--train_file", judged_csv, "--num_train_epochs", 1, "--lora_rank", 4, "--seed", 3)
    saved = tmp_path / "saved.yaml"
    shutil.copy(first / "config.yaml", saved)
    code, second = train("--config", saved, output="again")
    assert code == 0
    for name, value in weights(first).items():
        assert np.array_equal(value, weights(second)[name])


def test_a_token_is_written_nowhere(train, judged_csv, capfd):
    token = "hf_" + "secretsecretsecret"
    code, run_dir = train(
        "--train_file", judged_csv, "--num_train_epochs", 1, "--hub_token", token,
        "--with_tracking", "--report_to", "tensorboard", "--checkpointing_steps", 2,
    )  # fmt: skip
    assert code == 0
    for path in run_dir.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path
    said = capfd.readouterr()
    assert token not in said.out + said.err
    assert "hub_token" not in yaml.safe_load((run_dir / "config.yaml").read_text())


def test_tensorboard_receives_loss_and_metrics(train, judged_csv):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run_dir = train(
        "--train_file", judged_csv, "--num_train_epochs", 1, "--logging_steps", 1,
        "--with_tracking", "--report_to", "tensorboard",
    )  # fmt: skip
    (folder,) = {path.parent for path in run_dir.rglob("events.out*") if path.parent.name == "aisle"}
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train/loss", "train/learning_rate", "train/gradient_norm", "train/padding_share"} <= set(
        events.Tags()["scalars"]
    )
    assert "eval/roc_auc" in events.Tags()["scalars"]


def test_json_prints_one_document_on_stdout(train, judged_csv, capfd):
    train("--train_file", judged_csv, "--num_train_epochs", 1, "--json")
    said = capfd.readouterr()
    document = json.loads(said.out)
    assert document["metrics"]["best"]["roc_auc"] is not None
    assert "before training" in said.err


def test_a_checkpoint_mid_epoch_leads_to_the_same_weights(train, judged_csv, tmp_path):
    flags = [
        "--train_file", judged_csv, "--num_train_epochs", 3, "--per_device_train_batch_size", 4,
        "--gradient_accumulation_steps", 2, "--checkpointing_steps", 3, "--lora_dropout", 0.1,
        "--lr_scheduler_type", "cosine", "--eval_steps", 2,
    ]  # fmt: skip
    _, whole = train(*flags)
    steps = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert len(steps) >= 3
    resumed = tmp_path / "resumed"
    (resumed / "checkpoints").mkdir(parents=True)
    shutil.copytree(whole / "checkpoints" / steps[0], resumed / "checkpoints" / steps[0])
    code, _ = train(*flags, "--resume_from_checkpoint", "latest", output="resumed")
    assert code == 0
    assert (whole / "adapter_model.safetensors").read_bytes() == (
        resumed / "adapter_model.safetensors"
    ).read_bytes()
    histories = [json.loads((run / "metrics.json").read_text())["history"] for run in (whole, resumed)]
    assert histories[0] == histories[1]


def test_a_checkpoint_holds_the_trained_weights_only(train, judged_csv):
    _, run_dir = train("--train_file", judged_csv, "--num_train_epochs", 1, "--checkpointing_steps", 2)
    saved = load_file(run_dir / "checkpoints" / "step_00000002" / "model.safetensors")
    assert saved
    assert all("lora_" in name for name in saved)


def test_wandb_works_offline(train, judged_csv, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    code, _ = train(
        "--train_file", judged_csv, "--num_train_epochs", 1, "--with_tracking", "--report_to", "wandb"
    )
    assert code == 0
    assert list(tmp_path.rglob("offline-run-*"))


def test_a_token_on_the_command_line_does_not_reach_what_wandb_saves(
    tiny_bert, judged_csv, tmp_path, monkeypatch
):
    token = "hf_" + "secretsecretsecret"
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv",
        [
            "train_peft.py", "--use_peft", "--model_name_or_path", str(tiny_bert), "--max_train_steps", "1",
            "--train_file", str(judged_csv), "--output_dir", str(tmp_path / "run"),
            "--with_tracking", "--report_to", "wandb", "--hub_token", token, f"--hub_token={token}",
        ],
    )  # fmt: skip
    assert train_main() == 0
    saved = list((tmp_path / "run").rglob("*.wandb"))
    assert saved
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path


def test_cosent_trains(train, judged_csv):
    code, run_dir = train("--train_file", judged_csv, "--num_train_epochs", 1, "--loss", "cosent")
    assert code == 0
    assert json.loads((run_dir / "metrics.json").read_text())["loss"] == "cosent"


def test_bert_s_pooler_is_not_trained(train, judged_csv, tiny_bert, capfd):
    _, run_dir = train("--train_file", judged_csv, "--num_train_epochs", 1, peft=False)
    before, after = load_file(tiny_bert / "model.safetensors"), load_file(run_dir / "model.safetensors")
    assert np.array_equal(before["pooler.dense.weight"], after["pooler.dense.weight"])
    assert not np.array_equal(
        before["encoder.layer.0.attention.self.query.weight"],
        after["encoder.layer.0.attention.self.query.weight"],
    )


def test_an_overwritten_run_stays_until_the_new_one_is_finished(train, judged_csv, monkeypatch):
    _, run_dir = train("--train_file", judged_csv, "--num_train_epochs", 1)
    before = (run_dir / "adapter_model.safetensors").read_bytes()
    code, _ = train(
        "--train_file",
        judged_csv,
        "--overwrite_output_dir",
        "--learning_rate",
        "1e30",
        "--num_train_epochs",
        9,
    )
    assert code == 2
    assert (run_dir / "adapter_model.safetensors").read_bytes() == before
    load_encoder(run_dir, device="cpu")


def test_a_run_of_another_kind_leaves_nothing_behind_when_overwritten(train, judged_csv):
    train("--train_file", judged_csv, "--num_train_epochs", 1, peft=False)
    code, run_dir = train("--train_file", judged_csv, "--num_train_epochs", 1, "--overwrite_output_dir")
    assert code == 0
    assert not (run_dir / "model.safetensors").exists()
    assert not (run_dir / "config.json").exists()
    assert load_encoder(run_dir, device="cpu").encode_queries(["sofa"]).shape == (1, 32)


def test_the_log_of_a_resumed_run_equals_that_of_an_uninterrupted_run(train, judged_csv, tmp_path):
    """Lines after the checkpoint are written again, and a mean includes the steps before it."""
    flags = ["--train_file", judged_csv, "--max_train_steps", 8, "--checkpointing_steps", 4]
    flags += ["--logging_steps", 3]

    def log():
        lines = (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [(entry["step"], entry["loss"], entry["pairs"]) for entry in map(json.loads, lines)]

    train(*flags)
    whole = log()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000008")
    train(*flags, "--resume_from_checkpoint", "latest")
    assert log() == whole
    assert [step for step, _, _ in whole] == [3, 6, 8]
