"""Refuse code that reads a number from a tensor: on a GPU, the host would wait for the device."""

from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READING = {
    *(torch.Tensor.item, torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu, torch.Tensor.__bool__),
    *(torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.__index__, torch.Tensor.__array__),
}
SIZED_BY_NUMBERS = ("nonzero", "masked_select", "unique", "_unique2", "unique_dim", "_local_scalar_dense")
"""Operations whose result has a size that only the device can tell."""


class HostReadError(AssertionError):
    """A number was read."""


class _Calls(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in READING:
            raise HostReadError(func.__name__)
        return func(*args, **(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in SIZED_BY_NUMBERS:
            raise HostReadError(name)
        if name in {"index", "index_put", "index_put_"} and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        ):
            raise HostReadError(f"{name} by a mask")
        if name == "repeat_interleave" and (kwargs or {}).get("output_size") is None:
            raise HostReadError(name)
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_reads():
    """Raise `HostReadError` where the block reads a number from a tensor."""
    with _Operations(), _Calls():
        yield
