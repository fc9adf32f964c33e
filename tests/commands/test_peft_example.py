"""PEFT's semantic-search example: its command line trains, its adapters can be indexed, its bugs are avoided.

https://github.com/huggingface/peft/tree/main/examples/feature_extraction
"""

import json
import shlex
import shutil
import socket

import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from torch import nn
from transformers import AutoModel, AutoTokenizer

from aisle.cli import index_main, train_main
from aisle.index import open_index
from aisle.models.loading import load_encoder
from tests import tiny_models
from tests.commands.conftest import judged_rows, write_rows

HEADER = ["query", "product_title", "relevance_label"]
TRAIN_QUERIES = [
    f"{color} {noun}"
    for color in ("red", "blue", "oak", "steel", "small")
    for noun in ("sofa", "lamp", "table", "chair", "bed", "rug")
]
VALIDATION_QUERIES = ["green sofa", "tall lamp", "round table", "wool rug"]
STEPS_PER_EPOCH = 3
"""150 training pairs in batches of 64."""
PUBLISHED = """
--dataset_name={data} --max_length=70 --model_name_or_path={model}
--per_device_train_batch_size=64 --per_device_eval_batch_size=128
--learning_rate=5e-4 --weight_decay=0.0 --num_train_epochs 3 --gradient_accumulation_steps=1
--output_dir={run} --seed=42 --use_peft --checkpointing_steps "epoch"
--with_tracking --report_to="tensorboard"
"""


@pytest.fixture(scope="module")
def long_bert(minilm_dir, tmp_path_factory):
    """The folder of a tiny BERT that reads 128 tokens."""
    config = tiny_models.CONFIGS["bert"] | {"max_position_embeddings": 128}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_models.CONFIGS, "bert", config)
        return tiny_models.write_tiny_model(tmp_path_factory.mktemp("long") / "bert", "bert", minilm_dir)


def write_dataset(folder, edit=lambda query, title: (query, title), *, train=TRAIN_QUERIES):
    """Write the splits under the example's column names, its texts changed by `edit`."""
    folder.mkdir()
    for split, queries in (("train", train), ("validation", VALIDATION_QUERIES)):
        rows = [(*edit(query, title), int(label)) for query, title, label in judged_rows(queries)]
        write_rows(folder / f"{split}.csv", HEADER, rows)
    return folder


@pytest.fixture
def train(long_bert, tmp_path):
    """Run the published command line with further flags, and return the run's folder."""

    def run(*more, data=None, model=long_bert, output="run"):
        data = data or write_dataset(tmp_path / f"data-{output}")
        command = PUBLISHED.format(data=data, model=model, run=tmp_path / output)
        assert train_main([*shlex.split(command), *map(str, more)]) == 0
        return tmp_path / output

    return run


def weights(run_dir):
    return load_file(run_dir / "adapter_model.safetensors")


def metrics_of(run_dir):
    return json.loads((run_dir / "metrics.json").read_text())


def logged_steps(run_dir, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = {path.parent for path in run_dir.rglob("events.out*") if path.parent.name == "aisle"}
    events = EventAccumulator(str(folder))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def test_the_published_command_line_trains_as_it_says_and_asks_no_network(train, monkeypatch, long_bert):
    def refuse(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    run_dir = train()
    metrics, saved = metrics_of(run_dir), yaml.safe_load((run_dir / "config.yaml").read_text())
    adapter = json.loads((run_dir / "adapter_config.json").read_text())
    assert [(entry["epoch"], entry["step"]) for entry in metrics["history"]] == [(1, 3), (2, 6), (3, 9)]
    checkpoints = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert checkpoints == ["step_00000003", "step_00000006", "step_00000009"]
    assert (adapter["r"], adapter["lora_alpha"]) == (8, 16)
    assert set(adapter["target_modules"]) == {"query", "key", "value"}
    assert (metrics["loss"], metrics["train_pairs"], metrics["validation_pairs"]) == (
        "cosine_target",
        150,
        20,
    )
    assert (saved["max_length"], saved["learning_rate"], saved["weight_decay"]) == (70, 5e-4, 0.0)
    assert metrics["selection_metric"] == "roc_auc"
    assert 0 < metrics["best"]["roc_auc"] <= 1
    tuned, base = (load_encoder(model, device="cpu") for model in (run_dir, long_bert))
    assert np.abs(tuned.encode_queries(["red sofa"]) - base.encode_queries(["red sofa"])).max() > 1e-4


def test_the_trackers_get_every_evaluation_at_its_step(train):
    run_dir = train("--logging_steps", 1)
    assert logged_steps(run_dir, "eval/roc_auc") == [0, 3, 6, 9]  # 0: before training
    assert logged_steps(run_dir, "train/loss") == list(range(1, 10))


def test_text_beyond_max_length_changes_nothing(train, tmp_path):
    def lengthened(words, tail):
        return lambda query, title: (query, f"{title} {'shelf ' * words}{tail}")

    def trained(words, tail):
        data = write_dataset(tmp_path / f"{tail}{words}", lengthened(words, tail))
        run_dir = train("--max_train_steps", 2, data=data, output=f"{data.name}-run")
        return (run_dir / "adapter_model.safetensors").read_bytes()

    # A title has three to five tokens before these words, and at most 70 are read.
    assert trained(80, "red") == trained(80, "sofa")
    assert trained(10, "red") != trained(10, "sofa")


def test_max_length_bounds_the_tokens_of_every_text(train, tmp_path):
    numbers = iter(range(10_000))
    data = write_dataset(
        tmp_path / "data", lambda query, title: (f"{next(numbers)} {query * 40}", f"{next(numbers)} " * 80)
    )
    metrics = metrics_of(train("--max_train_steps", 1, data=data))
    assert metrics["tokens_per_second"] / metrics["pairs_per_second"] == pytest.approx(2 * 70)


def test_max_length_is_that_of_the_saved_encoder_too(train):
    encoder = load_encoder(train("--max_train_steps", 1), device="cpu")
    words = "lamp " * 68  # with the first and the last token, 70
    full, cut, shorter = encoder.encode_products([words, words + "red sofa", "lamp " * 67])
    np.testing.assert_array_equal(full, cut)
    assert np.abs(full - shorter).max() > 1e-4


def test_weight_decay_is_used_and_decoupled_from_the_gradient(train):
    """The second matrix of LoRA starts at zero, so in the first step the first one has no gradient:
    what changes it is the decay alone, by 1 - learning rate times decay (https://arxiv.org/abs/1711.05101).
    """
    flags = ["--max_train_steps", 1, "--learning_rate", 0.01, "--lr_scheduler_type", "constant"]
    plain, decayed = (weights(train(*flags, "--weight_decay", w, output=f"run-{w}")) for w in (0.0, 0.5))
    first = [name for name in plain if "lora_A" in name]
    assert len(first) == 6
    for name in first:
        np.testing.assert_allclose(decayed[name], plain[name] * (1 - 0.01 * 0.5), rtol=1e-6)
        assert np.abs(plain[name]).max() > 1e-3


def test_a_model_of_the_e5_family_is_trained_with_its_prompts(train, long_bert, tmp_path):
    e5 = shutil.copytree(long_bert, tmp_path / "e5-large-v2")
    by_hand = write_dataset(
        tmp_path / "by-hand", lambda query, title: (f"query: {query}", f"passage: {title}")
    )
    run_dir = train("--max_train_steps", 2, model=e5, output="e5-run")
    expected = train("--max_train_steps", 2, data=by_hand, output="by-hand-run")
    without = train("--max_train_steps", 2, output="without-run")
    saved = json.loads((run_dir / "aisle.json").read_text())
    assert (saved["query_prompt"], saved["product_prompt"]) == ("query: ", "passage: ")
    for name, value in weights(run_dir).items():
        np.testing.assert_array_equal(value, weights(expected)[name])
    assert any(
        np.abs(value - weights(without)[name]).max() > 1e-6 for name, value in weights(run_dir).items()
    )


def test_the_step_counter_continues_when_a_run_is_resumed(train, tmp_path):
    data = write_dataset(tmp_path / "data")
    whole = train("--logging_steps", 1, data=data, output="whole")
    first = tmp_path / "resumed" / "checkpoints" / "step_00000003"
    shutil.copytree(whole / "checkpoints" / "step_00000003", first)
    resumed = train("--logging_steps", 1, "--resume_from_checkpoint", first, data=data, output="resumed")
    metrics = metrics_of(resumed)
    steps = [entry["step"] for entry in metrics["history"]]
    assert steps == sorted(set(steps))
    assert steps[-1] == metrics["steps"] == 3 * STEPS_PER_EPOCH
    assert metrics["history"] == metrics_of(whole)["history"]
    assert logged_steps(resumed, "train/loss") == list(range(4, 10))
    assert sorted(path.name for path in (resumed / "checkpoints").iterdir()) == sorted(
        path.name for path in (whole / "checkpoints").iterdir()
    )


def test_resuming_a_run_that_is_done_does_not_train_on(train, tmp_path):
    data = write_dataset(tmp_path / "data")
    done = train(data=data)
    before = (done / "adapter_model.safetensors").read_bytes()
    train("--resume_from_checkpoint", "latest", data=data)
    assert metrics_of(done)["steps"] == 3 * STEPS_PER_EPOCH
    assert [entry["step"] for entry in metrics_of(done)["history"]] == [3, 6, 9]
    assert (done / "adapter_model.safetensors").read_bytes() == before


class SentenceEmbedder(nn.Module):
    """A backbone in the attribute `model`, mean pooling and unit length, as the example wraps it."""

    def __init__(self, backbone):
        super().__init__()
        self.model = backbone

    def forward(self, **inputs):
        tokens = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        return nn.functional.normalize((tokens * mask).sum(1) / mask.sum(1), dim=1)


@pytest.fixture
def example_adapter(long_bert, tmp_path):
    """The folder of an adapter as the example saves it, and the wrapped model with it."""
    wrapped = SentenceEmbedder(AutoModel.from_pretrained(long_bert, dtype=torch.float32))
    lora = LoraConfig(
        r=8,
        lora_alpha=16,
        bias="none",
        task_type="FEATURE_EXTRACTION",
        target_modules=["key", "query", "value"],
    )
    adapted = get_peft_model(wrapped, lora)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:  # zero, so that a fresh adapter changes nothing
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.1)
    adapted.save_pretrained(tmp_path / "example")
    return tmp_path / "example", adapted.eval()


def build(model, catalog, index_dir, *flags):
    arguments = [
        "--model",
        model,
        "--catalog",
        catalog,
        "--index_dir",
        index_dir,
        "--precision",
        "fp32",
        *flags,
    ]
    return index_main(["build", *map(str, arguments)])


def test_an_adapter_of_the_example_is_indexed_with_the_embeddings_of_its_own_model(
    example_adapter, long_bert, catalog_csv, tmp_path, capfd
):
    folder, adapted = example_adapter
    assert build(folder, catalog_csv, tmp_path / "index", "--base_model", long_bert) == 0
    index = open_index(tmp_path / "index")
    titles = [payload["title"] for payload in index.payload(np.arange(len(index)))]
    tokenizer = AutoTokenizer.from_pretrained(long_bert)
    with torch.no_grad():
        inputs = tokenizer(titles, padding=True, return_tensors="pt")
        expected = adapted(**inputs).numpy()
        with adapted.disable_adapter():
            bare = adapted(**inputs).numpy()
    stored = index.embeddings
    np.testing.assert_allclose(stored, expected, atol=1e-5)
    assert np.abs(stored - bare).max() > 1e-2
    capfd.readouterr()
    assert index_main(["query", "--index_dir", str(tmp_path / "index"), titles[7], "--json"]) == 0
    best = json.loads(capfd.readouterr().out)[0]["results"][0]
    assert best["payload"]["title"] == titles[7]
    assert best["score"] == pytest.approx(1.0, abs=1e-5)


def test_an_adapter_of_the_example_without_its_base_is_refused_with_the_flag_to_give(
    example_adapter, catalog_csv, tmp_path, capfd
):
    folder, _ = example_adapter
    assert build(folder, catalog_csv, tmp_path / "index") == 2
    message = capfd.readouterr().err
    assert "names no base model; give it with --base_model" in message
    assert str(folder) in message
    assert not (tmp_path / "index").exists()


def test_an_adapter_of_the_example_with_a_base_of_other_layers_is_refused(
    example_adapter, tiny_model, catalog_csv, tmp_path, capfd
):
    folder, _ = example_adapter
    assert build(folder, catalog_csv, tmp_path / "index", "--base_model", tiny_model("distilbert")) == 2
    assert "the adapter does not fit DistilBertModel" in capfd.readouterr().err
