"""Packed texts, compared with padded texts computed by transformers, for every architecture."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from aisle.kernels import packed_attention as packing
from aisle.kernels.packed_attention import packed_attention, padding_position, position_ids
from aisle.models.heads import Normalize
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower, autocast
from aisle.text.token_batches import pack, pad, split
from aisle.text.tokens import TokenizedTexts, offsets_of
from tests.attention_by_hand import CASES, attention_by_hand, packed_by_hand
from tests.packed_towers import ROWS, VARIANTS, gradients, padded_batches, random_texts, variant_of
from tests.tiny_models import ARCHITECTURES

PACKING = tuple(name for name in ARCHITECTURES if name != "mpnet")


@pytest.fixture(scope="module")
def texts():
    return random_texts()


@pytest.fixture(scope="module")
def packed(texts):
    return pack(texts, ROWS)


def embed(tower, batches):
    with torch.no_grad():
        return tower(batches)


def assert_same_gradients(found, expected):
    assert found.keys() == expected.keys()
    largest = max(one.abs().max() for one in expected.values())
    assert largest > 1e-3
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, rtol=1e-4, atol=1e-5 * float(largest), msg=name)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("architecture", PACKING)
def test_packed_texts_have_the_embeddings_of_padded_texts_and_of_single_texts(
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
def test_packed_texts_give_the_gradients_of_padded_texts(architecture, adapter, pooling, tower_of, packed):
    tower = tower_of(architecture, pooling=pooling, adapter=adapter).train()

    found = gradients(tower, [packed])

    assert_same_gradients(found, gradients(tower, padded_batches(tower.backbone)))
    assert all(("lora_" in name) == adapter for name in found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_decoder_variants_embed_packed_texts_like_padded_texts(variant, packed):
    tower = Tower(variant_of(variant), Pooling("mean"), [Normalize()])

    torch.testing.assert_close(
        embed(tower, [packed]), embed(tower, padded_batches(tower.backbone)), rtol=0, atol=1e-5
    )
    found = gradients(tower, [packed])
    assert_same_gradients(found, gradients(tower, padded_batches(tower.backbone)))


@pytest.mark.parametrize("max_tokens", [1, 30, 60])
@pytest.mark.parametrize("architecture", ["roberta", "modernbert", "qwen3"])
def test_splitting_a_batch_changes_neither_embeddings_nor_order(
    architecture, max_tokens, tower_of, texts, packed
):
    tower = tower_of(architecture).eval()
    whole = embed(tower, [packed])

    for batch in (packed, pad(texts, ROWS, tower.backbone.config.pad_token_id)):
        parts = split(batch, max_tokens)
        assert len(parts) > 1
        torch.testing.assert_close(embed(tower, parts), whole, rtol=0, atol=1e-5)


def test_packed_and_padded_batches_can_alternate(tower_of, texts, packed):
    tower = tower_of("bert").eval()
    padded = padded_batches(tower.backbone)

    mixed = embed(tower, [packed, *padded, packed])

    whole = embed(tower, padded)
    torch.testing.assert_close(mixed, torch.cat([whole, whole, whole]), rtol=0, atol=1e-5)


# transformers 5.23 renames the function; earlier versions lack the new name.
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", PACKING)
def test_gradient_checkpointing_does_not_change_gradients_of_packed_texts(
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


@pytest.mark.parametrize("architecture", ["bert", "distilbert", "modernbert", "qwen2"])
def test_positions_start_at_zero_without_a_padding_index(architecture, tower_of):
    assert padding_position(tower_of(architecture).backbone) is None


def test_positions_are_counted_from_the_padding_index_without_padding_tokens():
    ids, lengths = [9, 8, 7, 1, 9, 1, 8, 9, 1, 1], [3, 4, 1, 1, 1]
    batch = pack(TokenizedTexts(np.array(ids, np.int32), offsets_of(np.array(lengths))), np.arange(5))

    assert position_ids(batch, None).tolist() == [0, 1, 2, 0, 1, 2, 3, 0, 0, 0]
    assert position_ids(batch, 1).tolist() == [2, 3, 4, 1, 2, 1, 3, 2, 1, 1]


@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
def test_saved_files_do_not_name_aisles_attention(adapter, tower_of, packed, tmp_path):
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
    """The attribute of an attention layer that packed_attention reads."""

    is_causal: bool


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "mpnet"])
def test_packed_texts_train_under_autocast(architecture, tower_of, packed):
    """Under autocast, rotary positions leave queries and keys in float32, and values in bf16."""
    tower = tower_of(architecture, adapter=True)
    with autocast(torch.device("cpu"), "bf16"):
        found = gradients(tower, [packed])
    assert all(bool(torch.isfinite(gradient).all()) for gradient in found.values())


def test_backbones_do_not_cache_keys_and_values(tower_of, packed):
    backbone = tower_of("qwen2").backbone
    assert backbone.config.use_cache is False
    output = backbone(input_ids=packed.input_ids[None])
    assert getattr(output, "past_key_values", None) is None


@pytest.mark.parametrize(("key_heads", "causal", "window"), CASES)
def test_attention_equals_attention_by_hand(key_heads, causal, window):
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
def test_defaults_come_from_the_layer(is_causal):
    """The scale is 1 / root of the head's dimension, here 4; the layer has an attribute `is_causal`."""
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


def test_attention_weights_are_dropped_in_training():
    batch = pack(TokenizedTexts(np.arange(64, dtype=np.int32), offsets_of([64])), np.arange(1))
    ones = torch.ones(1, 2, 64, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found, _ = packed_attention(Layer(is_causal=False), ones, ones, ones, None, packed=batch, dropout=0.5)

    # Each weight is 1/64, and is dropped or doubled: outputs differ from 1, but their mean is 1.
    assert (found - 1).abs().max() > 0.05
    assert abs(found.mean() - 1) < 0.05
