"""Packed texts against padded ones, which transformers computes by itself: every architecture, every way."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from aisle.kernels import packed_attention as packing
from aisle.kernels.packed_attention import first_position, packed_attention
from aisle.models.heads import Normalize
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower, autocast
from aisle.text.token_batches import pack, pad, split
from aisle.text.tokens import TokenizedTexts, offsets_of
from tests.attention_by_hand import CASES, attention_by_hand, packed_by_hand
from tests.packed_towers import ROWS, gradients, padded_batches, random_texts, tower_without_dropout
from tests.tiny_models import ARCHITECTURES, CONFIGS, DECODER, POSITIONS

PACKING = tuple(name for name in ARCHITECTURES if name != "mpnet")
# What the tiny models of every architecture leave out.
VARIANTS = {
    "window of a decoder": ("mistral", {"sliding_window": 8}),
    "grouped key heads": ("qwen3", {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}),
    "grouped key heads in a window": (
        "mistral",
        {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8},
    ),
}

OF_ITS_OWN = {
    # These two take our arguments and leave them unread.
    "xlnet": {"vocab_size": 500, "d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 48},
    "xlm": {"vocab_size": 500, "emb_dim": 32, "n_layers": 2, "n_heads": 2},
    # Scores are bounded by a tanh, which we are told of as `softcap`.
    "gemma2": DECODER | {"vocab_size": 500, "initializer_range": 0.02, "attn_implementation": "eager"},
}


def can_pack(backbone, *, max_length):
    """Whether a backbone reads packed texts, asked with the numbers of its configuration."""
    config = backbone.config
    return packing.can_pack(
        backbone,
        max_length=max_length,
        vocabulary_size=config.vocab_size,
        positions=getattr(config, "max_position_embeddings", None) or 0,
        pad_token_id=config.pad_token_id or 0,
    )


@pytest.fixture(scope="module")
def texts():
    return random_texts()


@pytest.fixture(scope="module")
def packed(texts):
    return pack(texts, ROWS)


@pytest.fixture
def tower_of(tiny_model, shift_weights):
    """Return a function from an architecture to its tower, as training has it, dropout off."""

    def load(architecture, *, pooling="mean", adapter=False):
        tower = tower_without_dropout(tiny_model(architecture), pooling=pooling, adapter=adapter)
        if adapter:
            shift_weights(tower, seed=1)
        return tower

    return load


def variant_of(name):
    architecture, changes = VARIANTS[name]
    config = AutoConfig.for_model(architecture, **(CONFIGS[architecture] | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModel.from_config(config, dtype=torch.float32).eval()


def embed(tower, batches):
    with torch.no_grad():
        return tower(batches)


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    largest = max(one.abs().max() for one in expected.values())
    assert largest > 1e-3
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-5 * float(largest), msg=name)


def see_each_other(run, query, key, value, *, scaling, **_):
    """Attention as it would be if a run of texts were one text."""
    query, key, value = (one.transpose(0, 1)[None] for one in (query, key, value))
    attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scaling)
    return attended[0].transpose(0, 1).flatten(1)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("architecture", PACKING)
def test_packed_texts_have_the_embeddings_of_padded_ones_and_of_each_text_alone(
    architecture, pooling, tower_of, texts, packed
):
    tower = tower_of(architecture, pooling=pooling).eval()

    found = embed(tower, [packed])

    alone = [embed(tower, [pad(texts, ROWS[row : row + 1], 0)]) for row in ROWS]
    torch.testing.assert_close(found, embed(tower, padded_batches(tower.backbone)), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", PACKING)
def test_packed_texts_give_the_gradients_of_padded_ones(architecture, adapter, pooling, tower_of, packed):
    tower = tower_of(architecture, pooling=pooling, adapter=adapter).train()

    found = gradients(tower, [packed])

    assert_same_gradients(found, gradients(tower, padded_batches(tower.backbone)))
    assert all(("lora_" in name) == adapter for name in found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_decoders_read_packed_texts_as_padded_ones(variant, packed):
    tower = Tower(variant_of(variant), Pooling("mean"), [Normalize()])

    assert can_pack(tower.backbone, max_length=POSITIONS)
    torch.testing.assert_close(
        embed(tower, [packed]), embed(tower, padded_batches(tower.backbone)), rtol=0, atol=1e-5
    )
    found = gradients(tower, [packed])
    assert_same_gradients(found, gradients(tower, padded_batches(tower.backbone)))


@pytest.mark.parametrize("max_tokens", [1, 30, 60])
@pytest.mark.parametrize("architecture", ["roberta", "modernbert", "qwen3"])
def test_a_split_batch_has_the_embeddings_of_the_whole_in_the_same_order(
    architecture, max_tokens, tower_of, texts, packed
):
    tower = tower_of(architecture).eval()
    whole = embed(tower, [packed])

    for batch in (packed, pad(texts, ROWS, tower.backbone.config.pad_token_id)):
        parts = split(batch, max_tokens)
        assert len(parts) > 1
        torch.testing.assert_close(embed(tower, parts), whole, rtol=0, atol=1e-5)


def test_packed_and_padded_batches_can_take_turns(tower_of, texts, packed):
    tower = tower_of("bert").eval()
    padded = padded_batches(tower.backbone)

    mixed = embed(tower, [packed, *padded, packed])

    whole = embed(tower, padded)
    torch.testing.assert_close(mixed, torch.cat([whole, whole, whole]), rtol=0, atol=1e-5)


# transformers 5.23 has a new name for it, which those before do not know.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", PACKING)
def test_gradient_checkpointing_gives_packed_texts_the_same_gradients(
    architecture, adapter, tower_of, packed, monkeypatch
):
    attended, attend_run = [], packing._attend_run

    def counted(*parts, **how):
        attended.append(parts)
        return attend_run(*parts, **how)

    monkeypatch.setattr(packing, "_attend_run", counted)
    tower = tower_of(architecture, adapter=adapter).train()
    expected = gradients(tower, [packed])
    once = len(attended)

    tower.backbone.gradient_checkpointing_enable({"use_reentrant": False})
    found = gradients(tower, [packed])

    assert len(attended) - once == 2 * once  # the layers were run again in the backward pass
    assert_same_gradients(found, expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_but_mpnet_packs(architecture, precision, tower_of):
    """MPNet adds a bias for the distance of two tokens, which our attention is not given."""
    tower = tower_of(architecture)

    assert tower.packs(precision, max_length=POSITIONS) == (architecture != "mpnet")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", PACKING)
def test_attention_over_the_bounds_of_texts_is_refused(architecture, precision, tower_of, monkeypatch):
    monkeypatch.setattr(packing, "_attend_run", see_each_other)

    assert not tower_of(architecture).packs(precision, max_length=POSITIONS)


@pytest.mark.parametrize("architecture", OF_ITS_OWN)
def test_an_architecture_that_computes_attention_in_a_way_of_its_own_is_refused(architecture):
    """Fresh weights are so small that texts hardly see each other: the error is 2 % and less."""
    config = AutoConfig.for_model(architecture, **OF_ITS_OWN[architecture])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = AutoModel.from_config(config, dtype=torch.float32).eval()

    assert not can_pack(backbone, max_length=POSITIONS)


@pytest.mark.parametrize("wrong", [{"causal": False}, {"window": None}, {"scaling": 1.0}], ids=str)
def test_attention_that_overlooks_what_a_layer_asks_for_is_refused(wrong, monkeypatch):
    attend_run = packing._attend_run
    monkeypatch.setattr(packing, "_attend_run", lambda *parts, **how: attend_run(*parts, **(how | wrong)))

    assert not can_pack(variant_of("window of a decoder"), max_length=POSITIONS)


def test_a_window_shows_only_in_a_text_that_is_longer(tower_of, monkeypatch):
    """Hence the probe of the longest text: on short ones a forgotten window is not seen."""
    attend_run = packing._attend_run
    monkeypatch.setattr(
        packing, "_attend_run", lambda *parts, **how: attend_run(*parts, **(how | {"window": None}))
    )
    backbone = tower_of("modernbert").backbone

    assert can_pack(backbone, max_length=4)
    assert not can_pack(backbone, max_length=POSITIONS)


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta"])
def test_positions_that_begin_elsewhere_are_refused(architecture, tower_of, monkeypatch):
    backbone = tower_of(architecture).backbone
    assert first_position(backbone) == 2

    monkeypatch.setattr(packing, "first_position", lambda _: 0)

    assert not can_pack(backbone, max_length=POSITIONS)


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert", "qwen2"])
def test_positions_begin_at_nought_where_no_padding_index_shifts_them(architecture, tower_of):
    assert first_position(tower_of(architecture).backbone) == 0


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError])
def test_an_architecture_that_takes_no_packed_texts_is_padded(error, tower_of, monkeypatch):
    def refuse(*_, **__):
        raise error("no such argument")

    monkeypatch.setattr(packing, "read_packed", refuse)

    assert not can_pack(tower_of("bert").backbone, max_length=POSITIONS)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("architecture", ["bert", "mpnet", "qwen3"])
def test_trying_out_leaves_a_backbone_as_it_was(architecture, training, tower_of):
    backbone = tower_of(architecture).backbone.train(training)
    attention = backbone.config._attn_implementation
    state = torch.get_rng_state()

    can_pack(backbone, max_length=POSITIONS)

    assert backbone.config._attn_implementation == attention
    assert backbone.training == training
    assert all(parameter.grad is None for parameter in backbone.parameters())
    torch.testing.assert_close(torch.get_rng_state(), state)


@pytest.mark.parametrize("max_length", [1, 2, 5])
def test_models_of_short_texts_can_be_tried_out(max_length, tower_of):
    assert can_pack(tower_of("bert").backbone, max_length=max_length)


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_saved_files_name_no_attention_of_ours(adapter, tower_of, packed, tmp_path):
    tower = tower_of("bert", adapter=adapter).eval()
    embed(tower, [packed])
    assert tower.backbone.config._attn_implementation == packing.ATTENTION

    tower.backbone.save_pretrained(tmp_path, **({"save_embedding_layers": False} if adapter else {}))
    tower.backbone.config.save_pretrained(tmp_path)

    written = [path.read_text(encoding="utf-8") for path in tmp_path.glob("*.json")]
    assert len(written) == 1 + adapter
    assert not any(packing.ATTENTION in content for content in written)


@dataclass
class Layer:
    """What packed_attention reads of an attention layer."""

    is_causal: bool


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "mpnet"])
def test_packed_texts_train_under_autocast(architecture, tower_of, packed):
    """Rotary positions leave queries and keys in float32 there, and values in bf16."""
    tower = tower_of(architecture, adapter=True)
    with autocast(torch.device("cpu"), "bf16"):
        found = gradients(tower, [packed])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found.values())


def test_backbones_keep_no_keys_and_values_of_what_they_read(tower_of, packed):
    backbone = tower_of("qwen2").backbone
    assert backbone.config.use_cache is False
    output = backbone(input_ids=packed.input_ids[None])
    assert getattr(output, "past_key_values", None) is None


@pytest.mark.parametrize(("key_heads", "causal", "window"), CASES)
def test_attention_is_that_by_hand(key_heads, causal, window):
    lengths = np.array([6, 4, 4, 1])
    batch = pack(TokenizedTexts(np.arange(15, dtype=np.int32), offsets_of(lengths)), np.arange(4))
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(15, 4, 8, generator=generator)
    key, value = torch.randn(2, 15, key_heads, 8, generator=generator)

    found, weights = packed_attention(
        Layer(is_causal=causal),
        *(one.transpose(0, 1)[None] for one in (query, key, value)),
        None,
        packed=batch,
        scaling=0.3,
        sliding_window=window,
    )

    expected = packed_by_hand(query, key, value, lengths, scaling=0.3, causal=causal, window=window)
    assert weights is None
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("is_causal", [True, False])
def test_what_is_not_said_is_the_layers_own(is_causal):
    """Scores are divided by the root of the head's dimension, 4 here; a layer knows if it is causal."""
    batch = pack(TokenizedTexts(np.arange(3, dtype=np.int32), offsets_of([3])), np.arange(1))
    query, key, value = torch.randn(3, 3, 1, 16, generator=torch.Generator().manual_seed(0))

    found, _ = packed_attention(
        Layer(is_causal=is_causal),
        *(one.transpose(0, 1)[None] for one in (query, key, value)),
        None,
        packed=batch,
    )

    expected = attention_by_hand(query, key, value, scaling=0.25, causal=is_causal, window=None)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)


def test_attention_weights_are_dropped_while_training():
    batch = pack(TokenizedTexts(np.arange(64, dtype=np.int32), offsets_of([64])), np.arange(1))
    ones = torch.ones(1, 2, 64, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found, _ = packed_attention(Layer(is_causal=False), ones, ones, ones, None, packed=batch, dropout=0.5)

    # Each weight is 1/64, dropped or doubled: no output stays 1, and on average they do.
    assert (found - 1).abs().max() > 0.05
    assert abs(found.mean() - 1) < 0.05


def test_a_wrong_call_of_our_own_is_not_taken_for_an_architecture_that_cannot_be_packed(
    tower_of, monkeypatch
):
    """torch 2.10 has no enable_gqa: the TypeError turned packing off without a word."""

    def wrong(*_, **__):
        raise TypeError("varlen_attn() got an unexpected keyword argument 'enable_gqa'")

    monkeypatch.setattr(packing, "packed_attention", wrong)

    with pytest.raises(TypeError, match="enable_gqa"):
        can_pack(tower_of("bert").backbone, max_length=POSITIONS)
