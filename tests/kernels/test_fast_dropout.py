import pytest
import torch
from torch import nn

from aisle.kernels.fast_dropout import FastDropout, keep_mask, use_fast_dropout


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_is_the_rate_and_the_mean_stays(dropout):
    torch.manual_seed(0)
    mask = keep_mask(torch.Size((1000, 401)), dropout, torch.float32)
    # Five standard errors of 401,000 draws.
    assert float((mask == 0).float().mean()) == pytest.approx(dropout, abs=5 * (0.25 / 401_000) ** 0.5)
    assert mask.unique().tolist() == pytest.approx([0.0, 1 / (1 - dropout)])


def test_neighbours_are_dropped_independently():
    """A draw decides four values."""
    torch.manual_seed(0)
    dropped = (keep_mask(torch.Size((100_000, 4)), 0.3, torch.float32) == 0).float()
    together = (dropped.T @ dropped / len(dropped)).fill_diagonal_(0.09)
    torch.testing.assert_close(together, torch.full((4, 4), 0.09), atol=0.006, rtol=0)


def test_masks_follow_torch_s_generator_and_advance_it():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, second = (keep_mask(torch.Size((50, 7)), 0.5, torch.float32) for _ in range(2))
    torch.set_rng_state(state)
    assert torch.equal(keep_mask(torch.Size((50, 7)), 0.5, torch.float32), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_in_evaluation_or_at_a_rate_of_zero():
    ones = torch.ones(100)
    assert torch.equal(FastDropout(0.5).eval()(ones), ones)
    assert torch.equal(FastDropout(0.0).train()(ones), ones)


def test_the_gradient_has_the_mask_of_the_forward_pass():
    inputs = torch.ones(1000, requires_grad=True)
    output = FastDropout(0.25)(inputs)
    output.sum().backward()
    assert torch.equal(inputs.grad, output.detach())


def test_a_backbone_s_dropout_is_replaced_and_its_weights_keep_their_names():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout(0.3), nn.Linear(2, 2)))
    names = list(model.state_dict())
    use_fast_dropout(model)
    assert type(model[1][0]) is FastDropout
    assert model[1][0].p == 0.3
    assert list(model.state_dict()) == names
