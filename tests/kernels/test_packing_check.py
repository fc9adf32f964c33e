"""Which backbones read packed texts, and why others read padded texts."""

import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModel

from aisle.kernels import packed_attention as packing
from aisle.kernels import packing_check as check
from aisle.kernels.packed_attention import padding_position
from aisle.models.tower import NEEDS_HALF_PRECISION
from tests.packed_towers import VARIANTS, variant_of
from tests.tiny_models import ARCHITECTURES, DECODER, POSITIONS

PACKING = tuple(name for name in ARCHITECTURES if name != "mpnet")
COMPUTE_TYPES = pytest.mark.parametrize("compute_type", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
SMALL = {"vocab_size": 500, "pad_token_id": 0}
BART = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
    **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": POSITIONS},
}
ESM = {
    **{"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48},
    **{"max_position_embeddings": POSITIONS, "mask_token_id": 1, "position_embedding_type": "absolute"},
}
REFUSED = {
    "mpnet": ({}, "has its own attention (eager), which cannot be replaced"),
    "xlnet": (
        {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48},
        "has its own attention (eager), which cannot be replaced",
    ),
    "gemma2": (DECODER | SMALL, "has its own attention (eager), which cannot be replaced"),
    # It numbers the tokens of a batch from 0, whatever positions it is given.
    "bart": (BART, "gives packed texts other token vectors"),
    "esm": (ESM, "cannot be packed: the queries and keys are not those of the packed tokens"),
}
"""Architecture to its configuration, and the reason for padded texts."""


def why_padded(backbone, *, max_length=POSITIONS):
    """Return the reason for padded texts, with the numbers of the backbone's configuration."""
    config = backbone.config
    return check.why_padded(
        backbone,
        max_length=max_length,
        vocabulary_size=config.vocab_size,
        positions=getattr(config, "max_position_embeddings", None) or 0,
        pad_token_id=config.pad_token_id or 0,
    )


def attend_across_texts(run, query, key, value, *, options):
    """Return attention as if the texts of a run were a single text."""
    query, key, value = (one.transpose(0, 1)[None] for one in (query, key, value))
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=options.scaling)
    return attended[0].transpose(0, 1).flatten(1)


@COMPUTE_TYPES
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_tiny_model_but_mpnet_reads_packed_texts(architecture, compute_type, tower_of):
    why = tower_of(architecture).why_padded(compute_type, max_length=POSITIONS)

    expected = (
        "mpnet has its own attention (eager), which cannot be replaced" if architecture == "mpnet" else None
    )
    assert why == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_decoders_read_packed_texts(variant):
    assert why_padded(variant_of(variant)) is None


@COMPUTE_TYPES
@pytest.mark.parametrize("architecture", PACKING)
def test_attention_across_texts_is_detected(architecture, compute_type, tower_of, monkeypatch):
    monkeypatch.setattr(packing, "_attend_run", attend_across_texts)

    why = tower_of(architecture).why_padded(compute_type, max_length=POSITIONS)

    found = re.fullmatch(r"(.+) gives packed texts other token vectors: the largest difference is (.+)%", why)
    assert found[1] == architecture
    assert float(found[2]) > 10


def backbone_of(architecture, options):
    config = AutoConfig.for_model(architecture, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModel.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("architecture", REFUSED)
def test_the_reason_for_padded_texts_is_what_was_observed(architecture):
    """Fresh weights are so small that texts hardly affect each other: the error is 2 % and less."""
    options, reason = REFUSED[architecture]
    backbone = backbone_of(architecture, SMALL | options)

    assert why_padded(backbone).startswith(f"{architecture} {reason}")


def test_an_option_that_packed_attention_lacks_is_named(tower_of, monkeypatch):
    attend = packing.packed_attention
    monkeypatch.setattr(
        packing, "packed_attention", lambda *parts, **how: attend(*parts, softcap=50.0, **how)
    )

    assert why_padded(tower_of("bert").backbone) == (
        "bert cannot be packed: packed attention supports neither a softcap nor sinks"
    )


def ignore_options(monkeypatch, **wrong):
    """Let attention compute with other options than the layer's."""
    attend_run = packing._attend_run
    monkeypatch.setattr(
        packing, "_attend_run", lambda *parts, options: attend_run(*parts, options=replace(options, **wrong))
    )


@pytest.mark.parametrize("wrong", [{"causal": False}, {"window": None}, {"scaling": 1.0}], ids=str)
def test_attention_that_ignores_an_option_of_the_layer_is_detected(wrong, monkeypatch):
    ignore_options(monkeypatch, **wrong)

    assert "other token vectors" in why_padded(variant_of("window of a decoder"))


def test_a_window_shows_only_in_a_longer_text(tower_of, monkeypatch):
    """Hence the texts of the maximum length: short texts do not reveal that a window is missing."""
    ignore_options(monkeypatch, window=None)
    backbone = tower_of("modernbert").backbone

    assert why_padded(backbone, max_length=4) is None
    assert "other token vectors" in why_padded(backbone)


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta"])
def test_positions_that_begin_elsewhere_are_detected(architecture, tower_of, monkeypatch):
    backbone = tower_of(architecture).backbone
    assert padding_position(backbone) == 1

    monkeypatch.setattr(check, "padding_position", lambda _: None)

    assert "other token vectors" in why_padded(backbone)


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, IndexError, KeyError])
def test_an_architecture_that_refuses_packed_texts_is_named_with_its_error(error, tower_of, monkeypatch):
    def refuse(*_, **__):
        raise error("packed")

    monkeypatch.setattr(check, "read_packed", refuse)

    why = why_padded(tower_of("bert").backbone)

    assert why == f"bert refuses packed texts: {error.__name__}: {error('packed')}"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, torch.AcceleratorError, AttributeError])
def test_an_error_that_is_no_refusal_is_raised(error, tower_of, monkeypatch):
    def fail(*_, **__):
        raise error("a fault")

    monkeypatch.setattr(check, "read_packed", fail)

    with pytest.raises(error, match="a fault"):
        why_padded(tower_of("bert").backbone)


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError])
def test_an_error_of_our_attention_is_raised(error, tower_of, monkeypatch):
    """torch 2.10 had no `enable_gqa`, and its TypeError once turned packing off silently."""

    def wrong(*_, **__):
        raise error("unexpected keyword argument 'enable_gqa'")

    monkeypatch.setattr(packing, "packed_attention", wrong)

    with pytest.raises(error, match="enable_gqa"):
        why_padded(tower_of("bert").backbone)


def test_a_backbone_that_cannot_read_padded_texts_is_an_error(tower_of, monkeypatch):
    def fail(*_, **__):
        raise ValueError("needs decoder_input_ids")

    monkeypatch.setattr(check, "_read_padded", fail)

    with pytest.raises(ValueError, match="decoder_input_ids"):
        why_padded(tower_of("bert").backbone)


def test_short_texts_within_the_positions_are_read_first(tower_of, monkeypatch):
    """On a GPU, looking up a position that does not exist would end the process."""
    read, read_packed = [], packing.read_packed

    def recorded(backbone, batch, **options):
        read.append(len(batch.input_ids))
        return read_packed(backbone, batch, **options)

    monkeypatch.setattr(check, "read_packed", recorded)

    why_padded(tower_of("bert").backbone)

    assert read[0] <= POSITIONS < read[1]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("architecture", ["bert", "mpnet", "qwen3"])
def test_the_check_leaves_a_backbone_as_it_was(architecture, training, tower_of):
    backbone = tower_of(architecture).backbone.train(training)
    attention = backbone.config._attn_implementation
    state = torch.get_rng_state()

    why_padded(backbone)

    assert backbone.config._attn_implementation == attention
    assert backbone.training == training
    assert all(parameter.grad is None for parameter in backbone.parameters())
    torch.testing.assert_close(torch.get_rng_state(), state)


@pytest.mark.parametrize("max_length", [1, 2, 5])
def test_models_of_short_texts_are_checked(max_length, tower_of):
    assert why_padded(tower_of("bert").backbone, max_length=max_length) is None


class OnGpu(torch.nn.Parameter):
    """A weight that claims to be on a GPU."""

    device = torch.device("cuda")


@pytest.mark.parametrize(
    ("compute_type", "capability", "why"),
    [
        (torch.float32, (9, 0), NEEDS_HALF_PRECISION),
        (
            torch.float16,
            (7, 5),
            "the GPU's compute capability is 7.5, and Flash Attention needs 8.0 or later",
        ),
    ],
)
def test_a_gpu_without_flash_attention_is_named(compute_type, capability, why, tower_of, monkeypatch):
    tower = tower_of("bert")
    monkeypatch.setattr(tower, "parameters", lambda: iter([OnGpu(torch.zeros(1))]))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)

    assert tower.why_padded(compute_type, max_length=POSITIONS) == why
