"""Layers to compile one by one; tests/commands/test_training_engine.py trains with them."""

import pytest
from torch import nn
from transformers import AutoModel

from aisle.kernels.compiled_layers import repeated_layers
from aisle.models.adapters import attach_lora, default_target_modules
from tests.tiny_models import ARCHITECTURES


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_layers_of_every_architecture_are_found(tiny_model, architecture, adapted):
    backbone = AutoModel.from_pretrained(tiny_model(architecture))
    if adapted:
        backbone = attach_lora(
            backbone,
            rank=2,
            alpha=4,
            dropout=0.0,
            target_modules=default_target_modules(backbone),
            use_dora=False,
            use_rslora=False,
            base_reference="base",
            base_revision=None,
        )
    layers = repeated_layers(backbone)
    assert len(layers) == 2
    assert len({type(layer) for layer in layers}) == 1
    in_layers = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    embeddings = backbone.get_input_embeddings().weight.numel()
    assert in_layers > (backbone.num_parameters() - embeddings) / 2


def test_a_backbone_without_repeated_layers_is_compiled_whole():
    backbone = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2), nn.GELU()]))
    assert repeated_layers(backbone) == [backbone]
