import pytest
import torch

from aisle.models.pooling import pool, pool_packed

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
def test_padding_does_not_change_the_pooled_vector(pooling, expected):
    assert pool(TOKENS, MASK, pooling).tolist() == expected


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_half_precision_is_pooled_in_float32(pooling):
    pooled = pool(torch.full((1, 3, 2), 1 / 3, dtype=torch.bfloat16), torch.ones(1, 3).long(), pooling)

    assert pooled.dtype == torch.float32


def test_the_mean_of_many_bf16_tokens_is_summed_in_float32():
    """Summed in bf16, 300 ones come to 256."""
    pooled = pool(torch.ones(1, 300, 1, dtype=torch.bfloat16), torch.ones(1, 300), "mean")

    assert pooled.item() == 1


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("mean", [[2.0, 3.0], [7.0, 8.0]]),
        ("cls", [[1.0, 2.0], [7.0, 8.0]]),
        ("last", [[3.0, 4.0], [7.0, 8.0]]),
    ],
)
def test_packed_texts_are_pooled_separately(pooling, expected):
    packed = torch.tensor([[1.0, 2.0], [3.0, 4.0], [7.0, 8.0]])

    assert pool_packed(packed, torch.tensor([0, 2, 3], dtype=torch.int32), pooling).tolist() == expected


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_packed_and_padded_texts_have_the_same_pooled_vectors_and_gradients(pooling):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([4, 1, 4, 7])
    mask = (torch.arange(7)[None, :] < lengths[:, None]).long()
    padded = torch.randn(4, 7, 5, generator=generator, requires_grad=True)
    packed = padded.detach()[mask.bool()].requires_grad_()
    weights = torch.randn(4, 5, generator=generator)
    offsets = torch.tensor([0, 4, 5, 9, 16], dtype=torch.int32)

    expected, found = pool(padded, mask, pooling), pool_packed(packed, offsets, pooling)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(packed.grad, padded.grad[mask.bool()])
    assert packed.grad.abs().max() > 0


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_packed_half_precision_is_pooled_in_float32(pooling):
    """Summed in bf16, 300 ones come to 256."""
    tokens = torch.ones(301, 1, dtype=torch.bfloat16)

    pooled = pool_packed(tokens, torch.tensor([0, 300, 301], dtype=torch.int32), pooling)

    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[1.0], [1.0]]
