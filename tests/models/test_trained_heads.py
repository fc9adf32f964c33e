"""Heads to train: their formulas, their start, the gradients, and the Dense layers they are saved as."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.models.dense import Dense
from aisle.models.heads import Normalize, heads_to_save, load_heads
from aisle.models.loading import load_base, load_encoder
from aisle.models.model_source import find_model
from aisle.models.prepare_model import Lora, prepare_model, weights_without_gradient
from aisle.models.trained_heads import MAKERS, Gated, HeadDropout, SkipConnection, make_head
from aisle.text.token_batches import pad
from aisle.text.tokens import TokenizedTexts
from aisle.types.encoder_settings import Overrides
from aisle.types.head_options import HeadOptions
from tests.models.conftest import save_tower
from tests.models.test_heads import TEXTS, by_sentence_transformers

LORA = Lora(rank=4, alpha=8, dropout=0.0, target_modules=None, use_dora=False, use_rslora=False)
OPTIONS = [
    HeadOptions("skip_connection", skip_dropout=0.5),
    HeadOptions("gated"),
    HeadOptions("widening", expansion=1.5, activation="gelu"),
    HeadOptions("stacked_projection", sizes=(20, 12, 8), activation="tanh"),
    HeadOptions("linear"),
    HeadOptions("linear", sizes=(8,), dropout=0.3),
    HeadOptions("mlp", activation="silu"),
]
NAMES = [f"{options.kind} {options.sizes or ''}" for options in OPTIONS]


def set_weights(module, **values):
    with torch.no_grad():
        for name, value in values.items():
            module.get_parameter(name.replace("__", ".")).copy_(torch.tensor(value))


def test_a_skip_connection_adds_the_gated_layer():
    head = SkipConnection(2)
    set_weights(
        head, gates=[0.0, math.log(3)], linear__weight=[[1.0, 2.0], [0.0, -4.0]], linear__bias=[0.5, 1.0]
    )

    found = head(torch.tensor([[1.0, 2.0], [0.0, 0.0]]))

    # Gates .5 and .75; the layer gives (5.5, -7) and (.5, 1).
    torch.testing.assert_close(found, torch.tensor([[3.75, -3.25], [0.25, 0.75]]))


def test_gates_scale_components():
    head = Gated(2)
    set_weights(head, gates=[math.atanh(0.5), math.atanh(-0.25)])

    torch.testing.assert_close(head(torch.tensor([[2.0, 4.0]])), torch.tensor([[1.0, -1.0]]))


def test_widening_goes_through_a_wide_layer_and_back():
    first, second = make_head(HeadOptions("widening", expansion=1.5), 2)
    assert first.linear.weight.shape == (3, 2)
    set_weights(first, linear__weight=[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], linear__bias=[0.0, 0.0, -2.0])
    set_weights(second, linear__weight=[[1.0, 1.0, 1.0], [0.0, 2.0, -1.0]], linear__bias=[0.5, 0.0])

    found = second(first(torch.tensor([[3.0, -1.0]])))

    # The wide layer gives (3, -1, 0), and ReLU (3, 0, 0).
    torch.testing.assert_close(found, torch.tensor([[3.5, 0.0]]))


def test_a_stacked_projection_has_the_activation_between_its_layers_only():
    layers = make_head(HeadOptions("stacked_projection", sizes=(5, 4, 3), activation="tanh"), 6)

    assert [(one.in_features, one.out_features) for one in layers] == [(6, 5), (5, 4), (4, 3)]
    assert [type(one.activation) for one in layers] == [nn.Tanh, nn.Tanh, nn.Identity]


def test_defaults_are_those_of_quaterion():
    skip, gated = SkipConnection(3), Gated(3)
    wide, back = make_head(HeadOptions("widening"), 6)

    assert skip.gates.tolist() == [-4, -4, -4]
    assert gated.gates.tolist() == [2, 2, 2]
    assert (wide.out_features, back.out_features) == (24, 6)
    assert (type(wide.activation), type(back.activation)) == (nn.ReLU, nn.Identity)


def test_the_middle_layer_of_widening_has_a_largest_size():
    wide, _ = make_head(HeadOptions("widening", expansion=65_536 / 4), 4)
    assert wide.out_features == 65_536
    with pytest.raises(ModelError, match=r"has 65,540 components for embeddings of 4.*give at most 16384"):
        make_head(HeadOptions("widening", expansion=65_540 / 4), 4)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("mlp", (65_536, 65_536)), ("stacked_projection", (8, 65_536, 1_025)), ("linear", (65_536,))],
)
def test_a_layer_has_a_largest_number_of_weights(kind, sizes):
    with pytest.raises(ModelError, match=r"weights, and a layer of a head can have 67,108,864; give lower"):
        make_head(HeadOptions(kind, sizes=sizes), 1_025)


@pytest.mark.parametrize("kind", ["skip_connection", "gated", "linear"])
def test_the_head_starts_as_the_identity(kind, tiny_bert):
    loaded = load_base(find_model(str(tiny_bert)), overrides=Overrides())
    before = loaded.tower().eval()
    expected = before([batch_of(before)])

    found = prepare_model(loaded, lora=None, head=HeadOptions(kind)).eval()([batch_of(before)])

    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("freeze_encoder", [False, True])
def test_a_tower_without_added_heads_computes_what_the_model_below_them_does(freeze_encoder, tiny_bert):
    loaded = load_base(find_model(str(tiny_bert)), overrides=Overrides())
    before = loaded.tower().eval()
    expected = before([batch_of(before)])
    tower = prepare_model(loaded, lora=None, head=HeadOptions("mlp"), freeze_encoder=freeze_encoder).eval()
    batch = batch_of(before)

    with tower.without_added_heads():
        found = tower([batch])

    torch.testing.assert_close(found, expected)
    assert not torch.allclose(tower([batch]), expected, atol=0.1)


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_gradients_equal_numerical_gradients(options, shift_weights):
    head = nn.Sequential(*make_head(options, 6)).double().eval()
    shift_weights(head, seed=3)
    names = [name for name, _ in head.named_parameters()]
    embeddings = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def output(embeddings, *weights):
        return torch.func.functional_call(head, dict(zip(names, weights, strict=True)), (embeddings,))

    weights = [weight.detach().clone().requires_grad_() for weight in head.parameters()]
    assert torch.autograd.gradcheck(output, (embeddings.requires_grad_(), *weights))


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_a_head_is_saved_as_dense_layers_that_compute_the_same(options, shift_weights):
    head = nn.Sequential(*make_head(options, 32))
    shift_weights(head, seed=5)
    embeddings = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))

    saved = heads_to_save(head, {})

    assert {type(layer) for layer in saved} == {Dense}
    torch.testing.assert_close(
        nn.Sequential(*saved)(embeddings), head.eval()(embeddings), atol=1e-5, rtol=1e-5
    )


def test_given_weights_are_saved_in_place_of_the_heads_own():
    gates = torch.tensor([0.1, 0.2])

    (saved,) = heads_to_save([HeadDropout(0.5), Gated(2)], {"1.gates": gates})

    torch.testing.assert_close(saved.linear.weight.detach(), torch.diag(torch.tanh(gates)))


@pytest.mark.parametrize("head", [SkipConnection(4), Gated(4)], ids=["skip_connection", "gated"])
def test_embeddings_of_another_dimension_are_refused(head):
    with pytest.raises(ModelError, match="the head takes embeddings of 4 components, but its input has 3"):
        head.output_dim(3)


def batch_of(tower):
    ids = np.array([101, 2417, 102, 101, 10437, 7000, 102], dtype=np.int32)
    return pad(TokenizedTexts(ids, np.array([0, 3, 7])), np.array([0, 1]), 0)


@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_a_frozen_encoder_gets_no_gradient_and_no_dropout(options, tiny_bert):
    loaded = load_base(find_model(str(tiny_bert)), overrides=Overrides())
    tower = prepare_model(loaded, lora=None, head=options, freeze_encoder=True, dropout=0.5).train()
    batch = batch_of(tower)

    assert weights_without_gradient(tower, [batch]) == []
    tower([batch]).square().sum().backward()

    assert not [
        name for name, one in tower.backbone.named_parameters() if one.requires_grad or one.grad is not None
    ]
    assert all(name.startswith("heads.") for name, one in tower.named_parameters() if one.requires_grad)
    assert not any(module.training for module in tower.backbone.modules())
    assert tower.heads[1].training
    if not options.dropout and not options.skip_dropout:
        assert torch.equal(tower([batch]), tower([batch]))


@pytest.mark.parametrize("lora", [LORA, None], ids=["lora", "frozen"])
@pytest.mark.parametrize("options", OPTIONS, ids=NAMES)
def test_a_saved_head_loads_in_sentence_transformers(options, lora, tiny_bert, tmp_path, shift_weights):
    loaded = load_base(find_model(str(tiny_bert)), overrides=Overrides())
    tower = prepare_model(loaded, lora=lora, head=options, freeze_encoder=lora is None)
    shift_weights(tower.heads, seed=1)
    fingerprint = save_tower(tmp_path / "run", tower, loaded, adapter=lora is not None)

    encoder = load_encoder(tmp_path / "run", device="cpu")
    found = encoder.encode_products(TEXTS)

    assert encoder.fingerprint == fingerprint
    assert encoder.dim == (options.sizes or (32,))[-1]
    np.testing.assert_allclose(found, by_sentence_transformers(tmp_path / "run"), atol=1e-6)
    kinds = [head.kind for head in load_heads(tmp_path / "run", dim=32)]
    assert kinds == ["Normalize", *["Dense"] * len(heads_to_save(make_head(options, 32), {}))]


def test_every_kind_of_head_is_tested():
    assert {options.kind for options in OPTIONS} == set(MAKERS)


def test_the_gradient_of_a_normalisation_in_few_operations_is_that_of_autograd():
    generator = torch.Generator().manual_seed(0)
    rows, gradient = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    found = []
    for few in (False, True):
        head = Normalize()
        head.few_operations = few
        taken = rows.clone().requires_grad_()
        scaled = head(taken)
        scaled.backward(gradient)
        found.append((scaled.detach(), taken.grad))
    torch.testing.assert_close(*found)
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=0)
