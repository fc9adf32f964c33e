import numpy as np
import pytest
import torch
from torch import nn

from aisle.models import int8_linear
from aisle.models.int8_linear import Int8Linear, TokenCodes, channel_codes, multiplies_int8, token_codes

pytestmark = pytest.mark.skipif(not multiplies_int8(), reason="this CPU does not multiply 8-bit integers")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(inputs, weight, bias):
    """The same product with NumPy's 64-bit integers, from the definition of the codes."""
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
def test_products_are_those_of_exact_integers(rows, width, outputs, with_bias):
    inputs, weight = drawn(rows, width), drawn(outputs, width, seed=1)
    bias = drawn(outputs, seed=2) if with_bias else None

    found = Int8Linear(weight, bias, TokenCodes())(inputs)

    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), exact(inputs, weight, bias), rtol=1e-5, atol=1e-4)


def test_largest_codes_do_not_overflow():
    """Without VNNI, pairs of products of 127 x 255 would be cut off at 32,767."""
    inputs, weight = torch.full((2, 1536), 3.0), torch.full((4, 1536), -2.0)

    found = Int8Linear(weight, None, TokenCodes())(inputs)

    np.testing.assert_allclose(found.numpy(), -6.0 * 1536, rtol=1e-6)


def test_leading_dimensions_are_kept():
    inputs, weight = drawn(2, 3, 20), drawn(6, 20, seed=1)

    found = Int8Linear(weight, None, TokenCodes())(inputs)

    assert found.shape == (2, 3, 6)
    np.testing.assert_allclose(found.numpy(), exact(inputs, weight, None), rtol=1e-5, atol=1e-5)


def test_no_rows_give_no_rows():
    assert Int8Linear(drawn(6, 20), drawn(6), TokenCodes())(torch.empty(0, 20)).shape == (0, 6)


def test_rows_and_outputs_of_zeros_give_the_bias():
    inputs, weight, bias = drawn(3, 8), drawn(4, 8, seed=1), drawn(4, seed=2)
    inputs[1], weight[2] = 0, 0

    found = Int8Linear(weight, bias, TokenCodes())(inputs)

    assert torch.equal(found[1], bias)
    assert torch.equal(found[:, 2], bias[2].expand(3))
    assert torch.isfinite(found).all()


def test_a_token_is_not_disturbed_by_anothers_outlier():
    inputs, linear = drawn(5, 40), Int8Linear(drawn(8, 40, seed=1), drawn(8, seed=2), TokenCodes())
    quiet = linear(inputs.clone())

    inputs[3, 7] = 1e6
    loud = linear(inputs.clone())

    others = [0, 1, 2, 4]
    assert torch.equal(loud[others], quiet[others])


def test_a_row_that_is_not_finite_stays_so():
    inputs = drawn(3, 8)
    inputs[1, 2] = float("nan")

    found = Int8Linear(drawn(4, 8, seed=1), None, TokenCodes())(inputs)

    assert found[1].isnan().all()
    assert torch.isfinite(found[[0, 2]]).all()


def test_smoothing_saves_the_codes_of_the_other_channels_from_a_large_one():
    inputs, weight = drawn(200, 64), drawn(32, 64, seed=1)
    inputs[:, 5] *= 50
    weight[:, 5] /= 10
    factors = (inputs.abs().amax(0) / weight.abs().amax(0)).sqrt()
    wanted = nn.functional.linear(inputs, weight)

    plain = Int8Linear(weight, None, TokenCodes())(inputs)
    smooth = Int8Linear(weight, None, TokenCodes(factors))(inputs)

    assert (smooth - wanted).norm() < 0.4 * (plain - wanted).norm()
    assert (smooth - wanted).norm() < 0.02 * wanted.norm()


def test_layers_that_read_the_same_input_find_its_codes_once(monkeypatch):
    calls = []

    def counted(rows):
        calls.append(len(rows))
        return token_codes(rows)

    monkeypatch.setattr(int8_linear, "token_codes", counted)
    shared = TokenCodes()
    query, key = (Int8Linear(drawn(6, 20, seed=seed), None, shared) for seed in (1, 2))
    inputs = drawn(4, 20)

    query(inputs)
    key(inputs)

    assert calls == [4]


def test_codes_of_an_input_are_not_taken_for_another():
    shared, weight = TokenCodes(), drawn(6, 20, seed=1)
    layer = Int8Linear(weight, None, shared)

    # Each is freed before the next, which may then lie at the same address.
    for seed in range(5):
        inputs = drawn(4, 20, seed=seed)
        np.testing.assert_allclose(layer(inputs).numpy(), exact(inputs, weight, None), rtol=1e-5, atol=1e-5)
        del inputs


def test_codes_are_the_nearest_and_use_the_whole_range():
    codes, scales = token_codes(torch.tensor([[-127.0, -0.6, -0.4, 0.0, 0.4, 0.6, 127.0]]))

    assert codes[0].tolist() == [1, 127, 128, 128, 128, 129, 255]
    assert scales.tolist() == [[1.0]]


def test_rows_of_codes_are_rounded_up():
    codes, scales = token_codes(torch.ones(65, 3))

    assert codes.shape == (128, 3)
    assert scales.shape == (65, 1)


def test_weights_have_a_scale_per_output():
    codes, scales = channel_codes(torch.tensor([[1.0, -2.0], [0.0, 0.5]]))

    assert codes.tolist() == [[64, -127], [0, 127]]
    np.testing.assert_allclose(scales[:, 0].numpy(), [2 / 127, 0.5 / 127])


@pytest.mark.parametrize("instructions", ["avx512_vnni", "avx_vnni", None])
def test_which_cpus_multiply_integers(instructions, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, instructions: True})

    assert multiplies_int8() == (instructions is not None)
