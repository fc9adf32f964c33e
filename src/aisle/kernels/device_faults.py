"""Errors of the device, which say nothing about a model: a check of whether it suits a kernel raises them."""

from __future__ import annotations

import torch

FAULTS = (torch.OutOfMemoryError, torch.AcceleratorError)
"""RuntimeErrors that are no refusals: memory ran out, or an operation failed on the device."""
