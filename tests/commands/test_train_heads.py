"""Training a head on top of a frozen encoder or with LoRA; the run in every command."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aisle.cli import index_main, main, train_main
from aisle.commands.train.head_settings import HeadSettings
from aisle.commands.train.lora_settings import LoraSettings
from aisle.commands.train.settings import (
    ModelSettings,
    OptimSettings,
    TrainSettings,
    problems_of,
)
from aisle.models.loading import load_encoder
from tests.commands.conftest import QUERIES, judged_rows, write_rows
from tests.models.test_heads import TEXTS, by_sentence_transformers

FROZEN = ["--freeze_encoder", "--keep", "last", "--learning_rate", 0.05]
# The gates of a skip connection start nearly closed, so that it learns more slowly.
SKIP = [*FROZEN[:-1], 0.3, "--head", "skip_connection", "--checkpointing_steps", 6]


@pytest.fixture(scope="module")
def shop(tiny_bert, tmp_path_factory):
    """Pairs of a tiny shop, and runs by their name."""
    folder = tmp_path_factory.mktemp("heads")
    write_rows(folder / "pairs.csv", ["query", "product", "relevance"], judged_rows(QUERIES))
    kinds = {
        "skip": SKIP,
        "linear": [*FROZEN, "--head", "linear", "--seed", 7],
        "relu": [*FROZEN, "--head", "mlp"],
        "tanh": [*FROZEN, "--head", "mlp", "--head_activation", "tanh"],
        "lora": ["--use_peft", "--head", "gated", "--learning_rate", 0.01, "--keep", "last"],
    }
    for name, flags in kinds.items():
        assert train(folder, tiny_bert, name, *flags) == 0
    return folder


def train(folder, model, name, *flags):
    given = ["--model_name_or_path", model, "--train_file", folder / "pairs.csv", "--max_length", 16]
    given += ["--per_device_train_batch_size", 8, "--num_train_epochs", 3, "--output_dir", folder / name]
    return train_main([*map(str, [*given, *flags])])


def same_weights(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["skip", "linear", "lora"])
def test_training_a_head_lowers_the_error_of_the_cosines(name, shop, tiny_bert):
    queries, products, labels = zip(*judged_rows(QUERIES), strict=True)

    def error(model):
        encoder = load_encoder(model, device="cpu")
        cosines = (encoder.encode_queries(queries) * encoder.encode_products(products)).sum(axis=1)
        return float(np.square(cosines - labels).mean())

    assert error(shop / name) < 0.9 * error(tiny_bert)


@pytest.mark.parametrize("name", ["relu", "lora"])
def test_the_figures_before_training_are_those_of_the_model_without_the_head(name, shop):
    """A skip connection starts as the identity, and the layers of an mlp are random."""
    found, expected = (
        json.loads((shop / one / "metrics.json").read_text())["base"] for one in (name, "skip")
    )

    assert found == pytest.approx(expected, abs=1e-6)


def test_a_frozen_encoder_keeps_its_weights(shop, tiny_bert):
    assert same_weights(
        load_file(shop / "skip" / "model.safetensors"), load_file(tiny_bert / "model.safetensors")
    )


@pytest.mark.parametrize("name", ["skip", "linear", "tanh", "lora"])
def test_a_run_with_a_head_loads_in_sentence_transformers(name, shop):
    found = load_encoder(shop / name, device="cpu").encode_products(TEXTS)

    np.testing.assert_allclose(found, by_sentence_transformers(shop / name), atol=1e-5)


def test_a_checkpoint_has_only_the_weights_of_the_head(shop):
    (checkpoint, *_) = sorted((shop / "skip" / "checkpoints").glob("step_*"))

    assert set(load_file(checkpoint / "model.safetensors")) == {
        *("heads.1.gates", "heads.1.linear.weight", "heads.1.linear.bias")
    }


def test_a_resumed_run_gives_the_bytes_of_an_uninterrupted_run(shop, tiny_bert, tmp_path):
    first = sorted((shop / "skip" / "checkpoints").glob("step_*"))[0]

    code = train(
        shop, tiny_bert, "skip",
        *SKIP, "--output_dir", tmp_path / "resumed", "--resume_from_checkpoint", first,
    )  # fmt: skip

    assert code == 0
    saved, expected = (run / "3_Dense" / "model.safetensors" for run in (tmp_path / "resumed", shop / "skip"))
    assert saved.read_bytes() == expected.read_bytes()


def test_a_checkpoint_of_another_head_is_refused(shop, tiny_bert, tmp_path, capfd):
    first = sorted((shop / "skip" / "checkpoints").glob("step_*"))[0]

    code = train(
        shop, tiny_bert, "skip",
        *FROZEN, "--head", "gated", "--output_dir", tmp_path / "resumed", "--resume_from_checkpoint", first,
    )  # fmt: skip

    assert code == 2
    assert "head" in capfd.readouterr().err


def test_a_cache_serves_later_runs_and_gives_the_same_bytes(shop, tiny_bert, tmp_path, capfd):
    flags = [*SKIP, "--embedding_cache", tmp_path / "cache"]
    lines = []
    for name in ("first", "second"):
        assert train(shop, tiny_bert, "skip", *flags, "--output_dir", tmp_path / name) == 0
        said = capfd.readouterr()
        lines.append("".join((said.out + said.err).split("\n")))

    assert f"encoding the 0 that {tmp_path / 'cache'}" not in lines[0]
    assert lines[1].count(f"encoding the 0 that {tmp_path / 'cache'}") == 2
    for name in ("first", "second"):
        saved, expected = (run / "3_Dense" / "model.safetensors" for run in (tmp_path / name, shop / "skip"))
        assert saved.read_bytes() == expected.read_bytes()


def test_a_cache_of_another_encoder_changes_nothing(shop, tiny_bert, tmp_path):
    """The other encoder has the same tokenizer and dimension, and the run has the same texts."""
    other = shutil.copytree(tiny_bert, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file(
        {name: 1.1 * value for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"}
    )
    flags = [*SKIP, "--embedding_cache", tmp_path / "cache"]
    for model in (other, tiny_bert):
        assert train(shop, model, "skip", *flags, "--output_dir", tmp_path / "run") == 0
        saved = (tmp_path / "run/3_Dense/model.safetensors").read_bytes()
        shutil.rmtree(tmp_path / "run")

    assert saved == (shop / "skip/3_Dense/model.safetensors").read_bytes()
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_run_without_a_cache_folder_leaves_no_vectors(shop):
    assert not list(shop.rglob("*.vectors"))


def test_a_cache_that_cannot_be_written_is_one_message(shop, tiny_bert, tmp_path, capfd):
    (tmp_path / "file").write_text("not a folder")
    flags = [*FROZEN, "--head", "gated", "--embedding_cache", tmp_path / "file"]

    assert train(shop, tiny_bert, "skip", *flags, "--output_dir", tmp_path / "run") == 2
    assert f"--embedding_cache {tmp_path / 'file'}: cannot be used" in " ".join(
        capfd.readouterr().err.split()
    )


def test_an_average_has_the_mean_of_the_saved_layers(shop, tmp_path):
    code = main(["average", str(shop / "skip"), str(shop / "linear"), "--output_dir", str(tmp_path / "mean")])

    assert code == 0
    one, other, mean = (
        load_file(run / "3_Dense" / "model.safetensors")["linear.weight"]
        for run in (shop / "skip", shop / "linear", tmp_path / "mean")
    )
    torch.testing.assert_close(mean, (one + other) / 2)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("tanh", "tanh: has the heads Normalize, Dense 32 to 32 with Tanh, Dense 32 to 32 with Identity"),
        ("lora", "cannot be averaged with"),
    ],
)
def test_an_average_of_other_heads_is_refused(other, message, shop, tmp_path, capfd):
    code = main(["average", str(shop / "relu"), str(shop / other), "--output_dir", str(tmp_path / "mean")])

    assert code == 2
    assert message in " ".join(capfd.readouterr().err.split())


def test_a_merged_run_keeps_its_head(shop, tmp_path):
    code = main(["merge", str(shop / "lora"), "--output_dir", str(tmp_path / "merged")])

    assert code == 0
    merged, run = (load_encoder(one, device="cpu") for one in (tmp_path / "merged", shop / "lora"))
    np.testing.assert_allclose(merged.encode_products(TEXTS), run.encode_products(TEXTS), atol=1e-5)
    np.testing.assert_allclose(
        merged.encode_products(TEXTS), by_sentence_transformers(tmp_path / "merged"), atol=1e-5
    )


def test_an_index_of_a_run_with_a_head_is_queried(shop, tmp_path, capfd):
    catalog = write_rows(
        tmp_path / "catalog.csv",
        ["product_id", "title"],
        [("a", "red sofa"), ("b", "desk lamp"), ("c", "rug")],
    )
    index = ["--index_dir", str(tmp_path / "index")]
    assert index_main(["build", "--model", str(shop / "skip"), "--catalog", str(catalog), *index]) == 0
    capfd.readouterr()

    assert index_main(["query", *index, "--json", "--exact", "desk lamp"]) == 0

    found = json.loads(capfd.readouterr().out)[0]["results"]
    encoder = load_encoder(shop / "skip", device="cpu")
    scores = (
        encoder.encode_products(["red sofa", "desk lamp", "rug"]) @ encoder.encode_queries(["desk lamp"])[0]
    )
    assert [hit["product_id"] for hit in found] == [["a", "b", "c"][row] for row in np.argsort(-scores)]


def test_a_run_starts_from_a_run_with_a_head(shop, tmp_path):
    flags = [*FROZEN, "--head", "gated", "--output_dir", tmp_path / "second"]

    assert train(shop, shop / "skip", "second", *flags) == 0

    first, second = (
        load_file(one / "3_Dense" / "model.safetensors") for one in (shop / "skip", tmp_path / "second")
    )
    assert same_weights(first, second)
    assert (tmp_path / "second" / "5_Dense" / "model.safetensors").is_file()


def problems(head, **groups):
    """Return the problems of settings, without those of a command line without data."""
    settings = TrainSettings(head=HeadSettings(**head), **groups)
    return [line for line in problems_of(settings) if line not in problems_of(TrainSettings())]


@pytest.mark.parametrize(
    ("head", "more", "message"),
    [
        (
            {"freeze_encoder": True},
            {},
            "--freeze_encoder: there is nothing to train without a head; give --head",
        ),
        (
            {"freeze_encoder": True, "head": "gated"},
            {"lora": LoraSettings(use_peft=True)},
            "--freeze_encoder and --use_peft: a LoRA adapter changes the encoder",
        ),
        (
            {"head_sizes": (8,)},
            {},
            "--head_sizes 8: --head none does not use it; --head linear, mlp and stacked_",
        ),
        (
            {"head": "gated", "head_expansion": 2.0},
            {},
            "--head_expansion 2.0: --head gated does not use it; --head",
        ),
        ({"head": "gated", "head_skip_dropout": 0.1}, {}, "does not use it; --head skip_connection does"),
        (
            {"head": "stacked_projection"},
            {},
            "--head stacked_projection: needs the output sizes of its layers",
        ),
        (
            {"head": "linear", "head_sizes": (8, 4)},
            {},
            "--head linear has 1 layer; give 1 size, or leave the flag",
        ),
        ({"head": "mlp", "head_sizes": (8,)}, {}, "--head_sizes 8: --head mlp has 2 layers; give 2 sizes"),
        (
            {"freeze_encoder": True, "head": "gated"},
            {"model": ModelSettings(dropout=0.2)},
            "--dropout: the encoder is frozen, and computes without dropout (see --head_dropout)",
        ),
        (
            {"freeze_encoder": True, "head": "gated"},
            {"optim": OptimSettings(cached_embeddings=True)},
            "--cached_embeddings: the encoder is frozen, and keeps no activations; leave the flag out",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(head, more, message):
    (found,) = problems(head, **more)

    assert message in found


def test_an_unknown_head_is_refused_with_the_kinds(shop, tiny_bert, capfd):
    with pytest.raises(SystemExit) as ended:
        train(shop, tiny_bert, "unknown", "--head", "skip")

    assert ended.value.code == 2
    assert "skip_connection" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--head", "linear", "--head_sizes", "99999999999"], "65536"),
        (
            ["--head", "widening", "--head_expansion", "1e9"],
            "--head_expansion 1e+09: the middle layer of --head widening has 32,000,000,000 components for "
            "embeddings of 32, and a layer can have 65,536; give at most 2048",
        ),
    ],
)
def test_a_head_too_large_to_make_is_refused(shop, tiny_bert, capfd, flags, message):
    try:
        code = train(shop, tiny_bert, "large", "--freeze_encoder", *flags)
    except SystemExit as ended:
        code = ended.code

    said = " ".join(capfd.readouterr().err.split())
    assert code == 2
    assert message in said
    assert "Traceback" not in said
