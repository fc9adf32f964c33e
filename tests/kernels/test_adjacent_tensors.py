"""Tensors that lie directly behind each other in memory."""

import pytest
import torch

from aisle.kernels.adjacent_tensors import adjacent_zeros, are_adjacent

WHOLE = torch.arange(12.0)


def test_zeros_of_one_type_are_adjacent():
    weights = [torch.ones(2, 3), torch.ones(4), torch.ones(1, 2)]
    found = adjacent_zeros(weights)
    assert are_adjacent(found)
    assert [one.shape for one in found] == [one.shape for one in weights]
    assert not are_adjacent(adjacent_zeros([torch.ones(2), torch.ones(2, dtype=torch.float16)]))


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ([WHOLE[1:5].view(2, 2), WHOLE[5:7]], True),
        ([WHOLE[5:7], WHOLE[1:5]], False),
        ([WHOLE[1:4], WHOLE[5:7]], False),
        ([WHOLE.view(3, 4).T, WHOLE[12:]], False),
        ([WHOLE[:2], WHOLE[2:].view(torch.int32)], False),
    ],
    ids=["adjacent", "wrong order", "a gap", "transposed", "another type"],
)
def test_only_contiguous_tensors_in_their_order_are_adjacent(tensors, expected):
    assert are_adjacent(tensors) == expected
