"""Unit vectors with known cosines, and gradients of a loss."""

import torch
from torch import nn


def at(*degrees):
    """Return unit vectors in the plane by their angle in degrees."""
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def unit(count, dim=8, *, seed=0):
    """Return (count, dim) random vectors of unit norm."""
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def exact(values):
    return torch.tensor(values, dtype=torch.float64)


def gradients(loss, *inputs):
    """Return the gradients of the summed `loss` with respect to copies of the inputs."""
    inputs = [value.detach().clone().requires_grad_() for value in inputs]
    loss(*inputs).sum().backward()
    return [value.grad for value in inputs]
