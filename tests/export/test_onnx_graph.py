"""A graph gives a tower's embeddings, for every architecture and length."""

import numpy as np
import pytest
import torch
from torch import nn

from aisle.errors import ModelError
from aisle.export.onnx_graph import TextGraph, traceable_copy, write_graph
from aisle.models.backbone import padding_token
from aisle.models.dense import Dense
from aisle.models.heads import Normalize
from aisle.models.loading import load_encoder
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower
from tests import tiny_models
from tests.export.models import MORE, embedded, embedded_by_torch, random_ids

SPECIAL = torch.tensor([100, 101, 102, 103])
LENGTHS = (1, 2, 7, 20, 64)
"""The window of the tiny ModernBERT has 8 tokens, and its longest text 64."""


@pytest.fixture
def load(minilm_dir, tmp_path, monkeypatch):
    """Return a function from an architecture to the encoder of its tiny model."""
    for name, config in MORE.items():
        monkeypatch.setitem(tiny_models.CONFIGS, name, config)

    def encoder(architecture):
        folder = tiny_models.write_tiny_model(tmp_path / "model", architecture, minilm_dir)
        return load_encoder(folder, device="cpu")

    return encoder


@pytest.mark.parametrize(
    "architecture",
    [*("bert", "xlm-roberta", "mpnet", "modernbert", "qwen3"), "mistral", "distilbert", "roformer", *MORE],
)
def test_a_graph_gives_the_embeddings_of_torch(architecture, load, tmp_path):
    encoder = load(architecture)
    tower, graph = encoder.model.product_tower, tmp_path / "tower.onnx"

    write_graph(traceable_copy(tower), graph, max_length=encoder.settings.max_length)

    for tokens in LENGTHS:
        ids = random_ids(3, tokens)
        assert embedded(graph, ids) == pytest.approx(embedded_by_torch(tower, ids), abs=1e-4)
    # Special tokens that a user typed; a family of models counts positions without padding tokens.
    ids = random_ids(4, 7)
    ids[0, 3], ids[1], ids[2, ::2], ids[3, 1:5] = (*[padding_token(tower.backbone)] * 3, SPECIAL)
    assert embedded(graph, ids) == pytest.approx(embedded_by_torch(tower, ids), abs=1e-4)
    assert encoder.settings.pooling == ("last" if architecture in tiny_models.DECODERS else "mean")
    # The tower that was exported still computes with torch.
    assert embedded_by_torch(tower, random_ids(2, 5)).shape == (2, tower.dim)


@pytest.mark.parametrize("mode", ["cls", "last"])
def test_a_graph_includes_pooling_and_heads(mode, tiny_bert, tmp_path):
    backbone = load_encoder(tiny_bert, device="cpu").model.product_tower.backbone
    dense = Dense(tiny_models.DIM, 8, bias=True, activation="Tanh")
    tower = Tower(backbone, Pooling(mode), [dense, Normalize()]).eval()

    write_graph(traceable_copy(tower), tmp_path / "tower.onnx", max_length=64)

    ids = random_ids(4, 9)
    found = embedded(tmp_path / "tower.onnx", ids)
    assert found.shape == (4, 8)
    assert found == pytest.approx(embedded_by_torch(tower, ids), abs=1e-5)


@pytest.fixture(scope="module")
def bert(tiny_bert, tmp_path_factory):
    """The tower of a BERT, and the path of its graph."""
    tower = load_encoder(tiny_bert, device="cpu").model.product_tower
    path = tmp_path_factory.mktemp("bert") / "tower.onnx"
    write_graph(traceable_copy(tower), path, max_length=64)
    return tower, path


def test_a_text_has_the_same_embedding_alone_and_in_a_batch(bert):
    _, graph = bert
    ids = random_ids(50, 12)

    together = embedded(graph, ids)

    alone = [embedded(graph, ids[row : row + 1])[0] for row in range(0, 50, 7)]
    assert together[::7] == pytest.approx(np.array(alone), abs=1e-6)


def test_the_weights_go_to_a_file_beside_the_graph(bert):
    tower, graph = bert

    files = {path.name: path.stat().st_size for path in graph.parent.glob("tower*")}
    assert set(files) == {"tower.onnx", "tower.onnx.data"}
    assert files["tower.onnx"] < files["tower.onnx.data"]
    ids = random_ids(2, 5)
    assert embedded(graph, ids) == pytest.approx(embedded_by_torch(tower, ids), abs=1e-5)


def test_an_architecture_that_cannot_be_traced_is_refused_with_its_operation(load, tmp_path):
    tower = load("longformer").model.product_tower

    with pytest.raises(
        ModelError, match=r"longformer: cannot be exported: .*`.*` in .* of modeling_longformer"
    ):
        write_graph(traceable_copy(tower), tmp_path / "tower.onnx", max_length=64)


class Sorted(nn.Module):
    """A head with an operator that ONNX lacks."""

    kind = "Sorted"

    def output_dim(self, dim):
        return dim

    def forward(self, embeddings):
        return torch.special.bessel_j0(embeddings)


def test_an_operator_that_onnx_lacks_is_named(load, tmp_path):
    backbone = load("bert").model.product_tower.backbone
    tower = Tower(backbone, Pooling("mean"), [Sorted()]).eval()

    with pytest.raises(ModelError, match=r"does not support the operator prims\.bessel_j0"):
        write_graph(traceable_copy(tower), tmp_path / "tower.onnx", max_length=64)


def test_the_copy_shares_the_weights(tiny_bert):
    tower = load_encoder(tiny_bert, device="cpu").model.product_tower

    copied = TextGraph(traceable_copy(tower))

    assert {id(one) for one in copied.parameters()} == {id(one) for one in tower.parameters()}
