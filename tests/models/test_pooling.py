import pytest
import torch

from aisle.models.pooling import pool

TOKENS = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [50.0, 60.0]], [[7.0, 8.0], [70.0, 80.0], [9.0, 9.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[2.0, 3.0], [7.0, 8.0]]),
        ("cls", [[1.0, 2.0], [7.0, 8.0]]),
        ("last", [[3.0, 4.0], [7.0, 8.0]]),
    ],
)
def test_padding_takes_no_part(pooling, expected):
    assert pool(TOKENS, MASK, pooling).tolist() == expected


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_half_precision_is_pooled_in_float32(pooling):
    pooled = pool(torch.full((1, 3, 2), 1 / 3, dtype=torch.bfloat16), torch.ones(1, 3).long(), pooling)

    assert pooled.dtype == torch.float32


def test_the_mean_of_many_bf16_tokens_is_not_rounded_on_the_way():
    """Summed in bf16, 300 ones come to 256."""
    pooled = pool(torch.ones(1, 300, 1, dtype=torch.bfloat16), torch.ones(1, 300), "mean")

    assert pooled.item() == 1
