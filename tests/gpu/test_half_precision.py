"""LoRA in half precision on a GPU: gradients, launches, waits for the device, CUDA graphs, the optimiser."""

import copy

import pytest
import torch

from aisle.models.half_precision import compute_in_half
from aisle.training.optimizer import adamw
from tests.gpu.kernel_device import captured
from tests.kernels.test_joint_lora import Backbone, adapted, joined, outputs_and_gradients
from tests.models.test_half_precision import EMBEDDING_WEIGHTS, LAYOUTS, Operations, error, tower_of

BFLOAT16, FLOAT16 = torch.bfloat16, torch.float16


def embeddings_and_gradient(tower, layout, device):
    tower.zero_grad(set_to_none=True)
    embeddings = tower([LAYOUTS[layout]().to(device)])
    (embeddings * EMBEDDING_WEIGHTS.to(device)).sum().backward()
    gradients = [one.grad for one in tower.parameters() if one.requires_grad]
    return embeddings.detach(), torch.cat([one.flatten() for one in gradients])


@pytest.mark.parametrize(
    ("architecture", "layout", "compute_type"),
    [
        ("bert", "packed", BFLOAT16),
        ("distilbert", "packed", FLOAT16),
        ("modernbert", "packed", BFLOAT16),
        ("qwen3", "packed", BFLOAT16),
        ("qwen3", "padded", FLOAT16),
    ],
    ids=str,
)  # tests/models/test_half_precision.py has all combinations on a CPU
def test_gradients_are_those_of_float32_within_rounding(
    architecture, layout, compute_type, device, shift_weights
):
    tower = tower_of(architecture, shift_weights)
    expected = embeddings_and_gradient(tower, layout, torch.device("cpu"))
    half = copy.deepcopy(tower).to(device)
    assert compute_in_half(half, compute_type) is None
    embeddings, gradient = embeddings_and_gradient(half, layout, device)
    largest = {BFLOAT16: 0.08, FLOAT16: 0.01}[compute_type]
    assert error(embeddings.cpu(), expected[0]) < largest / 4
    assert error(gradient.cpu(), expected[1]) < largest


def test_no_activation_is_cast_where_autocast_is_on(device, shift_weights):
    tower = tower_of("bert", shift_weights).to(device).eval()
    assert compute_in_half(tower, BFLOAT16) is None
    batch = LAYOUTS["packed"]().to(device)
    with torch.no_grad(), torch.autocast("cuda", dtype=FLOAT16), Operations() as operations:
        tower([batch])
    products = [
        read | {found.dtype} for name, read, found in operations.seen if name in {"mm", "addmm", "addmm_"}
    ]
    assert len(products) > 8
    assert all(types == {BFLOAT16} for types in products)
    casts = [found for name, read, found in operations.seen if name == "_to_copy" and read]
    assert sum(len(batch.input_ids) in found.shape for found in casts) <= 1  # by pooling


@pytest.fixture
def half(device):
    """A backbone in bf16 whose layers compute jointly, and the same in float32 as PEFT computes it."""
    plain = adapted(Backbone(outputs=(64, 32, 32))).float().to(device)
    backbone = joined(plain)
    for parameter in backbone.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(BFLOAT16)
    return backbone, plain


@pytest.fixture
def inputs(device):
    return torch.randn(3, 5, 8, device=device, generator=torch.Generator(device).manual_seed(1))


def test_float32_gradients_are_peft_s(device, inputs):
    plain = adapted(Backbone()).float().to(device)
    expected, found = outputs_and_gradients(plain, inputs), outputs_and_gradients(joined(plain), inputs)
    assert found.keys() == expected.keys()
    assert max(error(found[name], expected[name]) for name in expected) < 1e-5


def test_copies_of_all_adapters_take_a_few_launches(half, inputs):
    backbone, _ = half
    backbone(inputs.to(BFLOAT16))
    (refresh,) = backbone._forward_pre_hooks.values()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        refresh(backbone, ())
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["aten::_foreach_copy_"] == 1
    assert counts["aten::index_copy_"] == 1
    assert "aten::copy_" not in counts  # one for each tensor, if types or strides did not suit


def test_a_step_does_not_wait_for_the_device(half, inputs):
    backbone, _ = half
    optimizer = adamw(backbone, learning_rate=1e-3, weight_decay=0.01)
    assert all(group["fused"] for group in optimizer.param_groups)
    trained = [one for one in backbone.parameters() if one.requires_grad]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def step():
        (backbone(inputs.to(BFLOAT16)).float() ** 2).sum().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=False)

    step()
    before = [one.clone() for one in trained]
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(not torch.equal(one, other) for one, other in zip(trained, before, strict=True))


def test_a_cuda_graph_replays_the_gradient_of_changed_adapters(half, inputs, shift_weights):
    backbone, plain = half
    trained = [one for one in backbone.parameters() if one.requires_grad]
    inputs16 = inputs.to(BFLOAT16)

    def gradients():
        return torch.autograd.grad((backbone(inputs16).float() ** 3).sum(), trained)

    graph, replayed = captured(gradients)
    generator = torch.Generator(inputs.device).manual_seed(3)
    with torch.no_grad():
        of_plain = [one for one in plain.parameters() if one.requires_grad]
        for one, other in zip(trained, of_plain, strict=True):
            change = 0.3 * torch.randn(one.shape, device=one.device, generator=generator)
            one.add_(change)
            other.add_(change)
    graph.replay()
    eager = gradients()
    expected = torch.autograd.grad((plain(inputs) ** 3).sum(), of_plain)
    rows = [torch.cat([one.flatten() for one in each]) for each in (replayed, eager, expected)]
    assert error(rows[0], rows[1]) < 0.02
    assert error(rows[0], rows[2]) < 0.08


def steps_of(device, *, fused, scaler=None, overflow=()):
    """Return a weight after four steps, some of whose gradients overflow."""
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 12, device=device).view(3, 4))
    module = torch.nn.Module()
    module.weight = weight
    optimizer = adamw(module, learning_rate=0.1, weight_decay=0.01)
    if not fused:
        optimizer = torch.optim.AdamW(
            optimizer.param_groups[0]["params"], lr=0.1, weight_decay=0.01, fused=False
        )
    for step in range(4):
        loss = (weight**2).sum() * (float("inf") if step in overflow else 1.0)
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)  # to clip, as a training step does
            torch.nn.utils.clip_grad_norm_([weight], 1.0)
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
    return weight.detach()


def test_the_fused_optimiser_takes_the_steps_of_the_plain_one(device):
    torch.testing.assert_close(steps_of(device, fused=True), steps_of(device, fused=False))


@pytest.mark.parametrize("overflow", [(), (0,), (1, 2)])
def test_the_fused_optimiser_skips_steps_whose_gradients_overflow(device, overflow):
    found, expected = (
        steps_of(device, fused=fused, scaler=torch.amp.GradScaler("cuda"), overflow=overflow)
        for fused in (True, False)
    )
    torch.testing.assert_close(found, expected)
