import numpy as np
import pytest
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models import int8_tower as int8
from aisle.models.adapters import attach_lora
from aisle.models.heads import Normalize
from aisle.models.int8_linear import Int8Linear, multiplies_int8
from aisle.models.loading import load_encoder
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower
from tests.skip_reasons import NO_INT8_INSTRUCTIONS
from tests.tiny_models import ARCHITECTURES

pytestmark = pytest.mark.skipif(not multiplies_int8(), reason=NO_INT8_INSTRUCTIONS)

TEXTS = [
    "shoes",
    "red running shoes for women, size 38, breathable",
    "stainless steel espresso machine with milk frother",
    "garden hose 20 m",
    "",
    "usb c cable",
]
RANK = 4


def cosines(one, other):
    return (one * other).sum(axis=1)


@pytest.fixture
def encoder(tiny_bert):
    return load_encoder(tiny_bert, device="cpu")


@pytest.fixture
def adapted(encoder, shift_weights):
    """The same encoder with an adapter that is not merged and that changes its embeddings."""
    options = {"alpha": 8, "dropout": 0.0, "target_modules": None, "use_dora": False, "use_rslora": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = attach_lora(
            encoder.model.product_tower.backbone,
            rank=RANK,
            base_reference="base",
            base_revision=None,
            **options,
        )
    shift_weights(backbone, seed=1)
    return Tower(backbone, Pooling("mean"), [Normalize()]).eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_are_close_to_those_in_fp32(architecture, tiny_model):
    encoder = load_encoder(tiny_model(architecture), device="cpu")
    expected = encoder.encode_products(TEXTS)

    found = encoder.encode_products(TEXTS, precision="int8")

    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert cosines(found, expected).min() > 0.98
    assert not np.array_equal(found, expected)
    assert np.array_equal(encoder.encode_products(TEXTS), expected)


def test_minilm_keeps_its_embeddings(minilm):
    encoder = load_encoder(minilm, device="cpu")
    expected = encoder.encode_products(TEXTS)

    assert cosines(encoder.encode_products(TEXTS, precision="int8"), expected).min() > 0.99


def test_all_linear_layers_are_replaced_and_everything_else_is_shared(encoder):
    copied = int8.int8_tower(encoder.model.product_tower, max_length=64)

    assert not [one for one in copied.modules() if type(one) is nn.Linear]
    linear = [name for name, one in encoder.model.product_tower.named_modules() if type(one) is nn.Linear]
    assert [name for name, one in copied.named_modules() if isinstance(one, Int8Linear)] == linear
    own = dict(encoder.model.product_tower.named_parameters())
    shared = {name for name, one in copied.named_parameters() if one is own.get(name)}
    assert {name for name in own if name.rsplit(".", 1)[0] not in linear} == shared


def test_queries_keys_and_values_share_codes_with_scales_of_channels(encoder):
    copied = int8.int8_tower(encoder.model.product_tower, max_length=64)

    for layer in copied.backbone.encoder.layer:
        attention = layer.attention.self
        assert attention.query._inputs is attention.key._inputs is attention.value._inputs
        assert attention.query._inputs.channel_scales is not None
        assert layer.intermediate.dense._inputs.channel_scales is not None
        assert layer.output.dense._inputs.channel_scales is None
        assert layer.output.dense._inputs.after_gelu
        assert not layer.attention.output.dense._inputs.after_gelu


def test_an_embedding_does_not_depend_on_the_other_texts(encoder):
    together = encoder.encode_products(TEXTS, precision="int8")

    alone = np.concatenate([encoder.encode_products([text], precision="int8") for text in TEXTS])

    # Rounding in fp32 may tip a code to its neighbour.
    assert cosines(together, alone).min() > 0.9995


def test_the_int8_copy_is_made_once_and_only_on_request(encoder, monkeypatch):
    made = []

    def counted(*inputs, **options):
        made.append(True)
        return int8.int8_tower(*inputs, **options)

    monkeypatch.setattr("aisle.models.tower_copies.int8_tower", counted)

    encoder.encode_queries(TEXTS)
    assert not made
    for _ in range(2):
        encoder.encode_products(TEXTS, precision="int8")
    assert made == [True]


def test_an_adapter_is_merged_only_into_the_int8_copy(encoder, adapted):
    batch = int8.random_tokens(adapted.vocabulary_size, 8)
    with torch.no_grad():
        expected = adapted([batch]).numpy()
        found = int8.int8_tower(adapted, max_length=64)([batch]).numpy()
        after = adapted([batch]).numpy()
        with adapted.backbone.disable_adapter():
            base = adapted([batch]).numpy()

    assert cosines(found, expected).min() > 0.98
    assert (1 - cosines(base, expected)).mean() > 5 * (1 - cosines(found, expected)).mean()
    assert np.array_equal(after, expected)


def test_a_copy_made_in_inference_mode_works_outside_it(encoder):
    with torch.inference_mode():
        copied = int8.int8_tower(encoder.model.product_tower, max_length=64)

    batch = int8.random_tokens(encoder.model.product_tower.vocabulary_size, 8)
    with torch.no_grad():
        assert torch.isfinite(copied([batch])).all()


def test_gelu_is_fused_into_the_product_before_it(encoder):
    copied = int8.int8_tower(encoder.model.product_tower, max_length=64)

    for layer in copied.backbone.encoder.layer:
        assert layer.intermediate.dense._activation == ("gelu", "none")
        assert type(layer.intermediate.intermediate_act_fn) is nn.Identity


def test_gelu_of_half_an_output_is_not_fused(tiny_model):
    """ModernBERT multiplies GELU of one half with the other half."""
    tower = load_encoder(tiny_model("modernbert"), device="cpu").model.product_tower

    copied = int8.int8_tower(tower, max_length=64)

    linear = [one for one in copied.modules() if isinstance(one, Int8Linear)]
    assert {one._activation for one in linear} == {("none", "")}


def test_an_activation_that_is_called_twice_is_not_fused(encoder):
    first, second = encoder.model.product_tower.backbone.encoder.layer
    first.intermediate.intermediate_act_fn = second.intermediate.intermediate_act_fn

    copied = int8.int8_tower(encoder.model.product_tower, max_length=64)

    for layer in copied.backbone.encoder.layer:
        assert layer.intermediate.dense._activation == ("none", "")
        assert type(layer.intermediate.intermediate_act_fn) is not nn.Identity


def test_only_exact_gelu_is_fused(encoder):
    for layer in encoder.model.product_tower.backbone.encoder.layer:
        layer.intermediate.intermediate_act_fn = nn.GELU(approximate="tanh")

    copied = int8.int8_tower(encoder.model.product_tower, max_length=64)

    for layer in copied.backbone.encoder.layer:
        assert layer.intermediate.dense._activation == ("none", "")


def test_a_model_that_int8_changes_too_much_is_refused(encoder, monkeypatch):
    monkeypatch.setattr(int8, "MARGIN", 50)

    with pytest.raises(
        ModelError, match=r"does not suit this model.* embedding is 0\.\d+, .*use fp32 or bf16"
    ):
        int8.int8_tower(encoder.model.product_tower, max_length=64)


def test_other_devices_are_refused(encoder):
    tower = encoder.model.product_tower.to("meta")

    with pytest.raises(ModelError, match="int8 is for CPUs, and the model is on meta; use fp32 or bf16"):
        int8.int8_tower(tower, max_length=64)


def test_a_cpu_without_integer_products_is_refused(encoder, monkeypatch):
    monkeypatch.setattr(int8, "multiplies_int8", lambda: False)

    with pytest.raises(ModelError, match="VNNI instructions, which this CPU lacks; use fp32 or bf16"):
        encoder.encode_products(TEXTS, precision="int8")
