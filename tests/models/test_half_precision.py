"""Towers that compute in half precision without autocast, against float32: every architecture, both layouts.

The CPU computes with autocast in a run; here it computes as a GPU does.
"""

import copy

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from aisle.kernels import joint_linear, packed_attention
from aisle.kernels.joint_linear import JointLinear
from aisle.models.half_precision import compute_in_half
from aisle.models.heads import Normalize
from aisle.models.pooling import Pooling
from aisle.models.prepare_model import cast_frozen
from aisle.models.tower import Tower, autocast
from tests.models.test_prepare_model import CPU, LAYOUTS, READ_EACH_WAY, backbone_of, with_lora

EMBEDDING_WEIGHTS = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
BFLOAT16, FLOAT16 = torch.bfloat16, torch.float16


def tower_of(architecture, shift_weights, *, lora_dropout=0.0):
    torch.manual_seed(0)
    backbone = with_lora(backbone_of(architecture, 0.0), dropout=lora_dropout)
    shift_weights(backbone, seed=1)
    return Tower(backbone, Pooling("mean"), [Normalize()]).train()


def in_half(tower, compute_type=BFLOAT16):
    half = copy.deepcopy(tower)
    assert compute_in_half(half, compute_type) is None
    return half


def embeddings_and_gradient(tower, layout):
    """Return the embeddings, and the gradient of all trained weights in one row."""
    tower.zero_grad(set_to_none=True)
    embeddings = tower([LAYOUTS[layout]()])
    (embeddings * EMBEDDING_WEIGHTS).sum().backward()
    gradients = [one.grad for one in tower.parameters() if one.requires_grad]
    assert {one.dtype for one in gradients} == {torch.float32}
    return embeddings.detach(), torch.cat([one.flatten() for one in gradients])


def error(found, expected):
    return float((found - expected).norm() / expected.norm())


class Operations(TorchDispatchMode):
    """Names of the operations that run, with the types of their tensors."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **(options or {}))
        if isinstance(found, torch.Tensor) and found.is_floating_point():
            read = [one for one in arguments if isinstance(one, torch.Tensor) and one.is_floating_point()]
            self.seen.append((function.overloadpacket.__name__, {one.dtype for one in read}, found))
        return found


@pytest.mark.parametrize(("architecture", "layout"), READ_EACH_WAY)
def test_embeddings_and_gradients_equal_float32_up_to_rounding(architecture, layout, shift_weights):
    """bf16 has 8 bits of precision, fp16 has 11; autocast is as close."""
    tower = tower_of(architecture, shift_weights)
    embeddings, gradient = embeddings_and_gradient(tower, layout)
    for compute_type, largest in ((BFLOAT16, 0.08), (FLOAT16, 0.01)):
        found, of_weights = embeddings_and_gradient(in_half(tower, compute_type), layout)
        assert found.dtype == torch.float32
        assert 0 < error(found, embeddings) < largest / 4
        assert 0 < error(of_weights, gradient) < largest


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_autocast_around_the_tower_changes_nothing(architecture, shift_weights):
    """Accelerate's wrapper of a prepared model turns autocast on."""
    tower = in_half(tower_of(architecture, shift_weights))
    expected = embeddings_and_gradient(tower, "packed")
    with autocast(CPU, "bf16"):
        found = embeddings_and_gradient(tower, "packed")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert", "qwen3"])
def test_no_activation_of_a_layer_is_cast(architecture, shift_weights):
    tower = in_half(tower_of(architecture, shift_weights)).eval()
    with torch.no_grad():
        tower([LAYOUTS["packed"]()])
        with Operations() as operations:
            tower([LAYOUTS["packed"]()])
    products = [
        (read, found.dtype) for name, read, found in operations.seen if name in {"mm", "addmm", "addmm_"}
    ]
    assert len(products) > 8
    assert all(read == {BFLOAT16} and found == BFLOAT16 for read, found in products)
    tokens = len(LAYOUTS["packed"]().input_ids)
    casts = [
        found
        for name, read, found in operations.seen
        if name == "_to_copy" and read and found.shape[-1] == 32
    ]
    # Pooling reads float32; decoders' RMSNorm computes in float32 by itself.
    of_norms = 2 * (2 * 2 + 1) if architecture == "qwen3" else 0
    assert len([one for one in casts if tokens in one.shape]) <= 1 + of_norms


def test_frozen_weights_have_the_compute_type_and_trained_ones_are_float32(shift_weights):
    tower = in_half(tower_of("bert", shift_weights))
    types = {one.requires_grad: one.dtype for one in tower.parameters()}
    assert types == {True: torch.float32, False: BFLOAT16}
    assert {one.dtype for one in tower.parameters() if not one.requires_grad} == {BFLOAT16}


def test_the_adapter_is_saved_under_the_same_names_and_values(shift_weights):
    from peft import get_peft_model_state_dict

    tower = tower_of("bert", shift_weights)
    half = in_half(tower)
    half([LAYOUTS["packed"]()])
    expected, found = (
        get_peft_model_state_dict(one.backbone, save_embedding_layers=False) for one in (tower, half)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "qwen3"])
def test_gradient_checkpointing_gives_the_same_gradient(architecture, shift_weights):
    tower = in_half(tower_of(architecture, shift_weights))
    expected = embeddings_and_gradient(tower, "packed")
    enable = getattr(tower.backbone, "activation_checkpointing_enable", None)
    (enable or tower.backbone.gradient_checkpointing_enable)({"use_reentrant": False})
    found = embeddings_and_gradient(tower, "packed")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_pass_without_gradients_gives_the_same_embeddings(shift_weights):
    """GradCache embeds twice: without gradients, then with."""
    tower = in_half(tower_of("bert", shift_weights))
    with torch.no_grad():
        first = tower([LAYOUTS["padded"]()])
    torch.testing.assert_close(tower([LAYOUTS["padded"]()]), first, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "qwen3"])
def test_a_tower_in_half_precision_packs(architecture, shift_weights):
    tower = in_half(tower_of(architecture, shift_weights))
    assert tower.why_padded(BFLOAT16, max_length=64) is None
    packed, padded = (embeddings_and_gradient(tower, layout)[0] for layout in ("packed", "padded"))
    assert error(packed, padded) < 0.02


def test_projections_with_lora_dropout_compute_in_half_precision_separately(shift_weights, monkeypatch):
    tower = tower_of("bert", shift_weights, lora_dropout=0.5)
    half = in_half(tower)
    monkeypatch.setattr(JointLinear, "apply", lambda *_: pytest.fail("joint"))
    (embeddings, gradient), (found, of_weights) = (
        embeddings_and_gradient(one.eval(), "packed") for one in (tower, half)
    )
    assert error(found, embeddings) < 0.02
    assert error(of_weights, gradient) < 0.08
    first, second = (half.train()([LAYOUTS["packed"]()]).detach() for _ in range(2))
    assert error(first, second) > 1e-3


def test_heads_stay_in_float32(shift_weights):
    from aisle.models.dense import Dense

    plain = tower_of("bert", shift_weights)
    head = Dense(32, 16, bias=True, activation="Tanh")
    tower = Tower(plain.backbone, Pooling("mean"), [head, Normalize()])
    assert compute_in_half(tower, BFLOAT16) is None
    seen = []
    head.linear.register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    with autocast(CPU, "bf16"):
        tower([LAYOUTS["packed"]()])
    assert seen == [torch.float32, torch.float32]


class AdjacentGradients(torch.autograd.Function):
    """Attention that returns the gradients of queries, keys and values in one tensor, like the GPU kernel."""

    @staticmethod
    def forward(ctx, query, key, value, *_):
        ctx.save_for_backward(query, key, value)
        return query * key * value

    @staticmethod
    def backward(ctx, gradient):
        query, key, value = ctx.saved_tensors
        joint = torch.stack([gradient * key * value, gradient * query * value, gradient * query * key], dim=1)
        return *joint.unbind(1), None, None, None


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "roberta"])
def test_adjacent_gradients_of_the_attention_reach_the_layers_without_a_copy(
    architecture, shift_weights, monkeypatch
):
    tower = in_half(tower_of(architecture, shift_weights))
    monkeypatch.setattr(packed_attention, "GroupedAttention", AdjacentGradients)
    views, join = [], joint_linear.joined_columns

    def recorded(parts):
        whole = join(parts)
        views.append(len(parts) == 3 and whole.data_ptr() == parts[0].data_ptr())
        return whole

    monkeypatch.setattr(joint_linear, "joined_columns", recorded)
    embeddings_and_gradient(tower, "packed")
    assert views == [True, True]


def lora(backbone, **settings):
    from peft import LoraConfig, get_peft_model

    return get_peft_model(backbone, LoraConfig(r=4, target_modules=["query"], **settings))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda bert: bert, "embeddings.word_embeddings.weight is trained too"),
        (lambda bert: bert.requires_grad_(False), "the backbone has no LoRA layers"),
        (lambda bert: lora(bert, use_dora=True), "DoRA needs the norm of every adapted weight"),
        (lambda bert: lora(bert, bias="lora_only"), "bias is trained too"),
        (lambda bert: lora(bert, lora_bias=True), "a variant of LoRA"),
        (lambda bert: lora(bert, modules_to_save=["intermediate"]), "intermediate"),
    ],
    ids=["all weights", "no weights", "DoRA", "biases", "LoRA's biases", "a whole layer"],
)
def test_models_other_than_plain_lora_keep_autocast_and_the_reason_is_given(make, reason):
    tower = Tower(make(backbone_of("bert", 0.0)), Pooling("mean"))
    before = {name: one.data_ptr() for name, one in tower.named_parameters()}
    assert reason in compute_in_half(tower, BFLOAT16)
    assert tower.compute_type is None
    assert {name: one.data_ptr() for name, one in tower.named_parameters()} == before


class Upcast(nn.Module):
    """A norm that returns float32, as in the code of some architectures."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, inputs):
        return self.norm(inputs).float()


class Overflowing(Upcast):
    def forward(self, inputs):
        return self.norm(inputs) * 1e5 / 1e5


@pytest.mark.parametrize(
    ("change", "compute_type"), [(Upcast, BFLOAT16), (Overflowing, FLOAT16)], ids=["two types", "overflow"]
)
def test_an_architecture_that_cannot_compute_in_half_precision_is_left_unchanged(
    change, compute_type, shift_weights
):
    tower = tower_of("bert", shift_weights).eval()
    embeddings = tower.backbone.base_model.model.embeddings
    embeddings.LayerNorm = change(embeddings.LayerNorm)
    cast_frozen(tower.backbone, compute_type)
    with torch.no_grad(), torch.autocast("cpu", dtype=compute_type):
        expected = tower([LAYOUTS["packed"]()])

        reason = compute_in_half(tower, compute_type)

        assert reason.startswith("BertModel does not compute in")
        assert tower.compute_type is None
        torch.testing.assert_close(tower([LAYOUTS["packed"]()]), expected, rtol=0, atol=0)


def test_no_random_number_is_drawn(shift_weights):
    """The adapter's first weights and the run's dropout do not depend on the precision."""
    tower = tower_of("bert", shift_weights, lora_dropout=0.5)
    before = torch.get_rng_state()
    in_half(tower)
    assert torch.equal(torch.get_rng_state(), before)
