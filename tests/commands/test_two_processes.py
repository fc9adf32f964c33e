"""A run over two processes, compared with the same run in one process."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from aisle.io.embedding_cache import EmbeddingCache
from aisle.models.loading import load_encoder
from aisle.text.tokens import tokenize
from aisle.training.frozen_vectors import keys_of
from tests.commands.conftest import QUERIES, judged_rows
from tests.commands.launch import start_ranks, torchrun


def run(processes, run_dir, *flags, launch=start_ranks):
    """Run train_peft.py in several processes."""
    return launch(processes, "train_peft.py", "--output_dir", run_dir, *flags)


@pytest.fixture(scope="module")
def without_dropout(tiny_bert, tmp_path_factory):
    """The tiny model without dropout: random masks differ between processes, but nothing else may differ."""
    import shutil

    folder = tmp_path_factory.mktemp("plain") / "bert"
    shutil.copytree(tiny_bert, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_two_processes_train_the_weights_of_one_with_the_double_batch(without_dropout, judged_csv, tmp_path):
    # 25 training pairs: the last global batch has one pair, so a process has none.
    flags = ["--use_peft", "--model_name_or_path", without_dropout, "--train_file", judged_csv]
    flags += ["--num_train_epochs", 2, "--learning_rate", 0.01, "--gradient_accumulation_steps", 2]
    flags += ["--validation_share", 0.4]
    one = run(1, tmp_path / "one", *flags, "--per_device_train_batch_size", 8)
    two = run(2, tmp_path / "two", *flags, "--per_device_train_batch_size", 4, launch=torchrun)
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, atol=2e-5)
    histories = [
        json.loads((tmp_path / name / "metrics.json").read_text())["history"] for name in ("one", "two")
    ]
    assert [entry["step"] for entry in histories[0]] == [entry["step"] for entry in histories[1]]
    for first, second in zip(*histories, strict=True):
        assert first["roc_auc"] == pytest.approx(second["roc_auc"], abs=1e-9)
        assert first["average_precision"] == pytest.approx(second["average_precision"], abs=1e-9)
    assert "processes: 2" in two.stdout
    assert two.stdout.count("before training") == one.stdout.count("before training") == 1


def test_two_processes_train_the_head_of_one_and_share_the_encoding(without_dropout, judged_csv, tmp_path):
    flags = ["--freeze_encoder", "--head", "linear", "--model_name_or_path", without_dropout]
    flags += ["--train_file", judged_csv, "--validation_share", 0.4, "--learning_rate", 0.01]
    flags += ["--num_train_epochs", 2, "--embedding_cache", tmp_path / "cache"]

    two = run(2, tmp_path / "two", *flags, "--per_device_train_batch_size", 4)
    segments = len(list((tmp_path / "cache").rglob("*.vectors")))
    one = run(1, tmp_path / "one", *flags, "--per_device_train_batch_size", 8)

    assert segments == 4  # of each process, for the training and the validation texts
    texts = sorted({text for query, product, _ in judged_rows(QUERIES) for text in (query, product)})
    encoder = load_encoder(without_dropout, device="cpu")
    (folder,) = (tmp_path / "cache").iterdir()
    cache = EmbeddingCache(folder, dim=32)
    tokens = tokenize(encoder.tokenizer, texts, prompt="", max_length=encoder.settings.max_length)
    cached = cache.take(cache.find(keys_of(tokens)))
    np.testing.assert_allclose(cached, encoder.encode_products(texts), atol=1e-5)
    assert one.stdout.count("encoding the 0 that") == 2
    weights = [load_file(tmp_path / name / "3_Dense" / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, atol=2e-5)
    assert two.stdout.count("before training") == 1


@pytest.mark.parametrize(
    "freeze", [(), ("--freeze", "product", "--cached_embeddings")], ids=["both", "query"]
)
def test_two_processes_train_the_two_towers_of_one(freeze, without_dropout, judged_csv, tmp_path):
    flags = ["--two_towers", *freeze, "--model_name_or_path", without_dropout, "--train_file", judged_csv]
    flags += ["--num_train_epochs", 2, "--learning_rate", 0.001, "--validation_share", 0.4]

    run(1, tmp_path / "one", *flags, "--per_device_train_batch_size", 8)
    run(2, tmp_path / "two", *flags, "--per_device_train_batch_size", 4)

    for side in ("query", "product"):
        weights = [load_file(tmp_path / name / side / "model.safetensors") for name in ("one", "two")]
        # Attention does not depend on the biases of keys: their gradient is rounding, which Adam scales up.
        compared = {name: value for name, value in weights[0].items() if not name.endswith("key.bias")}
        for name, value in compared.items():
            np.testing.assert_allclose(weights[1][name], value, atol=1e-4, err_msg=f"{side} {name}")


@pytest.fixture(scope="module")
def clicks_csv(tmp_path_factory):
    """Clicks of 60 queries on 6 products, some of them on two."""
    path = tmp_path_factory.mktemp("clicks") / "clicks.csv"
    kinds = ["sofa", "lamp", "chair", "table", "bed", "shelf"]
    pairs = [(f"{kinds[n % 6]} for room {n}", f"oak {kinds[n % 6]}") for n in range(60)]
    pairs += [(query, f"oak {kinds[(n + 1) % 6]}") for n, (query, _) in enumerate(pairs[::4])]
    path.write_text("query,product\n" + "".join(f"{query},{product}\n" for query, product in pairs))
    return path


@pytest.mark.parametrize("selection", ["retrieval", "joint_pool"])
def test_processes_agree_on_the_best_evaluation_and_when_to_stop(
    without_dropout, clicks_csv, tmp_path, selection
):
    flags = ["--use_peft", "--model_name_or_path", without_dropout, "--train_file", clicks_csv]
    flags += ["--num_train_epochs", 6, "--learning_rate", 0.01, "--validation_share", 0.35]
    flags += ["--early_stopping_patience", 2, "--eval_steps", 1, "--selection", selection]
    run(1, tmp_path / "one", *flags, "--per_device_train_batch_size", 16)
    two = run(2, tmp_path / "two", *flags, "--per_device_train_batch_size", 8)
    one_metrics, two_metrics = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")
    )
    metric = one_metrics["selection_metric"]
    assert metric == {"retrieval": "mrr", "joint_pool": "joint_pool_mrr"}[selection]
    assert one_metrics["base"][metric] == pytest.approx(two_metrics["base"][metric], abs=1e-3)
    for first, second in zip(one_metrics["history"], two_metrics["history"], strict=True):
        assert first[metric] == pytest.approx(second[metric], abs=1e-2)
    assert one_metrics["best"]["step"] == two_metrics["best"]["step"]
    assert one_metrics["stopped_early"] == two_metrics["stopped_early"] is True
    assert two.stdout.count("the best evaluation has the highest") == 1


@pytest.fixture(scope="module")
def contrasted_jsonl(tmp_path_factory):
    """Pairs with many known positives: few products, ids with several texts, hard negatives."""
    path = tmp_path_factory.mktemp("contrasted") / "pairs.jsonl"
    kinds = ["sofa", "lamp", "chair", "table", "bed", "shelf", "desk"]
    rows = []
    for number in range(46):
        kind = kinds[number % 7]
        rows.append(
            {
                "query": f"{kind} {number % 5}",
                "product": f"{['red', 'blue', 'old'][number % 3]} {kind}",
                "product_id": f"{kind} {number % 2}",
                "relevance": [1.0, 0.7, 0.2, 0.0][number % 4],
                "hard_negatives": [f"{kinds[(number + 1) % 7]} cover", "a set of nails"][: number % 3],
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("loss", ["in_batch", "cosent", "listwise"])
def test_losses_that_compare_pairs_see_those_of_all_processes(tiny_bert, contrasted_jsonl, tmp_path, loss):
    """The gathered batch of two processes is the double batch of one, the short last one included."""
    flags = ["--use_peft", "--model_name_or_path", tiny_bert, "--train_file", contrasted_jsonl]
    flags += ["--loss", loss, "--num_train_epochs", 2, "--learning_rate", 0.01, "--validation_share", 0.3]
    flags += ["--dropout", 0, "--learn_temperature", "--lora_target_modules", "query", "value", "dense"]
    flags += ["--gradient_accumulation_steps", 2, "--logging_steps", 1, "--product_id_column", "product_id"]
    run(1, tmp_path / "one", *flags, "--per_device_train_batch_size", 8)
    run(2, tmp_path / "two", *flags, "--per_device_train_batch_size", 4)
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, atol=2e-4, err_msg=name)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for first, second in zip(*logs, strict=True):
        for figure in ("loss", "gradient_norm", "temperature", "pairs"):
            assert first[figure] == pytest.approx(second[figure], rel=1e-4), (first["step"], figure)
    assert len(logs[0]) >= 4
    assert logs[0][-1]["temperature"] != pytest.approx(0.05, rel=1e-3)


def test_cached_embeddings_over_two_processes_train_the_same_weights(tiny_bert, contrasted_jsonl, tmp_path):
    flags = ["--use_peft", "--model_name_or_path", tiny_bert, "--train_file", contrasted_jsonl]
    flags += ["--loss", "in_batch", "--max_train_steps", 3, "--learning_rate", 0.01, "--dropout", 0]
    run(1, tmp_path / "one", *flags, "--per_device_train_batch_size", 16)
    cached = ["--cached_embeddings", "--max_tokens_per_sub_batch", 64]
    run(2, tmp_path / "two", *flags, *cached, "--per_device_train_batch_size", 8)
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, atol=2e-4, err_msg=name)


def test_a_resumed_run_of_two_processes_ends_in_the_same_weights(tiny_bert, judged_csv, tmp_path):
    import shutil

    flags = ["--use_peft", "--model_name_or_path", tiny_bert, "--train_file", judged_csv]
    flags += ["--per_device_train_batch_size", 4, "--max_train_steps", 6, "--checkpointing_steps", 3]
    run(2, tmp_path / "whole", *flags)
    shutil.copytree(
        tmp_path / "whole" / "checkpoints" / "step_00000003",
        tmp_path / "resumed" / "checkpoints" / "step_00000003",
    )
    run(2, tmp_path / "resumed", *flags, "--resume_from_checkpoint", "latest")
    files = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert files[0] == files[1]


def test_two_processes_fine_tune_all_weights(without_dropout, judged_csv, tmp_path):
    flags = ["--model_name_or_path", without_dropout, "--train_file", judged_csv, "--max_train_steps", 3]
    flags += ["--learning_rate", 0.001]
    run(1, tmp_path / "one", *flags, "--per_device_train_batch_size", 8)
    run(2, tmp_path / "two", *flags, "--per_device_train_batch_size", 4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, value in weights[0].items():
        # A key's bias moves all of a query's scores alike: its gradient is zero but for rounding, which Adam
        # blows up to full steps.
        if not name.endswith("key.bias"):
            np.testing.assert_allclose(weights[1][name], value, atol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def plenty(tiny_bert, contrasted_jsonl, tmp_path_factory):
    """A run of two processes without memory errors: its folder, and its flags."""
    flags = ["--use_peft", "--model_name_or_path", tiny_bert, "--train_file", contrasted_jsonl]
    flags += ["--loss", "in_batch", "--max_train_steps", 3, "--learning_rate", 0.01, "--dropout", 0]
    flags += ["--per_device_train_batch_size", 4, "--gradient_accumulation_steps", 2, "--learn_temperature"]
    folder = tmp_path_factory.mktemp("plenty")
    run(2, folder, *flags)
    return folder, flags


@pytest.mark.parametrize("part", ["forward", "loss", "backward"])
def test_out_of_memory_in_one_process_makes_all_retry_in_smaller_sub_batches(plenty, tmp_path, part):
    """The second batch of a step fails, after the first batch has added its gradients."""
    folder, flags = plenty
    done = start_ranks(2, "tests/commands/scarce_memory.py", part, "--output_dir", tmp_path / "run", *flags)
    assert done.stdout.count("out of memory: batches are encoded in sub-batches of") == 1
    weights = [load_file(path / "adapter_model.safetensors") for path in (folder, tmp_path / "run")]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, atol=2e-5, err_msg=name)
    assert max(np.abs(value).max() for name, value in weights[0].items() if "lora_B" in name) > 1e-3


def test_out_of_memory_with_all_weights_over_two_processes_stops_with_advice(
    tiny_bert, contrasted_jsonl, tmp_path
):
    flags = ["--model_name_or_path", tiny_bert, "--train_file", contrasted_jsonl, "--max_train_steps", 4]
    done = start_ranks(
        2,
        "tests/commands/scarce_memory.py",
        "forward",
        "--output_dir",
        tmp_path,
        *flags,
        "--per_device_train_batch_size",
        4,
        check=False,
    )
    assert done.returncode != 0
    assert "out of memory" in done.stderr
    assert "--cached_embeddings" in done.stderr


def test_out_of_memory_while_gathering_embeddings_stops_all_with_advice(plenty, tmp_path):
    """Other processes are already in the collective: they and the failed process would wait for ever."""
    script, output = "tests/commands/scarce_memory.py", ("--output_dir", tmp_path / "run")
    done = torchrun(2, script, "exchange", *output, *plenty[1], check=False)
    assert done.returncode != 0
    assert "error: the exchange of embeddings: out of memory. Give --cached_embeddings" in done.stderr
