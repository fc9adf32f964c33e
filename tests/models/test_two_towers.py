"""A run of two towers: saved as two whole models and as sentence-transformers' Router, and loaded again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from aisle.errors import ModelError
from aisle.export.sample_texts import SampleTexts
from aisle.export.write_bundle import ExportOptions, write_bundle
from aisle.models.averaging import average_runs
from aisle.models.dense import Dense
from aisle.models.heads import Normalize
from aisle.models.loading import load_base, load_encoder
from aisle.models.merging import merge_model
from aisle.models.model_source import find_model
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower
from aisle.models.two_towers import TwoTowers, UnchangedModel
from aisle.models.whole_model import WholeModel
from aisle.types.encoder_settings import Overrides
from tests.edit_json import edit_json
from tests.models.conftest import save_tower

TEXTS = ["shoes", "red running shoes for women, size 38, breathable", "حذاء 👟", "deep learning " * 60, "usb"]


def loaded_model(folder, **overrides):
    return load_base(find_model(str(folder)), overrides=Overrides(**overrides))


def whole_model(loaded):
    return WholeModel(loaded.tower(), loaded.tokenizer, loaded.settings, loaded.source)


@pytest.fixture(scope="module")
def loaded(tiny_model):
    """Models of different architectures, tokenizers, prompts, poolings and maximum lengths."""
    return (
        loaded_model(tiny_model("roberta"), query_prompt="query: ", max_length=12, pooling="cls"),
        loaded_model(tiny_model("distilbert"), product_prompt="passage: ", max_length=40),
    )


@pytest.fixture(scope="module")
def run(loaded, tmp_path_factory):
    """A run of two towers; read it, never write to it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    TwoTowers(*map(whole_model, loaded)).save(folder)
    return folder


@pytest.fixture
def copy_of_run(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


def test_each_side_has_the_embeddings_of_its_own_model(run):
    encoder = load_encoder(run, device="cpu")
    query_side, product_side = (load_encoder(run / side, device="cpu") for side in ("query", "product"))

    queries, products = encoder.encode_queries(TEXTS), encoder.encode_products(TEXTS)

    np.testing.assert_array_equal(queries, query_side.encode_queries(TEXTS))
    np.testing.assert_array_equal(products, product_side.encode_products(TEXTS))
    assert np.abs(queries - products).max() > 0.1
    assert (encoder.query_fingerprint, encoder.fingerprint) == (
        query_side.fingerprint,
        product_side.fingerprint,
    )
    assert encoder.query_fingerprint != encoder.fingerprint


def test_sentence_transformers_routes_to_the_same_embeddings(run):
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder(run, device="cpu")
    other = SentenceTransformer(str(run), device="cpu")

    np.testing.assert_allclose(other.encode_query(TEXTS), encoder.encode_queries(TEXTS), atol=1e-5)
    np.testing.assert_allclose(other.encode_document(TEXTS), encoder.encode_products(TEXTS), atol=1e-5)
    assert other.similarity_fn_name == "cosine"


def test_each_tower_is_a_whole_model_for_sentence_transformers(run):
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder(run, device="cpu")
    query_side, product_side = (
        SentenceTransformer(str(run / side), device="cpu") for side in ("query", "product")
    )

    np.testing.assert_allclose(query_side.encode_query(TEXTS), encoder.encode_queries(TEXTS), atol=1e-5)
    np.testing.assert_allclose(product_side.encode_document(TEXTS), encoder.encode_products(TEXTS), atol=1e-5)


def test_the_settings_are_those_of_each_side(run):
    encoder = load_encoder(run, device="cpu")

    assert encoder.settings.query_prompt == "query: "
    assert encoder.settings.product_prompt == "passage: "
    assert [encoder.max_length_of(side) for side in ("query", "product")] == [12, 40]
    assert encoder.tokenizer_of("query").pad_token_id != encoder.tokenizer_of("product").pad_token_id


def test_heads_of_a_tower_are_saved(loaded, tmp_path):
    model = loaded[1]
    dense = Dense(32, 32, bias=True, activation="Tanh")
    headed = Tower(model.backbone, Pooling("mean"), [Normalize(), dense, Normalize()])
    folder = tmp_path / "run"

    TwoTowers(replace(whole_model(model), tower=headed), whole_model(model)).save(folder)

    from sentence_transformers import SentenceTransformer

    encoder = load_encoder(folder, device="cpu")
    other = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(other.encode_query(TEXTS), encoder.encode_queries(TEXTS), atol=1e-5)
    assert np.abs(encoder.encode_queries(TEXTS) - encoder.encode_products(TEXTS)).max() > 0.1


def test_an_unchanged_model_keeps_its_fingerprint(tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "base")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    base, other = loaded_model(folder), loaded_model(folder, max_length=24)

    TwoTowers(whole_model(other), UnchangedModel(base)).save(tmp_path / "run")

    encoder, plain = load_encoder(tmp_path / "run", device="cpu"), load_encoder(folder, device="cpu")
    assert encoder.fingerprint == plain.fingerprint
    assert encoder.query_fingerprint != plain.fingerprint
    np.testing.assert_array_equal(encoder.encode_products(TEXTS), plain.encode_products(TEXTS))


def test_overrides_go_to_both_towers(run):
    encoder = load_encoder(run, device="cpu", overrides=Overrides(query_prompt="find: ", max_length=20))

    assert (encoder.settings.query_prompt, encoder.settings.product_prompt) == ("find: ", "passage: ")
    assert [encoder.max_length_of(side) for side in ("query", "product")] == [20, 20]


def test_a_run_with_a_shared_tower_replaces_both_folders(copy_of_run, loaded):
    (copy_of_run / "query" / "notes.txt").write_text("mine")

    save_tower(copy_of_run, loaded[1].tower(), loaded[1], adapter=False)

    assert load_encoder(copy_of_run, device="cpu").query_tokenizer is None
    assert not (copy_of_run / "router_config.json").exists()
    assert not (copy_of_run / "product").exists()
    assert [path.name for path in (copy_of_run / "query").iterdir()] == ["notes.txt"]


def test_two_towers_replace_a_run_with_a_shared_tower(loaded, tmp_path):
    save_tower(tmp_path, loaded[1].tower(), loaded[1], adapter=False)

    TwoTowers(*map(whole_model, loaded)).save(tmp_path)

    assert load_encoder(tmp_path, device="cpu").model.separate_sides
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize("overrides", [{}, {"max_length": 8}], ids=["as it is", "max_length"])
def test_a_folder_from_another_run_is_refused(overrides, copy_of_run):
    shutil.rmtree(copy_of_run / "query")
    shutil.copytree(copy_of_run / "product", copy_of_run / "query")

    with pytest.raises(ModelError, match=r"tower in query/ with fingerprint .* is from another run"):
        load_encoder(copy_of_run, overrides=Overrides(**overrides), device="cpu")


def test_a_missing_tower_is_named(copy_of_run):
    shutil.rmtree(copy_of_run / "query")

    with pytest.raises(ModelError, match=r"query/aisle.json is missing; restore"):
        load_encoder(copy_of_run, device="cpu")


def test_a_missing_router_file_is_named(copy_of_run):
    (copy_of_run / "router_config.json").unlink()

    with pytest.raises(ModelError, match=r"router_config.json is missing, without which sentence-transf"):
        load_encoder(copy_of_run, device="cpu")


def test_a_router_without_its_description_names_its_towers(copy_of_run):
    (copy_of_run / "aisle.json").unlink()

    with pytest.raises(ModelError) as refused:
        load_encoder(copy_of_run, device="cpu")

    assert "is a Router of sentence-transformers" in str(refused.value)
    assert f"give a single tower: {copy_of_run}/product or {copy_of_run}/query" in str(refused.value)


def test_altered_weights_of_a_tower_are_refused(copy_of_run):
    edit_json(copy_of_run / "query" / "config.json", layer_norm_eps=0.1)

    with pytest.raises(ModelError, match=r"copy/query: was saved with fingerprint"):
        load_encoder(copy_of_run, device="cpu")


def test_a_base_model_is_refused(run, tiny_bert):
    with pytest.raises(ModelError, match=r"--base_model: .* has a tower for each side"):
        load_encoder(run, base_model=tiny_bert)


def test_towers_of_other_sides_are_refused(copy_of_run):
    edit_json(copy_of_run / "aisle.json", towers=[{"sides": [side]} for side in ("image", "text")])

    with pytest.raises(ModelError, match=r"lists towers for the sides .*image.* load the run with"):
        load_encoder(copy_of_run)


def test_towers_of_different_dimensions_are_not_saved(loaded, tmp_path):
    model = loaded[1]
    short = Tower(model.backbone, Pooling("mean"), [Dense(32, 8, bias=True, activation="Tanh")])

    with pytest.raises(ModelError, match=r"have 32 components, .* tower's have 8"):
        TwoTowers(whole_model(model), replace(whole_model(model), tower=short)).save(tmp_path / "run")

    assert not (tmp_path / "run" / "aisle.json").exists()


def test_the_description_names_both_towers(run):
    saved = json.loads((run / "aisle.json").read_text())

    assert [tower["sides"] for tower in saved["towers"]] == [["query"], ["product"]]
    assert saved["query_fingerprint"] == saved["towers"][0]["fingerprint"]
    assert saved["fingerprint"] == saved["towers"][1]["fingerprint"]
    assert saved["towers"][0]["base_model"] != saved["towers"][1]["base_model"]


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (lambda run: average_runs([str(run)] * 2, [1.0, 1.0]), "towers are averaged one at a time"),
        (lambda run: merged(run), "both are whole models, without an adapter to merge"),
    ],
    ids=["average", "merge"],
)
def test_commands_for_a_single_tower_refuse_the_run_and_name_its_towers(use, why, run):
    with pytest.raises(ModelError, match=rf"{why}; give one of its towers: .*/query or .*/product"):
        use(run)


def merged(run):
    options = {"base_model": None, "token": None, "trust_remote_code": False}
    return merge_model(find_model(str(run)), **options)


def test_a_bundle_of_towers_with_different_tokenizers_is_refused(run, tmp_path):
    encoder = load_encoder(run, device="cpu")

    with pytest.raises(
        ModelError, match=r"different tokenizers and maximum lengths and poolings, .*run/query"
    ):
        write_bundle(encoder, tmp_path / "bundle", ExportOptions("fp32", SampleTexts((), ())))
