"""Fused LoRA layer, compared with PEFT's."""

import copy

import pytest
import torch

from aisle.kernels.fused_lora import AdaptedLinear, fuse_lora
from aisle.models.adapters import attach_lora
from aisle.models.loading import load_base
from aisle.models.model_source import find_model
from aisle.types.encoder_settings import Overrides

OPTIONS = {
    "rank": 4,
    "alpha": 8,
    "dropout": 0.0,
    "target_modules": ["query", "key", "value", "dense"],
    "use_dora": False,
    "use_rslora": True,
    "base_reference": "x",
    "base_revision": None,
}


@pytest.fixture
def adapted(tiny_bert, shift_weights):
    def make(**changes):
        base = load_base(find_model(str(tiny_bert)), overrides=Overrides())
        backbone = attach_lora(base.backbone, **(OPTIONS | changes)).eval()
        shift_weights(backbone, seed=1)
        fused = copy.deepcopy(backbone)
        fuse_lora(fused)
        return backbone, fused

    return make


def vectors(backbone):
    ids = torch.arange(100, 124).view(3, 8)
    return backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state


def gradients(backbone):
    (vectors(backbone) ** 3).sum().backward()
    return {name: p.grad for name, p in backbone.named_parameters() if p.grad is not None}


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    shapes = [(2, 3, 5), (4, 5), (4,), (2, 5), (4, 2)]
    inputs, weight, bias, a, b = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    for one in (inputs, a, b):
        one.requires_grad_()
    assert torch.autograd.gradcheck(AdaptedLinear.apply, (inputs, weight, bias, a, b, 0.7))
    assert torch.autograd.gradcheck(AdaptedLinear.apply, (inputs, weight, None, a, b, 0.7))


def test_outputs_and_gradients_equal_peft_s(adapted):
    plain, fused = adapted()
    torch.testing.assert_close(vectors(fused), vectors(plain), atol=2e-6, rtol=1e-5)
    expected, found = gradients(plain), gradients(fused)
    assert expected.keys() == found.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-6 * largest, rtol=1e-4)


def test_layers_are_fused(adapted, monkeypatch):
    plain, fused = adapted()
    calls = []
    apply = AdaptedLinear.apply
    monkeypatch.setattr(AdaptedLinear, "apply", lambda *inputs: calls.append(1) or apply(*inputs))
    vectors(plain)
    assert not calls
    vectors(fused)
    assert len(calls) == 2 * 6  # layers of the tiny model, and its linear layers


@pytest.mark.parametrize("changes", [{"dropout": 0.1}, {"use_dora": True}])
def test_layers_with_dropout_or_dora_keep_peft_s_code(adapted, monkeypatch, changes):
    _, fused = adapted(**changes)
    monkeypatch.setattr(AdaptedLinear, "apply", lambda *_: pytest.fail("fused"))
    vectors(fused)


def test_under_autocast_and_without_the_adapter_peft_s_code_runs(adapted, monkeypatch):
    plain, fused = adapted()
    monkeypatch.setattr(AdaptedLinear, "apply", lambda *_: pytest.fail("fused"))
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(vectors(fused), vectors(plain))
        with plain.disable_adapter(), fused.disable_adapter():
            assert torch.equal(vectors(fused), vectors(plain))


def test_weights_are_saved_under_peft_s_names(adapted, tmp_path):
    plain, fused = adapted()
    assert plain.state_dict().keys() == fused.state_dict().keys()
    fused.save_pretrained(tmp_path, save_embedding_layers=False)
    assert (tmp_path / "adapter_model.safetensors").is_file()
