"""Train two towers from the command line, and use the runs."""

import json
import shutil

import numpy as np
import pytest
import torch

from aisle.cli import index_main, train_main
from aisle.models.loading import load_encoder
from tests.commands.conftest import QUERIES, judged_rows, write_rows


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Positives of a tiny shop, without labels."""
    rows = [(query, title) for query, title, right in judged_rows(QUERIES, per_query=4) if right]
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.csv", ["query", "product"], rows)


@pytest.fixture
def train(tiny_bert, pairs, tmp_path):
    """Train for 2 steps and return the exit code and the run's folder."""

    def run(*flags, model=tiny_bert, output="run", steps=2):
        folder = tmp_path / output
        given = [
            "--model_name_or_path",
            model,
            "--train_file",
            pairs,
            "--output_dir",
            folder,
            "--max_length",
            16,
        ]
        given += ["--max_train_steps", steps, "--per_device_train_batch_size", 8, "--learning_rate", 0.003]
        return train_main([*map(str, given), *map(str, flags), "--validation_share", "0.25"]), folder

    return run


def embedded(folder):
    encoder = load_encoder(folder, device="cpu")
    return encoder.encode_queries(QUERIES), encoder.encode_products(QUERIES)


def agrees_with_sentence_transformers(folder):
    from sentence_transformers import SentenceTransformer

    queries, products = embedded(folder)
    other = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(other.encode_query(QUERIES), queries, atol=1e-5)
    np.testing.assert_allclose(other.encode_document(QUERIES), products, atol=1e-5)


@pytest.mark.parametrize("flags", [(), ("--use_peft",), ("--head", "skip_connection", "--cached_embeddings")])
def test_both_towers_are_trained_and_saved(flags, train, tiny_bert):
    code, run = train("--two_towers", *flags)

    assert code == 0
    queries, products = embedded(run)
    base = load_encoder(tiny_bert, device="cpu").encode_queries(QUERIES)
    assert min(np.abs(queries - base).max(), np.abs(products - base).max()) > 1e-4
    assert np.abs(queries - products).max() > 1e-4
    agrees_with_sentence_transformers(run)
    assert not list(run.rglob("adapter_*"))
    assert "Two towers" in (run / "README.md").read_text()


def test_two_base_models_give_a_tower_each(train, tiny_model):
    code, run = train(
        *("--two_towers", "--query_model_name_or_path", tiny_model("roberta"), "--query_prompt", "find: ")
    )

    encoder = load_encoder(run, device="cpu")
    kinds = [encoder.model.tower(side).backbone.config.model_type for side in ("query", "product")]
    assert (code, kinds) == (0, ["roberta", "bert"])
    assert (encoder.settings.query_prompt, encoder.settings.product_prompt) == ("find: ", "")
    agrees_with_sentence_transformers(run)


@pytest.mark.parametrize(
    "flags", [(), ("--use_peft",), ("--cached_embeddings",)], ids=["all", "lora", "cached"]
)
def test_a_frozen_product_tower_keeps_indexes_of_the_model_valid(
    flags, train, tiny_bert, catalog_csv, tmp_path, capfd
):
    index = ["--index_dir", str(tmp_path / "index")]
    made = ["--model", str(tiny_bert), "--catalog", str(catalog_csv), "--threads", "1", "--max_length", "16"]
    assert index_main(["build", *made, *index]) == 0

    code, run = train("--two_towers", "--freeze", "product", *flags)

    assert code == 0
    capfd.readouterr()
    assert index_main(["query", *index, "--model", str(run), "red sofa", "--json"]) == 0
    captured = capfd.readouterr()
    best = json.loads(captured.out)[0]["results"][0]
    encoder = load_encoder(run, device="cpu")
    expected = encoder.encode_products([best["payload"]["title"]]) @ encoder.encode_queries(["red sofa"])[0]
    assert best["score"] == pytest.approx(float(expected[0]), abs=1e-5)
    assert f"query tower {encoder.query_fingerprint[:12]}" in captured.err
    base = load_encoder(tiny_bert, device="cpu")
    assert np.abs(encoder.encode_queries(QUERIES) - base.encode_queries(QUERIES)).max() > 1e-4


def test_a_frozen_query_tower_stays(train, tiny_bert):
    _, run = train("--two_towers", "--freeze", "query")

    queries, products = embedded(run)
    base = load_encoder(tiny_bert, device="cpu").encode_queries(QUERIES)
    np.testing.assert_allclose(queries, base, atol=1e-6)
    assert np.abs(products - base).max() > 1e-4


def test_tied_towers_are_trained_like_one(train):
    code, tied = train("--two_towers", "--tie", output="tied")
    _, one = train(output="one")

    assert code == 0
    for found, expected in zip(embedded(tied), embedded(one), strict=True):
        np.testing.assert_array_equal(found, expected)
    encoder = load_encoder(tied, device="cpu")
    assert encoder.model.separate_sides
    assert encoder.query_fingerprint == encoder.fingerprint


def test_a_run_of_two_towers_is_trained_further(train):
    _, first = train("--two_towers", output="first")
    code, second = train("--two_towers", "--freeze", "product", model=first, output="second")

    one, other = load_encoder(first, device="cpu"), load_encoder(second, device="cpu")
    assert code == 0
    assert one.fingerprint == other.fingerprint
    assert one.query_fingerprint != other.query_fingerprint


def test_a_resumed_run_is_that_of_a_run_without_a_pause(train):
    _, whole = train("--two_towers", "--checkpointing_steps", 2, output="whole", steps=4)
    copied = shutil.copytree(whole, whole.parent / "paused")
    (copied / "aisle.json").unlink()
    shutil.rmtree(copied / "checkpoints" / "step_00000004")

    code, paused = train(
        *("--two_towers", "--checkpointing_steps", 2, "--resume_from_checkpoint", "latest"),
        output="paused",
        steps=4,
    )

    assert code == 0
    one, other = load_encoder(whole, device="cpu"), load_encoder(paused, device="cpu")
    assert (one.fingerprint, one.query_fingerprint) == (other.fingerprint, other.query_fingerprint)


def test_a_checkpoint_of_one_tower_does_not_resume_two(train, capfd):
    train("--checkpointing_steps", 1)
    code, _ = train("--two_towers", "--resume_from_checkpoint", "latest")

    assert code == 2
    assert "two_towers" in capfd.readouterr().err


def test_inner_products_need_no_unit_norm_and_build_refuses_them(train, catalog_csv, tmp_path, capfd):
    code, run = train("--two_towers", "--similarity", "dot")

    captured = capfd.readouterr()
    assert code == 0
    assert "--temperature: 1 with --similarity dot" in captured.err + captured.out
    queries, _ = embedded(run)
    assert np.abs(np.linalg.norm(queries, axis=1) - 1).min() > 0.1
    agrees_with_sentence_transformers(run)
    whole = json.loads((run / "config_sentence_transformers.json").read_text())
    assert whole["similarity_fn_name"] == "dot"
    index = ["--index_dir", str(tmp_path / "index"), "--catalog", str(catalog_csv)]
    assert index_main(["build", "--model", str(run), *index]) == 2
    assert "was trained with --similarity dot, and an index compares cosines" in capfd.readouterr().err


def test_dropout_on_the_embeddings_changes_training_and_not_the_saved_modules(train):
    _, plain = train("--two_towers", "--freeze", "product", output="plain")
    code, dropped = train("--two_towers", "--freeze", "product", "--output_dropout", 0.5, output="dropped")

    modules = [(run / "query" / "modules.json").read_text() for run in (plain, dropped)]
    assert code == 0
    assert modules[0] == modules[1]
    assert not torch.equal(*(torch.from_numpy(embedded(run)[0]) for run in (plain, dropped)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--tie",), "--tie: needs --two_towers"),
        (("--freeze", "query"), "--freeze: needs --two_towers"),
        (("--query_model_name_or_path", "x"), "--query_model_name_or_path: needs --two_towers"),
        (("--two_towers", "--query_model_name_or_path", "x"), "x: there is no such folder"),
        (("--two_towers", "--tie", "--freeze", "query"), "--tie and --freeze: tied towers share all weights"),
        (
            ("--two_towers", "--freeze_encoder", "--head", "gated"),
            "--two_towers and --freeze_encoder: the vectors of a frozen encoder are cached for one tower",
        ),
        (("--similarity", "dot", "--matryoshka_dims", "8"), "scales each prefix to unit norm"),
        (("--similarity", "dot", "--loss", "cosine_target"), "has targets or margins of cosines"),
        (("--similarity", "dot", "--selection", "joint_pool"), "joint_pool compares cosines"),
    ],
)
def test_settings_that_cannot_work_are_one_message(flags, message, train, capfd):
    code, run = train(*flags)

    assert code == 2
    assert message in capfd.readouterr().err
    assert not (run / "aisle.json").exists()


def test_a_run_of_two_towers_needs_the_flag(train, capfd):
    _, first = train("--two_towers", output="first", steps=1)
    code, _ = train(model=first, output="second")

    assert code == 2
    assert "give one of its towers" in capfd.readouterr().err
