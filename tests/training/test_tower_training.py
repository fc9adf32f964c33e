"""LoRA on the query tower of an index: the start, what is trained, and the merged result."""

import numpy as np
import pytest
import torch

from aisle.models.loading import load_base, load_encoder
from aisle.models.model_source import find_model
from aisle.training.adapter_contrasts import Batch
from aisle.training.tower_training import lora_queries
from aisle.types.adapter_options import AdapterOptions
from aisle.types.encoder_settings import Overrides

TEXTS = ["red sofa", "a lamp for the desk", "red sofa", "oak table", "rug"]


def lora(folder, *, size=4, dim=32):
    loaded = load_base(find_model(str(folder)), overrides=Overrides(query_prompt="query: "))
    options = AdapterOptions(kind="lora", size=size)
    return lora_queries(loaded, TEXTS, TEXTS[:2], options=options, dim=dim, device=torch.device("cpu"))


def batch_of(*numbers):
    nothing = torch.zeros(0)
    return Batch(np.array(numbers), nothing, nothing, nothing, nothing, nothing, nothing)


@pytest.mark.parametrize("dim", [32, 8])
@pytest.mark.parametrize("architecture", ["bert", "distilbert"])
def test_training_starts_from_the_embeddings_of_the_encoder(tiny_model, architecture, dim):
    encoder = load_encoder(
        tiny_model(architecture), overrides=Overrides(query_prompt="query: "), device="cpu"
    ).truncated(dim)
    model = lora(tiny_model(architecture), dim=dim)

    with torch.no_grad():
        found = torch.nn.functional.normalize(model.embed(batch_of(4, 2, 1)), dim=1).numpy()

    np.testing.assert_allclose(found, encoder.encode_queries([TEXTS[4], TEXTS[2], TEXTS[1]]), atol=1e-5)
    np.testing.assert_allclose(model.validation_embeddings(), encoder.encode_queries(TEXTS[:2]), atol=1e-5)


def test_only_the_updates_of_the_attention_are_trained(tiny_bert):
    model = lora(tiny_bert)
    names = [name for name, weight in model.tower.named_parameters() if weight.requires_grad]
    assert len(names) == 2 * 2 * 3  # A and B of query, key and value in 2 layers
    assert all("lora_" in name for name in names)

    torch.autograd.backward(model.embed(batch_of(0, 1)).sum())
    before = model.state()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)

    assert set(before) == set(names)
    for name in names:
        torch.testing.assert_close(model.state()[name], before[name] + 1)


def test_norms_beyond_the_range_of_numbers_are_noticed(tiny_bert):
    model = lora(tiny_bert)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("inf"))

    assert model.validation_embeddings() is None
