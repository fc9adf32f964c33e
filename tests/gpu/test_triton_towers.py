"""Towers that compute with the Triton kernels, compared with Flash Attention and separate operations."""

import copy

import pytest
import torch

from aisle.kernels import gpu_attention, residual_norms
from aisle.kernels.packed_attention import packed_attention
from aisle.kernels.residual_norms import fuse_add_norm
from aisle.kernels.triton_support import why_no_triton
from aisle.models.half_precision import compute_in_half
from aisle.text.token_batches import pack
from tests.gpu.kernel_device import compiled_only
from tests.packed_towers import LENGTHS, ROWS, gradients, random_texts, tower_without_dropout

pytestmark = compiled_only


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_this_machine_compiles_the_kernels(dtype, device):
    assert why_no_triton(device, dtype) is None


@pytest.fixture
def calls(monkeypatch):
    """Names of the kernels that were called."""
    from aisle.kernels import add_norm, short_attention

    found = []

    def counted(module, name):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *one, **more: found.append(name) or function(*one, **more))

    counted(short_attention, "short_attention")
    counted(gpu_attention, "flash_attention")
    counted(add_norm, "add_norm")
    return found


def in_one_row(found):
    return torch.cat([one.flatten() for one in found.values()])


@pytest.mark.parametrize(
    ("architecture", "dtype"), [("bert", torch.bfloat16), ("xlm-roberta", torch.float16)], ids=str
)
def test_adapter_gradients_are_those_of_separate_operations(
    architecture, dtype, device, tiny_model, shift_weights, calls, monkeypatch
):
    tower = tower_without_dropout(tiny_model(architecture), adapter=True)
    shift_weights(tower, seed=1)
    separate = tower.to(device).train()
    assert compute_in_half(separate, dtype) is None
    fused = copy.deepcopy(separate)
    assert fuse_add_norm(fused.backbone) == 4
    batch = pack(random_texts(), ROWS).to(device)

    found = gradients(fused, [batch])
    assert calls == ["short_attention", "add_norm", "add_norm"] * 2
    calls.clear()
    monkeypatch.setattr(gpu_attention, "LONGEST_SHORT_TEXT", 0)
    expected = gradients(separate, [batch])
    assert calls == ["flash_attention"] * 2

    assert found.keys() == expected.keys()
    difference = (in_one_row(found) - in_one_row(expected)).norm()
    assert difference / in_one_row(expected).norm() < {torch.bfloat16: 0.05, torch.float16: 0.01}[dtype]


def test_norms_that_are_trained_are_computed_by_torch(device, tiny_model, calls):
    tower = tower_without_dropout(tiny_model("bert")).to(device, torch.bfloat16).train()
    assert fuse_add_norm(tower.backbone) == 4

    gradients(tower, [pack(random_texts(), ROWS).to(device)])

    assert calls == ["short_attention"] * 2
    assert tower.backbone.encoder.layer[0].output.LayerNorm.weight.grad is not None


def test_gradients_of_a_joint_projection_stay_beside_each_other(device):
    """As a BERT layer views its projection, so that the gradient of the projection is not copied."""
    width, tokens = 64, int(LENGTHS.sum())
    joint = torch.randn(1, tokens, 3 * width, device=device, dtype=torch.bfloat16)
    parts = [one.detach().requires_grad_() for one in joint.split(width, dim=2)]
    heads = [one.view(1, tokens, 2, 32).transpose(1, 2) for one in parts]
    attended, _ = packed_attention(
        torch.nn.Module(), *heads, None, packed=pack(random_texts(), ROWS).to(device)
    )

    found = torch.autograd.grad(attended.sum(), parts)

    assert [one.stride()[1:] for one in found] == [(3 * width, 1)] * 3
    assert [one.storage_offset() for one in found] == [0, width, 2 * width]


def test_a_machine_without_triton_computes_the_same_with_torch(device, tiny_model, calls, monkeypatch):
    for module in (gpu_attention, residual_norms):
        monkeypatch.setattr(module, "why_no_triton", lambda *_: "Triton is not installed")
    tower = tower_without_dropout(tiny_model("bert"), adapter=True).to(device).train()
    assert compute_in_half(tower, torch.bfloat16) is None
    fuse_add_norm(tower.backbone)

    gradients(tower, [pack(random_texts(), ROWS).to(device)])

    assert calls == ["flash_attention"] * 2
