import numpy as np
import pytest
import torch
from torch import nn

from aisle.models import int8_linear
from aisle.models.int8_linear import InputCodes, Int8Linear, channel_codes, multiplies_int8, token_codes
from tests.skip_reasons import NO_INT8_INSTRUCTIONS

pytestmark = pytest.mark.skipif(not multiplies_int8(), reason=NO_INT8_INSTRUCTIONS)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(inputs, weight, bias):
    """Compute the same product with NumPy's 64-bit integers, from the definition of the codes."""
    rows = inputs.flatten(0, -2).numpy().astype(np.float64)
    weights = weight.numpy().astype(np.float64)
    row_scales = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30) / 127
    weight_scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True), 1e-30) / 127
    row_codes = np.rint(rows / row_scales).astype(np.int64)
    weight_codes = np.rint(weights / weight_scales).astype(np.int64)
    found = (row_codes @ weight_codes.T) * row_scales * weight_scales.T
    found = found if bias is None else found + bias.numpy()
    return found.reshape(*inputs.shape[:-1], len(weights))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "width", "outputs"), [(1, 1, 1), (3, 5, 7), (65, 17, 33), (130, 384, 31), (64, 1536, 40)]
)
def test_products_equal_those_of_exact_integers(rows, width, outputs, with_bias):
    inputs, weight = drawn(rows, width), drawn(outputs, width, seed=1)
    bias = drawn(outputs, seed=2) if with_bias else None

    found = Int8Linear(weight, bias, InputCodes())(inputs)

    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), exact(inputs, weight, bias), rtol=1e-5, atol=1e-4)


def test_largest_codes_do_not_overflow():
    """Without VNNI, pairs of products of 127 x 255 would be cut off at 32,767."""
    inputs, weight = torch.full((2, 1536), 3.0), torch.full((4, 1536), -2.0)

    found = Int8Linear(weight, None, InputCodes())(inputs)

    np.testing.assert_allclose(found.numpy(), -6.0 * 1536, rtol=1e-6)


def test_leading_dimensions_are_kept():
    inputs, weight = drawn(2, 3, 20), drawn(6, 20, seed=1)

    found = Int8Linear(weight, None, InputCodes())(inputs)

    assert found.shape == (2, 3, 6)
    np.testing.assert_allclose(found.numpy(), exact(inputs, weight, None), rtol=1e-5, atol=1e-5)


def test_no_rows_give_no_rows():
    assert Int8Linear(drawn(6, 20), drawn(6), InputCodes())(torch.empty(0, 20)).shape == (0, 6)


def test_rows_and_outputs_of_zeros_give_the_bias():
    inputs, weight, bias = drawn(3, 8), drawn(4, 8, seed=1), drawn(4, seed=2)
    inputs[1], weight[2] = 0, 0

    found = Int8Linear(weight, bias, InputCodes())(inputs)

    assert torch.equal(found[1], bias)
    assert torch.equal(found[:, 2], bias[2].expand(3))
    assert torch.isfinite(found).all()


def test_an_outlier_does_not_disturb_other_tokens():
    inputs, linear = drawn(5, 40), Int8Linear(drawn(8, 40, seed=1), drawn(8, seed=2), InputCodes())
    quiet = linear(inputs.clone())

    inputs[3, 7] = 1e6
    loud = linear(inputs.clone())

    others = [0, 1, 2, 4]
    assert torch.equal(loud[others], quiet[others])


def test_a_row_with_nan_or_infinity_stays_so():
    inputs = drawn(3, 8)
    inputs[1, 2] = float("nan")

    found = Int8Linear(drawn(4, 8, seed=1), None, InputCodes())(inputs)

    assert found[1].isnan().all()
    assert torch.isfinite(found[[0, 2]]).all()


def test_scales_of_channels_keep_the_precision_of_the_others_beside_a_large_channel():
    inputs, weight, bias = drawn(200, 64), drawn(32, 64, seed=1), drawn(32, seed=2)
    inputs[:, 5] *= 50
    weight[:, 5] /= 10
    wanted = nn.functional.linear(inputs, weight, bias)

    of_tokens = Int8Linear(weight, bias, InputCodes())(inputs)
    of_channels = Int8Linear(weight, bias, InputCodes(inputs.abs().amax(0) / 127))(inputs)

    assert (of_channels - wanted).norm() < 0.4 * (of_tokens - wanted).norm()
    assert (of_channels - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.parametrize("with_bias", [True, False])
def test_products_with_scales_of_channels_equal_those_of_exact_integers(with_bias):
    inputs, weight = drawn(65, 17), drawn(33, 17, seed=1)
    bias, channel_scales = drawn(33, seed=2) if with_bias else None, drawn(17, seed=3).abs() / 40 + 0.01
    row_codes = np.rint((inputs / channel_scales).clamp(-127, 127).numpy()).astype(np.int64)
    weight_codes, scales = channel_codes(weight * channel_scales)

    found = Int8Linear(weight, bias, InputCodes(channel_scales))(inputs)

    expected = (row_codes @ weight_codes.numpy().astype(np.int64).T) * scales.numpy().T
    np.testing.assert_allclose(
        found.numpy(), expected if bias is None else expected + bias.numpy(), rtol=1e-5, atol=1e-5
    )


def test_values_beyond_a_channels_range_are_clipped():
    layer = Int8Linear(torch.eye(2), None, InputCodes(torch.tensor([1 / 127, 1.0])))

    found = layer(torch.tensor([[3.0, -1e6], [-40 / 127, 12.0]]))

    np.testing.assert_allclose(found.numpy(), [[1.0, -127.0], [-40 / 127, 12.0]], rtol=1e-6)


def test_gelu_is_computed_with_the_product():
    inputs, weight, bias = drawn(9, 20), drawn(6, 20, seed=1), drawn(6, seed=2)
    codes = InputCodes(torch.full((20,), 4 / 127))

    found = Int8Linear(weight, bias, codes, gelu=True)(inputs)

    expected = nn.functional.gelu(Int8Linear(weight, bias, codes)(inputs))
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


def test_layers_that_read_the_same_input_find_its_codes_once(monkeypatch):
    calls = []

    def counted(rows, **options):
        calls.append(len(rows))
        return token_codes(rows, **options)

    monkeypatch.setattr(int8_linear, "token_codes", counted)
    shared = InputCodes()
    query, key = (Int8Linear(drawn(6, 20, seed=seed), None, shared) for seed in (1, 2))
    inputs = drawn(4, 20)

    query(inputs)
    key(inputs)

    assert calls == [4]


def test_codes_are_not_reused_for_another_input():
    shared, weight = InputCodes(), drawn(6, 20, seed=1)
    layer = Int8Linear(weight, None, shared)

    # Each input is freed before the next, which may then have the same address.
    for seed in range(5):
        inputs = drawn(4, 20, seed=seed)
        np.testing.assert_allclose(layer(inputs).numpy(), exact(inputs, weight, None), rtol=1e-5, atol=1e-5)
        del inputs


def test_codes_are_the_nearest_and_use_the_whole_range():
    codes, scales = token_codes(torch.tensor([[-127.0, -0.6, -0.4, 0.0, 0.4, 0.6, 127.0]]))

    assert codes[0].tolist() == [1, 127, 128, 128, 128, 129, 255]
    assert scales.tolist() == [[1.0]]


def test_codes_after_gelu_cover_the_values_above_zero():
    codes, scales = token_codes(torch.tensor([[-0.17, 0.0, 2.34], [-0.17, 0.0, 0.001]]), after_gelu=True)

    assert codes[:2].tolist() == [[4, 21, 255], [0, 21, 21]]
    np.testing.assert_allclose(scales[:, 0].numpy(), [0.01, 1.9 / 234], rtol=1e-6)


def test_products_after_gelu_are_closer_than_with_codes_for_both_signs():
    inputs, weight = nn.functional.gelu(3 * drawn(300, 40)), drawn(8, 40, seed=1)
    wanted = nn.functional.linear(inputs, weight)

    signed = Int8Linear(weight, None, InputCodes())(inputs)
    found = Int8Linear(weight, None, InputCodes(after_gelu=True))(inputs)

    assert (found - wanted).norm() < 0.9 * (signed - wanted).norm()
    assert (found - wanted).norm() < 0.01 * wanted.norm()


def test_codes_do_not_depend_on_blocks(monkeypatch):
    rows = drawn(150, 20)
    codes, scales = token_codes(rows)

    for block in (1, 20 * 64, 20 * 149):
        monkeypatch.setattr(int8_linear, "BLOCK", block)
        again, again_scales = token_codes(rows)
        assert torch.equal(again[:150], codes[:150])
        assert torch.equal(again_scales, scales)


def test_rows_of_codes_are_rounded_up():
    codes, scales = token_codes(torch.ones(65, 3))

    assert codes.shape == (128, 3)
    assert scales.shape == (65, 1)


def test_weights_have_a_scale_per_output():
    codes, scales = channel_codes(torch.tensor([[1.0, -2.0], [0.0, 0.5]]))

    assert codes.tolist() == [[64, -127], [0, 127]]
    np.testing.assert_allclose(scales[:, 0].numpy(), [2 / 127, 0.5 / 127])


@pytest.mark.parametrize("instructions", ["avx512_vnni", "avx_vnni", None])
def test_cpus_that_multiply_integers_are_recognised(instructions, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, instructions: True})

    assert multiplies_int8() == (instructions is not None)
