"""AdamW over the trained weights."""

import copy

import torch
from torch import nn

from aisle.training.optimizer import adamw


def module():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    layers[0].bias.requires_grad_(False)
    return layers


def test_weight_decay_is_for_trained_matrices_only():
    layers = module()
    decayed, rest = adamw(layers, learning_rate=1e-3, weight_decay=0.1).param_groups
    assert (decayed["params"], decayed["weight_decay"]) == ([layers[0].weight], 0.1)
    assert (rest["params"], rest["weight_decay"]) == ([layers[1].weight, layers[1].bias], 0.0)


def test_on_a_cpu_the_optimiser_is_torch_s_default():
    assert all(
        group["fused"] is None for group in adamw(module(), learning_rate=1, weight_decay=0).param_groups
    )


def test_a_fused_step_on_a_cpu_is_the_same_step():
    changed = []
    for fused in (False, True):
        layers = module()
        optimizer = adamw(layers, learning_rate=1e-2, weight_decay=0.1, fused_on_cpu=fused)
        assert all(group["fused"] is (fused or None) for group in optimizer.param_groups)
        for _ in range(3):
            layers(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        changed.append(layers.state_dict())
    torch.testing.assert_close(*changed)


def test_a_checkpoint_of_a_gpu_s_fused_optimiser_is_resumed_as_the_device_suits():
    layers = module()
    optimizer = adamw(layers, learning_rate=1e-3, weight_decay=0.1)
    layers(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    for group in saved["param_groups"]:
        group["fused"] = True

    resumed = adamw(layers, learning_rate=1e-3, weight_decay=0.1)
    resumed.load_state_dict(saved)

    assert all(group["fused"] is None for group in resumed.param_groups)
    assert all(group["fused"] is True for group in saved["param_groups"])
    state, expected = resumed.state_dict()["state"], optimizer.state_dict()["state"]
    assert state.keys() == expected.keys()
    for number, values in expected.items():
        for name, value in values.items():
            torch.testing.assert_close(state[number][name], value, rtol=0, atol=0)
