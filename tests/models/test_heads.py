"""A model with Dense between Pooling and Normalize: read, trained further, saved and read again."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from aisle.errors import ModelError
from aisle.models.adapters import attach_lora
from aisle.models.dense import ACTIVATIONS, Dense
from aisle.models.loading import load_base, load_encoder
from aisle.models.model_source import find_model
from aisle.models.prepare_model import Lora, prepare_model
from aisle.types.encoder_settings import Overrides
from tests.edit_json import edit_json
from tests.models.conftest import save_tower

TEXTS = ["red sofa", "lamp", "a usb c cable for a very old telephone", "espresso machine", "a"]
LORA = Lora(rank=4, alpha=8, dropout=0.0, target_modules=None, use_dora=False, use_rslora=False)


@pytest.fixture
def with_dense(tiny_bert, tmp_path):
    """Return a function that saves a model with Dense by sentence-transformers, and returns its folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    def save(*, features=(32, 8), bias=True, activation=torch.nn.Tanh, before=(), name="model"):
        torch.manual_seed(0)
        dense = [
            Dense(size, to, bias=bias, activation_function=activation()) for size, to in pairwise(features)
        ]
        modules = [Transformer(str(tiny_bert)), Pooling(32), *before, *dense, Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / name))
        return tmp_path / name

    return save


def by_sentence_transformers(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [torch.nn.Tanh, torch.nn.Identity, torch.nn.GELU])
def test_embeddings_equal_those_of_sentence_transformers(activation, bias, with_dense):
    folder = with_dense(activation=activation, bias=bias)
    encoder = load_encoder(folder, device="cpu")

    found = encoder.encode_products(TEXTS)

    assert encoder.dim == 8
    np.testing.assert_allclose(found, by_sentence_transformers(folder), atol=1e-6)


def test_several_heads_apply_in_order_with_a_normalisation_between(with_dense):
    from sentence_transformers.sentence_transformer.modules import Normalize

    folder = with_dense(features=(32, 16, 8), before=(Normalize(),))
    encoder = load_encoder(folder, device="cpu")

    assert [head.kind for head in encoder.model.product_tower.heads] == [
        "Normalize",
        "Dense",
        "Dense",
        "Normalize",
    ]
    np.testing.assert_allclose(encoder.encode_products(TEXTS), by_sentence_transformers(folder), atol=1e-6)


def test_embeddings_with_a_head_in_bf16_are_close_to_those_of_float32(with_dense):
    encoder = load_encoder(with_dense(), device="cpu")
    exact = encoder.encode_products(TEXTS)

    found = encoder.encode_products(TEXTS, precision="bf16")

    assert found.dtype == np.float32
    assert not np.array_equal(found, exact)
    assert (exact * found).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("weight", ["linear.weight", "linear.bias"])
def test_a_changed_head_weight_changes_the_fingerprint(weight, with_dense):
    folder = with_dense()
    before = load_encoder(folder, device="cpu").fingerprint
    path = folder / "2_Dense" / "model.safetensors"
    weights = load_file(path)
    weights[weight].view(-1)[0] += 0.001
    save_file(weights, path)

    assert load_encoder(folder, device="cpu").fingerprint != before


def test_the_activation_changes_the_fingerprint(with_dense):
    folder = with_dense()
    before = load_encoder(folder, device="cpu").fingerprint
    edit_json(folder / "2_Dense" / "config.json", activation_function="torch.nn.modules.activation.ReLU")

    assert load_encoder(folder, device="cpu").fingerprint != before


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "full"])
def test_a_head_is_trained_and_saved_with_the_run(lora, with_dense, tmp_path, shift_weights):
    folder = with_dense()
    loaded = load_base(find_model(str(folder)), overrides=Overrides())
    tower = prepare_model(loaded, lora=lora)
    before = tower.heads[0].linear.weight.detach().clone()
    shift_weights(tower, seed=1)

    run = tmp_path / "run"
    fingerprint = save_tower(run, tower, loaded, adapter=lora is not None)

    encoder = load_encoder(run, device="cpu")
    saved = encoder.model.product_tower.heads[0].linear.weight
    assert torch.equal(saved, tower.heads[0].linear.weight)
    assert not torch.equal(saved, before)
    assert encoder.fingerprint == fingerprint
    assert encoder.dim == 8
    np.testing.assert_allclose(encoder.encode_products(TEXTS), by_sentence_transformers(run), atol=1e-5)


def test_the_best_weights_of_a_head_are_saved_in_place_of_the_last(with_dense, tmp_path, shift_weights):
    loaded = load_base(find_model(str(with_dense())), overrides=Overrides())
    tower = prepare_model(loaded, lora=LORA)
    best = {name: value.clone() for name, value in tower.named_parameters() if value.requires_grad}
    shift_weights(tower, seed=1)

    save_tower(tmp_path / "run", tower, loaded, adapter=True, weights=best)

    saved = load_file(tmp_path / "run" / "2_Dense" / "model.safetensors")
    assert torch.equal(saved["linear.weight"], best["heads.0.linear.weight"])


def test_a_run_without_a_head_removes_the_head_of_an_earlier_run(with_dense, tmp_path, tiny_bert):
    for base in (with_dense(), tiny_bert):
        loaded = load_base(find_model(str(base)), overrides=Overrides())
        save_tower(tmp_path / "run", loaded.tower(), loaded, adapter=False)

    assert load_encoder(tmp_path / "run", device="cpu").dim == 32
    assert not list((tmp_path / "run").glob("2_Dense/*"))


def test_a_bare_adapter_uses_the_head_of_its_base(with_dense, tmp_path, shift_weights):
    """PEFT's own folder has no modules.json."""
    folder = with_dense()
    backbone = attach_lora(
        load_base(find_model(str(folder)), overrides=Overrides()).backbone,
        **vars(LORA),
        base_reference=str(folder),
        base_revision=None,
    )
    shift_weights(backbone, seed=1)
    backbone.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)

    assert load_encoder(tmp_path / "adapter", device="cpu").dim == 8


def listed(*kinds):
    return [
        {"idx": idx, "name": str(idx), "path": "" if idx == 0 else f"{idx}_{kind}", "type": f"st.{kind}"}
        for idx, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (("Transformer", "Pooling", "WeightedLayerPooling"), "the model has st.WeightedLayerPooling, which"),
        (
            ("Transformer", "Pooling", "LayerNorm", "Normalize"),
            "the model has st.LayerNorm, which",
        ),
        (("Transformer", "Dense", "Pooling"), "lists Transformer, Dense, Pooling; aisle reads one"),
        (("Transformer", "Dense"), "lists Transformer, Dense; aisle reads one"),
        (("Transformer", "Pooling", "Dense", "Pooling"), "aisle reads one Transformer, then one Pooling"),
    ],
)
def test_unsupported_modules_are_refused_by_name(kinds, message, tiny_bert, tmp_path):
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    (folder / "modules.json").write_text(json.dumps(listed(*kinds)))

    with pytest.raises(ModelError, match=rf"modules\.json: .*{message}"):
        load_encoder(folder, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.PReLU"}, "asks for the activation .*PReLU"),
        ({"activation_function": "someone.Tanh"}, r"asks for the activation someone\.Tanh"),
        ({"use_residual": True}, "asks for use_residual"),
        ({"module_input_name": "token_embeddings"}, "module_input_name must be sentence_embedding"),
        ({"in_features": 31}, "does not fit config.json"),
        ({"out_features": 0}, "out_features must be a whole number above 0; found 0"),
        ({"bias": False}, r"1 unknown \(linear\.bias for example\)"),
    ],
)
def test_an_unsupported_head_is_refused_with_the_file_named(changes, message, with_dense):
    folder = with_dense()
    edit_json(folder / "2_Dense" / "config.json", **changes)

    with pytest.raises(ModelError, match=rf"2_Dense.*{message}"):
        load_encoder(folder, device="cpu")


def test_a_head_for_another_dimension_is_refused(with_dense):
    folder = with_dense()
    Dense(16, 8, bias=True, activation="Tanh").save(folder / "2_Dense")

    with pytest.raises(
        ModelError, match=r"2_Dense: Dense takes embeddings of 16 components, but its input has 32"
    ):
        load_encoder(folder, device="cpu")


def test_a_head_with_pickled_weights_is_refused(with_dense):
    folder = with_dense()
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")

    with pytest.raises(ModelError, match=r"model\.safetensors: is missing; aisle loads .* safetensors only"):
        load_encoder(folder, device="cpu")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_saved_under_a_name_that_loading_accepts(activation, tmp_path):
    layer = Dense(3, 2, bias=True, activation=activation)
    layer.save(tmp_path / "2_Dense")
    embeddings = torch.tensor([[0.5, -1.0, 2.0]])

    assert torch.equal(Dense.load(tmp_path / "2_Dense")(embeddings), layer(embeddings))
