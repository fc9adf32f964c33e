"""Preparing a backbone for training, for every architecture: dropout, frozen weights, compute type."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from aisle.models.adapters import attach_lora
from aisle.models.heads import Normalize
from aisle.models.pooling import Pooling
from aisle.models.prepare_model import cast_frozen, freeze_pooler, set_dropout
from aisle.models.tower import Tower, autocast
from aisle.text.token_batches import pack, pad
from aisle.text.tokens import TokenizedTexts, offsets_of
from tests.tiny_models import ARCHITECTURES, CONFIGS, DECODERS, UNREAD

CPU = torch.device("cpu")
LENGTHS = np.array([20, 9, 9, 1])
TEXTS = TokenizedTexts(
    np.random.default_rng(0).integers(1000, 30_000, size=39).astype(np.int32), offsets_of(LENGTHS)
)
ROWS = np.arange(4)
LAYOUTS = {"packed": lambda: pack(TEXTS, ROWS), "padded": lambda: pad(TEXTS, ROWS, 0)}
# Names of the dropout rates by architecture; BERT and its relatives share theirs.
RATES = {
    "distilbert": ("dropout", "attention_dropout"),
    "modernbert": ("embedding_dropout", "mlp_dropout", "attention_dropout"),
    **dict.fromkeys(DECODERS, ("attention_dropout",)),
}
BERT_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob")
READ_EACH_WAY = [
    (architecture, layout)
    for architecture in ARCHITECTURES
    for layout in LAYOUTS
    if (architecture, layout) != ("mpnet", "packed")
] + [(architecture, "padded") for architecture in UNREAD]


def backbone_of(architecture, rate):
    """Return a backbone with all its dropout rates set to `rate`."""
    rates = dict.fromkeys(RATES.get(architecture, BERT_RATES), rate)
    config = AutoConfig.for_model(architecture, **(CONFIGS[architecture] | rates))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModel.from_config(config, dtype=torch.float32)


def with_lora(backbone, *, dropout=0.0):
    return attach_lora(
        backbone,
        rank=4,
        alpha=8,
        dropout=dropout,
        target_modules=None,
        use_dora=False,
        use_rslora=False,
        base_reference="base",
        base_revision=None,
    )


def two_training_forwards(backbone, layout):
    tower = Tower(backbone, Pooling("mean"), [Normalize()]).train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tower([LAYOUTS[layout]()]), tower([LAYOUTS[layout]()])


@pytest.mark.parametrize(("architecture", "layout"), READ_EACH_WAY)
def test_dropout_of_zero_is_off_in_every_layer(architecture, layout):
    backbone = backbone_of(architecture, 0.5)
    before = two_training_forwards(backbone, layout)
    assert not torch.equal(*before)

    set_dropout(backbone, 0.0)

    first, second = two_training_forwards(backbone, layout)
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize(("architecture", "layout"), READ_EACH_WAY)
def test_dropout_above_zero_changes_the_output(architecture, layout):
    backbone = backbone_of(architecture, 0.0)
    torch.testing.assert_close(*two_training_forwards(backbone, layout), rtol=0, atol=0)

    set_dropout(backbone, 0.5)

    first, second = two_training_forwards(backbone, layout)
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("architecture", [*DECODERS, "modernbert"])
def test_attention_dropout_that_is_stored_as_a_number_is_set(architecture):
    backbone = backbone_of(architecture, 0.5)

    set_dropout(backbone, 0.25)

    rates = [
        module.attention_dropout for module in backbone.modules() if hasattr(module, "attention_dropout")
    ]
    assert rates == [0.25, 0.25]  # two blocks


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_setting_dropout_keeps_the_dropout_of_an_adapter(architecture):
    backbone = backbone_of(architecture, 0.5)
    set_dropout(backbone, 0.0)

    adapted = with_lora(backbone, dropout=0.25)

    dropouts = [(name, one.p) for name, one in adapted.named_modules() if isinstance(one, nn.Dropout)]
    assert {rate for name, rate in dropouts if "lora_dropout" in name} == {0.25}
    assert all(rate == 0 for name, rate in dropouts if "lora_dropout" not in name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_the_pooler_is_frozen(architecture):
    backbone = backbone_of(architecture, 0.0)

    freeze_pooler(backbone)

    frozen = {name for name, one in backbone.named_parameters() if not one.requires_grad}
    has_pooler = architecture in {"bert", "roberta", "xlm-roberta", "mpnet"}
    assert frozen == ({"pooler.dense.weight", "pooler.dense.bias"} if has_pooler else set())
    Tower(backbone, Pooling("mean"), [Normalize()])([LAYOUTS["padded"]()]).sum().backward()
    assert all(one.grad is not None for one in backbone.parameters() if one.requires_grad)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_frozen_linear_layers_are_cast_and_nothing_else(architecture):
    backbone = with_lora(backbone_of(architecture, 0.0))

    cast_frozen(backbone, torch.bfloat16)

    cast = {name for name, one in backbone.named_parameters() if one.dtype == torch.bfloat16}
    linear = {
        f"{name}.{own}"
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
        for own, _ in module.named_parameters(recurse=False)
    }
    assert cast == linear
    assert len(cast) > 4
    rest = {name: one for name, one in backbone.named_parameters() if name not in cast}
    assert {one.dtype for one in rest.values()} == {torch.float32}
    assert any("lora_A" in name for name in rest)
    assert any("embed" in name for name in rest)
    assert any("norm" in name.lower() for name in rest)


def test_trained_weights_are_not_cast():
    backbone = backbone_of("bert", 0.0)

    cast_frozen(backbone, torch.bfloat16)

    assert {one.dtype for one in backbone.parameters()} == {torch.float32}


@pytest.mark.parametrize(("architecture", "layout"), READ_EACH_WAY)
def test_casting_frozen_weights_changes_no_bit_of_embeddings_or_gradients(
    architecture, layout, shift_weights
):
    """Autocast rounds the same weights in each forward pass."""
    backbone = with_lora(backbone_of(architecture, 0.0))
    shift_weights(backbone, seed=1)
    tower = Tower(backbone, Pooling("mean"), [Normalize()]).train()
    weights = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))

    def embeddings_and_gradients():
        tower.zero_grad(set_to_none=True)
        with autocast(CPU, "bf16"):
            embeddings = tower([LAYOUTS[layout]()])
        (embeddings * weights).sum().backward()
        trained = (one for one in tower.parameters() if one.requires_grad)
        return [embeddings.detach(), *(one.grad.clone() for one in trained)]

    before = embeddings_and_gradients()
    cast_frozen(backbone, torch.bfloat16)
    after = embeddings_and_gradients()

    assert max(one.abs().max() for one in before[1:]) > 1e-3
    for found, expected in zip(after, before, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
