"""Packed texts against padded ones, which transformers computes by itself: every architecture, every way."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from aisle.kernels import packed_attention as packing
from aisle.kernels.flash_attention import varlen_attention, varlen_options
from aisle.kernels.packed_attention import first_position, packed_attention
from aisle.models.adapters import attach_lora
from aisle.models.heads import Normalize
from aisle.models.pooling import Pooling
from aisle.models.prepare_model import set_dropout
from aisle.models.tower import Tower, autocast
from aisle.text.token_batches import Layout, pack, pad, split
from aisle.text.tokens import TokenizedTexts, offsets_of
from tests.tiny_models import ARCHITECTURES, CONFIGS, DECODER, POSITIONS

PACKING = tuple(name for name in ARCHITECTURES if name != "mpnet")
LENGTHS = np.array([40, 25, 25, 12, 12, 12, 7, 3, 1, 1])
"""Longest first, with equal ones, one token alone, and far longer than ModernBERT's window of 8."""
ROWS = np.arange(len(LENGTHS))
EMBEDDING_WEIGHTS = torch.randn(len(LENGTHS), 32, generator=torch.Generator().manual_seed(3))
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
    ids = np.random.default_rng(1).integers(1000, 30_000, size=int(LENGTHS.sum()))
    return TokenizedTexts(ids.astype(np.int32), offsets_of(LENGTHS))


@pytest.fixture(scope="module")
def packed(texts):
    return pack(texts, ROWS)


@pytest.fixture(scope="module")
def padded_of(texts):
    """Return a function from a backbone to the texts in padded batches, in their order."""

    def batches(backbone):
        pad_token_id = backbone.config.pad_token_id
        layout = Layout(packed=False, max_tokens=100, group_cost=8, pad_token_id=pad_token_id)
        found = [layout.batch(texts, rows) for rows in layout.rows(LENGTHS)]
        assert len(found) > 1
        assert sum(batch.read_tokens for batch in found) > LENGTHS.sum()
        return found

    return batches


@pytest.fixture
def tower_of(tiny_model, shift_weights):
    """Return a function from an architecture to its tower, as training has it, dropout off."""

    def load(architecture, *, pooling="mean", adapter=False):
        backbone = AutoModel.from_pretrained(tiny_model(architecture), dtype=torch.float32)
        set_dropout(backbone, 0.0)
        if adapter:
            backbone = with_lora(backbone)
            shift_weights(backbone, seed=1)
        return Tower(backbone, Pooling(pooling), [Normalize()])

    return load


def with_lora(backbone):
    return attach_lora(
        backbone,
        rank=4,
        alpha=8,
        dropout=0.0,
        target_modules=None,
        use_dora=False,
        use_rslora=False,
        base_reference="base",
        base_revision=None,
    )


def variant_of(name):
    architecture, changes = VARIANTS[name]
    config = AutoConfig.for_model(architecture, **(CONFIGS[architecture] | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModel.from_config(config, dtype=torch.float32).eval()


def embed(tower, batches):
    with torch.no_grad():
        return tower(batches)


def gradients(tower, batches):
    """The gradients of all trained weights, of a loss that weighs each embedding otherwise."""
    tower.zero_grad(set_to_none=True)
    (tower(batches) * EMBEDDING_WEIGHTS).sum().backward()
    trained = {name: one for name, one in tower.named_parameters() if one.requires_grad}
    return {name: one.grad.clone() for name, one in trained.items() if one.grad is not None}


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
    architecture, pooling, tower_of, texts, packed, padded_of
):
    tower = tower_of(architecture, pooling=pooling).eval()

    found = embed(tower, [packed])

    alone = [embed(tower, [pad(texts, ROWS[row : row + 1], 0)]) for row in ROWS]
    torch.testing.assert_close(found, embed(tower, padded_of(tower.backbone)), rtol=0, atol=1e-5)
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full"])
@pytest.mark.parametrize("architecture", PACKING)
def test_packed_texts_give_the_gradients_of_padded_ones(
    architecture, adapter, pooling, tower_of, packed, padded_of
):
    tower = tower_of(architecture, pooling=pooling, adapter=adapter).train()

    found = gradients(tower, [packed])

    assert_same_gradients(found, gradients(tower, padded_of(tower.backbone)))
    assert all(("lora_" in name) == adapter for name in found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_decoders_read_packed_texts_as_padded_ones(variant, packed, padded_of):
    tower = Tower(variant_of(variant), Pooling("mean"), [Normalize()])

    assert can_pack(tower.backbone, max_length=POSITIONS)
    torch.testing.assert_close(
        embed(tower, [packed]), embed(tower, padded_of(tower.backbone)), rtol=0, atol=1e-5
    )
    found = gradients(tower, [packed])
    assert_same_gradients(found, gradients(tower, padded_of(tower.backbone)))


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


def test_packed_and_padded_batches_can_take_turns(tower_of, texts, packed, padded_of):
    tower = tower_of("bert").eval()
    padded = padded_of(tower.backbone)

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


def attention_by_hand(query, key, value, *, scaling, causal, window):
    """Return attention within one text, weight by weight: (tokens, heads, head_dim)."""
    tokens, heads, _ = query.shape
    attended = torch.zeros_like(query)
    for head in range(heads):
        shared = head * key.shape[1] // heads
        for token in range(tokens):
            seen = [
                other
                for other in range(tokens)
                if (other <= token or not causal) and (window is None or abs(other - token) < window)
            ]
            weights = torch.softmax(key[seen, shared] @ query[token, head] * scaling, dim=0)
            attended[token, head] = weights @ value[seen, shared]
    return attended


CASES = [
    pytest.param(key_heads, causal, window, id=f"{key_heads} key heads, causal {causal}, window {window}")
    for key_heads in (4, 2, 1)
    for causal in (True, False)
    for window in (None, 1, 3)
]


def attend_both_ways(*, key_heads, causal, window, device, dtype, scaling=0.3):
    """Return packed attention and attention by hand: (tokens, heads, head_dim) each."""
    lengths = np.array([6, 4, 4, 1])
    batch = pack(TokenizedTexts(np.arange(15, dtype=np.int32), offsets_of(lengths)), np.arange(4)).to(device)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(15, 4, 8, generator=generator)
    key, value = torch.randn(2, 15, key_heads, 8, generator=generator)
    query, key, value = (one.to(device, dtype) for one in (query, key, value))
    found, weights = packed_attention(
        Layer(is_causal=causal),
        *(one.transpose(0, 1)[None] for one in (query, key, value)),
        None,
        packed=batch,
        scaling=scaling,
        sliding_window=window,
    )
    assert weights is None
    parts = zip(*(torch.split(one.float(), lengths.tolist()) for one in (query, key, value)), strict=True)
    by_hand = [attention_by_hand(*part, scaling=scaling, causal=causal, window=window) for part in parts]
    return found[0], torch.cat(by_hand)


@pytest.mark.parametrize("architecture", [name for name in ARCHITECTURES if name != "mpnet"])
def test_packed_texts_train_under_autocast(architecture, tower_of, packed, padded_of):
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
    found, expected = attend_both_ways(
        key_heads=key_heads, causal=causal, window=window, device=torch.device("cpu"), dtype=torch.float32
    )

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Flash Attention runs on GPUs alone")
@pytest.mark.parametrize(("key_heads", "causal", "window"), CASES)
def test_attention_on_a_gpu_is_that_by_hand(key_heads, causal, window):
    found, expected = attend_both_ways(
        key_heads=key_heads, causal=causal, window=window, device=torch.device("cuda"), dtype=torch.bfloat16
    )

    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="Flash Attention runs on GPUs alone")
@pytest.mark.parametrize("architecture", PACKING)
def test_packed_embeddings_on_a_gpu_are_close_to_padded_ones(architecture, tower_of, packed, padded_of):
    device = torch.device("cuda")
    tower = tower_of(architecture).to(device).eval()
    assert tower.packs("bf16", max_length=POSITIONS)
    assert not tower.packs("fp32", max_length=POSITIONS)

    with autocast(device, "bf16"):
        found = embed(tower, [packed.to(device)])
        expected = embed(tower, [batch.to(device) for batch in padded_of(tower.backbone)])

    assert (found * expected).sum(dim=1).min() > 0.995


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


def by_hand(query, key, value, offsets, *, scale, is_causal):
    """Return attention within each of the texts, weight by weight."""
    parts = [
        attention_by_hand(
            query[start:end], key[start:end], value[start:end], scaling=scale, causal=is_causal, window=None
        )
        for start, end in pairwise(offsets.tolist())
    ]
    return torch.cat(parts)


def earlier_varlen(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, *, scale=None):
    """Attention over variable lengths with the parameters of earlier versions: no window or grouped heads."""
    assert key.shape == query.shape
    return by_hand(query, key, value, cu_seq_q, scale=scale, is_causal=is_causal)


def later_varlen(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
):
    """The same with the parameters of torch 2.13."""
    assert enable_gqa == (key.shape != query.shape)
    assert window_size in ((-1, -1), (-1, 0))
    return by_hand(query, key, value, cu_seq_q, scale=scale, is_causal=window_size == (-1, 0))


@pytest.mark.parametrize("varlen_attn", [earlier_varlen, later_varlen])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_flash_attention_is_called_with_the_parameters_that_torch_has(
    key_heads, causal, varlen_attn, monkeypatch
):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    batch = pack(TokenizedTexts(np.arange(6, dtype=np.int32), offsets_of(np.array([4, 2]))), np.arange(2))
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(6, 4, 8, generator=generator)
    key, value = torch.randn(2, 6, key_heads, 8, generator=generator)

    found = varlen_attention(query, key, value, batch, 0.3, causal, None)

    torch.testing.assert_close(found, by_hand(query, key, value, batch.offsets, scale=0.3, is_causal=causal))


def test_a_window_is_refused_where_torch_has_none():
    parameters = {"is_causal", "scale"}

    with pytest.raises(ValueError, match="this version of torch has no sliding window"):
        varlen_options(parameters, scaling=None, causal=True, window=3, grouped=False)


def test_a_wrong_call_of_our_own_is_not_taken_for_an_architecture_that_cannot_be_packed(
    tower_of, monkeypatch
):
    """torch 2.10 has no enable_gqa: the TypeError turned packing off without a word."""

    def wrong(*_, **__):
        raise TypeError("varlen_attn() got an unexpected keyword argument 'enable_gqa'")

    monkeypatch.setattr(packing, "packed_attention", wrong)

    with pytest.raises(TypeError, match="enable_gqa"):
        can_pack(tower_of("bert").backbone, max_length=POSITIONS)
