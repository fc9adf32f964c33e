"""The product of integers is exact, and a text has the same embedding alone and in any batch."""

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from aisle.bundle.graph_session import TowerGraph
from aisle.bundle.onnx_encoder import load_bundle
from aisle.export.int8_calibration import SharedInput, Values
from aisle.export.int8_onnx import ChannelCodes, Int8Layer, JointProduct, codes_of_values, int8_copy
from aisle.export.onnx_graph import write_graph
from aisle.export.sample_texts import SampleTexts, sample_shop_texts
from aisle.export.write_bundle import ExportOptions, write_bundle
from aisle.models.bi_encoder import BiEncoder
from aisle.models.dense import Dense
from aisle.models.heads import Normalize
from aisle.models.loading import load_encoder
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower
from aisle.system.cpu_features import why_int8_saturates
from tests import tiny_models
from tests.bundle.small_bundle import open_twice
from tests.export.models import embedded, embedded_by_torch, random_ids
from tests.skip_reasons import NO_INT8_INSTRUCTIONS

pytestmark = pytest.mark.skipif(why_int8_saturates() is not None, reason=NO_INT8_INSTRUCTIONS)

BATCHES = {"bert": 1_000, "modernbert": 250, "qwen3": 250}
FP32_DIFFERENCE = 1e-6


class Layers(nn.Module):
    """Layers that share an input, with their outputs side by side."""

    def __init__(self, product, count):
        super().__init__()
        self.layers = nn.ModuleList(Int8Layer(product, place) for place in range(count))

    def forward(self, inputs):
        return torch.cat([layer(inputs) for layer in self.layers], dim=-1)


def computed(product, count, inputs, path):
    with torch.no_grad():
        rows = {"inputs": {0: torch.export.Dim("rows")}}
        program = torch.onnx.export(
            Layers(product, count).eval(), (inputs,), dynamo=True, dynamic_shapes=rows, verbose=False
        )
    program.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: inputs.numpy()})[0]


def drawn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(inputs, outputs, *, seed, bias=True):
    layer = nn.Linear(inputs, outputs, bias=bias)
    for number, parameter in enumerate(layer.parameters()):
        parameter.data = drawn(*parameter.shape, seed=seed + number)
    return layer


def expected(layers, codes, zero, input_scales, mean, middles=0.0):
    """Compute the layers in integers, with NumPy in float64 for the scales."""
    outputs = []
    for layer in layers:
        weight = layer.weight.detach().double().numpy()
        moved = (weight * middles).sum(axis=1)
        mean_code = mean
        if input_scales.ndim == 1:  # a scale for each channel is part of the weights
            weight = weight * input_scales
            mean_code = (mean - middles) / input_scales
        scales = np.abs(weight).max(axis=1, keepdims=True) / 127
        rounded = np.rint(weight / scales)
        moved = moved + (weight - rounded * scales) @ mean_code
        products = (codes.astype(np.int64) - zero) @ rounded.astype(np.int64).T
        output = products * scales[:, 0] * (1 if input_scales.ndim == 1 else input_scales) + moved
        outputs.append(output + (0 if layer.bias is None else layer.bias.detach().double().numpy()))
    return np.concatenate(outputs, axis=1)


@pytest.mark.filterwarnings("ignore")
def test_fixed_scales_give_the_exact_product_of_integers(tmp_path):
    layers = [linear(24, 8, seed=1), linear(24, 8, seed=3, bias=False), linear(24, 16, seed=5)]
    fixed = ChannelCodes(drawn(24, seed=7).abs() / 100 + 0.04, drawn(24, seed=9) * 2)
    inputs = drawn(5, 24, seed=8) + fixed.middles

    mean = fixed.middles + drawn(24, seed=11) / 10

    found = computed(JointProduct(layers, fixed, mean=mean), 3, inputs, tmp_path / "g.onnx")

    scales, middles = (one.double().numpy() for one in fixed)
    codes = np.rint((inputs.numpy() - middles) / scales)
    right = expected(layers, codes, 0, scales, mean.double().numpy(), middles)
    assert found == pytest.approx(right, rel=1e-5, abs=1e-5)
    assert found == pytest.approx(torch.cat([one(inputs) for one in layers], 1).detach().numpy(), abs=0.4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("after_gelu", [False, True])
def test_a_scale_for_each_token_gives_the_exact_product_of_integers(after_gelu, tmp_path):
    layers = [linear(24, 8, seed=1)]
    inputs = drawn(5, 24, seed=8) * torch.tensor([[0.01], [1], [100], [0], [3]])
    inputs = nn.functional.gelu(inputs) if after_gelu else inputs

    mean = drawn(24, seed=11)
    product = JointProduct(layers, None, mean=mean, after_gelu=after_gelu)
    found = computed(product, 1, inputs, tmp_path / "g.onnx")

    rows = inputs.numpy()
    zero, most = (21, 234) if after_gelu else (128, 127)
    largest = rows.max(1, keepdims=True) if after_gelu else np.abs(rows).max(1, keepdims=True)
    largest = np.maximum(largest, np.float32(1.9 if after_gelu else 1e-30))
    codes = np.rint(rows * (np.float32(most) / largest)) + zero
    right = expected(layers, codes, zero, largest / most, mean.double().numpy())
    assert found == pytest.approx(right, rel=1e-5, abs=1e-5)


def test_the_bias_cancels_the_rounding_of_weights_for_the_mean_input():
    layers = [linear(24, 8, seed=1), linear(24, 4, seed=3, bias=False)]
    mean = drawn(24, seed=9)
    fixed = ChannelCodes(torch.full((24,), 0.02), torch.zeros(24))

    product = JointProduct(layers, fixed, mean=mean)

    rounded = product.codes.t().float() * product.scales[:, None]  # weights of a code
    assert (rounded - torch.cat([one.weight for one in layers]) * 0.02).abs().max() > 1e-5
    found = (mean / 0.02) @ rounded.t() + product.bias
    assert found.detach() == pytest.approx(torch.cat([one(mean) for one in layers]).detach(), abs=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_an_output_without_weights_is_its_bias(tmp_path):
    layer = linear(24, 8, seed=1)
    layer.weight.data[3] = 0

    fixed = ChannelCodes(torch.full((24,), 0.02), torch.zeros(24))
    product = JointProduct([layer], fixed, mean=torch.zeros(24))
    found = computed(product, 1, drawn(5, 24, seed=8), tmp_path / "g.onnx")

    assert found[:, 3] == pytest.approx([layer.bias[3].item()] * 5, rel=1e-6)


@pytest.fixture(scope="module")
def int8_graph(tiny_model, tmp_path_factory):
    """Return a function from an architecture to its tiny tower and the path of its graph in int8."""

    @cache
    def exported(architecture):
        tower = load_encoder(tiny_model(architecture), device="cpu").model.product_tower
        path = tmp_path_factory.mktemp(architecture) / "tower.onnx"
        write_graph(int8_copy(tower, max_length=64), path, max_length=64)
        return tower, path

    return exported


def test_layers_with_the_same_input_are_one_product(int8_graph):
    _, path = int8_graph("bert")

    counts = Counter(node.op_type for node in onnx.load(path).graph.node)
    # Two blocks: queries, keys and values; the output of attention; both layers of the feed-forward network.
    assert counts["MatMulIntegerToFloat"] == 2 * 4
    assert counts["Reshape"] == 1  # of the token type ids
    assert (counts["MatMul"], counts["Gemm"]) == (1, 0)  # the mean of the token vectors


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "distilbert", "qwen3"])
def test_attentions_output_is_in_units_of_its_codes(architecture, int8_graph):
    """Values in these units are averaged: the output is rounded at once."""
    _, path = int8_graph(architecture)

    nodes = onnx.load(path).graph.node
    attended = {node.output[0] for node in nodes if node.op_type == "MultiHeadAttention"}
    rounded = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    assert len(attended) == 2
    assert attended <= rounded


def test_a_layer_that_is_called_twice_keeps_its_values():
    values = Values("value", torch.zeros(4), torch.ones(4), heads=2, value_heads=2)
    ranges = torch.zeros(4), torch.ones(4), torch.ones(4)
    weights = {name: linear(4, 4, seed=1) for name in ("value", "output")}
    before = weights["value"].weight.clone()
    entries = [
        SharedInput(*ranges, normed=True, after_gelu=False, layers=["value"]),
        SharedInput(*ranges, normed=False, after_gelu=False, values=values, layers=["output"]),
    ]

    assert list(codes_of_values(entries, dict(weights))) == ["value"]
    assert codes_of_values([*entries, *entries], weights) == {}
    assert torch.equal(weights["value"].weight, before)


def test_grouped_heads_share_the_scales_of_their_values():
    values = Values("v", torch.zeros(4), torch.ones(4), heads=4, value_heads=2)

    repeated = values.repeated(torch.tensor([1.0, 2.0, 3.0, 4.0]))

    assert repeated.tolist() == [1, 2, 1, 2, 3, 4, 3, 4]
    assert values.shared(torch.tensor([1.0, 9.0, 5.0, 2.0, 3.0, 4.0, 8.0, 1.0])).tolist() == [5, 9, 8, 4]


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "mpnet", "modernbert", "qwen3"])
def test_embeddings_are_close_to_fp32(architecture, int8_graph):
    tower, path = int8_graph(architecture)

    least = 1 if architecture == "qwen3" else 2  # the others add special tokens to every text
    for tokens in (least, 9, 30):
        ids = random_ids(5, tokens)
        cosines = (embedded(path, ids) * embedded_by_torch(tower, ids)).sum(1)
        assert cosines.min() > 0.9  # random weights that are far wider than trained ones


@pytest.fixture(scope="module", params=["bert", "modernbert", "qwen3"])
def source(request, tiny_model):
    """An architecture and its encoder, with a head, so that the head is tested too."""
    encoder = load_encoder(tiny_model(request.param), device="cpu")
    dense = Dense(tiny_models.DIM, 24, bias=True, activation="Tanh")
    with torch.no_grad():
        for number, parameter in enumerate(dense.parameters()):
            parameter.copy_(drawn(*parameter.shape, seed=number))
    backbone = encoder.model.product_tower.backbone
    tower = Tower(backbone, Pooling(encoder.settings.pooling), [dense, Normalize()])
    return request.param, replace(encoder, model=BiEncoder(tower).eval())


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_embedding_is_the_same_in_many_random_batches_and_both_sessions(
    source, precision, tmp_path, monkeypatch
):
    architecture, source = source
    open_twice(monkeypatch)
    texts = [*dict.fromkeys(text[:200] for text in sample_shop_texts().products[:60]), "", "a", "b c"]
    options = ExportOptions(precision, SampleTexts(texts[:2], texts), accept=True)
    write_bundle(source, tmp_path / "bundle", options)
    encoder = load_bundle(tmp_path / "bundle")
    alone = np.concatenate([encoder.encode_products([text]) for text in texts])
    draw = np.random.default_rng(0)
    greatest = 0.0

    for _ in range(BATCHES[architecture]):
        rows = draw.choice(len(texts), size=draw.integers(1, 33))
        options = {"max_tokens": int(draw.integers(8, 4096))}
        found = encoder.encode_products([texts[row] for row in rows], **options)
        greatest = max(greatest, float(np.abs(found - alone[rows]).max()))

    graph = encoder.product_graph
    assert (graph.single.threads, graph.for_batches().threads) == (2, 1)
    other = replace(encoder, product_graph=TowerGraph(graph.for_batches(), None))
    found = np.concatenate([other.encode_products([text]) for text in texts])
    greatest = max(greatest, float(np.abs(found - alone).max()))
    assert greatest <= (0 if precision == "int8" else FP32_DIFFERENCE)


def test_the_packaged_model_passes_the_gates_of_int8(minilm, tmp_path):
    shop = sample_shop_texts()
    sample = SampleTexts(shop.queries[:60], [*shop.products[:150], shop.products[-1]])

    bundle = write_bundle(
        load_encoder(minilm, device="cpu"), tmp_path / "bundle", ExportOptions("int8", sample)
    )

    assert bundle.gates.passed
    assert not bundle.accepted
    assert set(bundle.gates.limits) == {"lowest_cosine", "mean_cosine", "greatest_difference_in_a_batch"}
    assert bundle.gates.figures["lowest_cosine"] < 0.99999  # it did compute in int8
    assert sum(file.bytes for file in bundle.files.values()) < 62_000_000  # 91 MB in fp32
