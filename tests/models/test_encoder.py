import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModel

from aisle.errors import ModelError
from aisle.models.loading import load_encoder
from aisle.models.precision import fastest_precision
from aisle.models.tower import autocast
from aisle.text.token_batches import PackedBatch, PaddedBatch
from aisle.types.encoder_settings import Overrides
from tests.tiny_models import ARCHITECTURES, DECODERS, DIM

TEXTS = [
    "shoes",
    "red running shoes for women, size 38, breathable",
    "a",
    "deep learning",
    "stainless steel espresso machine with milk frother and a very long name that is cut somewhere " * 3,
    "garden hose 20 m",
    "",
    "usb c cable",
]
ODD = {
    "emoji": "👟🔥 sneakers 👩‍👩‍👧‍👦",
    "right to left": "حذاء رياضي أحمر נעלי ריצה",
    "chinese": "红色运动鞋 女士",
    "japanese": "ランニングシューズ レディース",
    "control characters": "a\x00b\tc\nd\u200b\ufeff",
    "blank": "   \n\t ",
    "one letter repeated": "x" * 5000,
}


@pytest.fixture(scope="module")
def encoder_of(tiny_model):
    encoders = {}

    def load(architecture, pooling=None):
        key = architecture, pooling
        if key not in encoders:
            overrides = Overrides(pooling=pooling)
            encoders[key] = load_encoder(tiny_model(architecture), overrides=overrides, device="cpu")
        return encoders[key]

    return load


@pytest.fixture(scope="module")
def encoder(encoder_of):
    return encoder_of("bert")


def plain_forward(folder, tokenizer, texts, *, pooling, max_length):
    """Embed all texts at once, padded by the tokenizer, with only transformers and torch."""
    backbone = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer.padding_side = "right"
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        tokens = backbone(**inputs).last_hidden_state
    rows = []
    for vectors, mask in zip(tokens, inputs["attention_mask"].bool(), strict=True):
        real = vectors[mask]
        rows.append({"mean": real.mean(dim=0), "cls": real[0], "last": real[-1]}[pooling])
    return nn.functional.normalize(torch.stack(rows), dim=1).numpy()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_equal_those_of_a_plain_padded_forward_pass(architecture, pooling, encoder_of, tiny_model):
    encoder = encoder_of(architecture, pooling)

    embeddings = encoder.encode_products(TEXTS, max_tokens=128)

    expected = plain_forward(
        tiny_model(architecture),
        encoder.tokenizer,
        TEXTS,
        pooling=pooling,
        max_length=encoder.settings.max_length,
    )
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_embeddings_do_not_depend_on_grouping_or_order(architecture, encoder_of):
    encoder = encoder_of(architecture)
    order = np.random.default_rng(0).permutation(len(TEXTS))

    alone = np.concatenate([encoder.encode_products([text]) for text in TEXTS])

    for max_tokens in (1, 70, 100_000):
        np.testing.assert_allclose(encoder.encode_products(TEXTS, max_tokens=max_tokens), alone, atol=1e-5)
    shuffled = encoder.encode_products([TEXTS[row] for row in order], max_tokens=70)
    np.testing.assert_allclose(shuffled, alone[order], atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_different_texts_have_different_embeddings(architecture, encoder_of):
    """The tests above would also pass if all embeddings were equal."""
    embeddings = encoder_of(architecture).encode_products(TEXTS)

    cosines = embeddings @ embeddings.T
    assert (cosines - np.eye(len(TEXTS))).max() < 0.9999


@pytest.mark.parametrize("architecture", DECODERS)
def test_decoders_are_pooled_at_the_last_token(architecture, encoder_of):
    assert encoder_of(architecture).settings.pooling == "last"


def test_embeddings_are_float32_of_unit_norm(encoder):
    embeddings = encoder.encode_queries(TEXTS)

    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_each_side_has_its_own_prompt(tiny_bert, encoder):
    prompted = load_encoder(
        tiny_bert, overrides=Overrides(query_prompt="query: ", product_prompt="passage: "), device="cpu"
    )

    queries, products = prompted.encode_queries(["red shoes"]), prompted.encode_products(["red shoes"])

    np.testing.assert_allclose(queries, encoder.encode_queries(["query: red shoes"]), atol=1e-6)
    np.testing.assert_allclose(products, encoder.encode_products(["passage: red shoes"]), atol=1e-6)
    assert np.abs(queries - products).max() > 1e-3


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_texts_have_embeddings_that_do_not_disturb_their_neighbours(text, encoder):
    together = encoder.encode_products(["shoes", text, "usb c cable"])

    assert np.isfinite(together).all()
    np.testing.assert_allclose(together[[0, 2]], encoder.encode_products(["shoes", "usb c cable"]), atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "qwen2"])
def test_a_title_of_a_megabyte_is_cut_off(architecture, encoder_of):
    encoder = encoder_of(architecture)
    title = "shoe " * 200_000

    embeddings = encoder.encode_products([title, "shoe " * 100])

    np.testing.assert_allclose(embeddings[0], embeddings[1], atol=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_text_is_read_up_to_the_limit_of_the_model(architecture, encoder_of):
    encoder = encoder_of(architecture)

    assert encoder.settings.max_length == 64
    assert np.isfinite(encoder.encode_products(["shoe " * 100])).all()


def test_no_texts_give_no_embeddings(encoder):
    assert encoder.encode_queries([]).shape == (0, DIM)
    assert encoder.encode_products([]).dtype == np.float32


def test_a_single_text_is_refused_before_its_letters_are_embedded(encoder):
    with pytest.raises(ModelError, match=r"must be a list of texts; found the text 'red shoes'"):
        encoder.encode_queries("red shoes")


@pytest.mark.parametrize("wrong", [None, 3, float("nan"), b"bytes"])
def test_an_entry_that_is_not_a_text_is_refused_with_its_position(wrong, encoder):
    with pytest.raises(ModelError, match=r"texts\[1\] must be a text; found "):
        encoder.encode_products(["shoes", wrong])


def test_a_text_that_is_not_unicode_is_refused_with_its_position(encoder):
    with pytest.raises(ModelError, match=r"texts\[1\] .*surrogate"):
        encoder.encode_products(["shoes", "caf\udce9"])


def test_progress_counts_every_text_once(encoder):
    done = []

    encoder.encode_products(TEXTS, max_tokens=64, on_progress=done.append)

    assert sum(done) == len(TEXTS)
    assert len(done) > 1


def test_a_model_in_training_is_refused_as_dropout_would_change_its_embeddings(tiny_bert):
    encoder = load_encoder(tiny_bert, device="cpu")
    assert not encoder.model.training  # as it was loaded
    encoder.model.train()

    with pytest.raises(ModelError, match=r"is in training mode, with dropout; call model\.eval\(\)"):
        encoder.encode_products(TEXTS)

    assert encoder.model.training


@pytest.mark.parametrize("encode", ["encode_queries", "encode_products"])
def test_int8_is_refused_with_the_way_to_a_bundle(encode, encoder):
    remedy = f"aisle export {encoder.name} --output_dir DIR --precision int8"

    with pytest.raises(ModelError, match=r"^precision int8: int8 needs a bundle, and .* is not") as refused:
        getattr(encoder, encode)(TEXTS, precision="int8")

    assert remedy in str(refused.value)


def test_bf16_stays_close_to_fp32_and_gives_float32_of_unit_norm(encoder):
    full = encoder.encode_products(TEXTS)

    half = encoder.encode_products(TEXTS, precision="bf16")

    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert (half * full).sum(axis=1).min() > 0.99
    assert np.abs(half - full).max() > 0


def test_fp32_is_not_cast():
    with autocast(torch.device("cpu"), "fp32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast(torch.device("cpu"), "bf16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


class TimedEncoder:
    """Embeds nothing, and moves a fake clock on by the given seconds."""

    def __init__(self, seconds, monkeypatch):
        self.device, self.seconds, self.clock, self.calls = torch.device("cpu"), seconds, 0.0, 0
        monkeypatch.setattr("aisle.models.precision.time.perf_counter", lambda: self.clock)

    def encode_products(self, texts, *, precision):
        self.calls += 1
        # The first call of each type is slow: kernels are compiled for it.
        self.clock += self.seconds[precision] + (50 if self.calls <= 2 else 0)


@pytest.mark.parametrize(
    ("capabilities", "seconds", "texts", "precision"),
    [
        ({"avx512_bf16": True}, {"fp32": 3, "bf16": 2}, 2000, "bf16"),
        ({"avx512_bf16": True}, {"fp32": 2, "bf16": 3}, 2000, "fp32"),
        ({"amx_bf16": True}, {"fp32": 3, "bf16": 2}, 2000, "bf16"),
        ({"avx2": True}, {"fp32": 3, "bf16": 2}, 2000, "fp32"),
        ({"amx_bf16": True}, {"fp32": 3, "bf16": 2}, 20, "fp32"),
    ],
)
def test_the_faster_compute_type_is_chosen_where_the_cpu_has_both(
    capabilities, seconds, texts, precision, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert fastest_precision(TimedEncoder(seconds, monkeypatch), ["sofa"] * texts) == precision


def test_minilm_ranks_by_meaning(minilm):
    encoder = load_encoder(minilm, device="cpu")

    query = encoder.encode_queries(["shoes for jogging"])
    products = encoder.encode_products(
        ["running sneakers", "espresso machine", "jogging in the park, a novel"]
    )

    scores = (query @ products.T)[0]
    assert scores.argmax() == 0
    assert scores.argmin() == 1


def test_a_repeated_text_is_encoded_once_and_counted_each_time(tiny_bert):
    encoder = load_encoder(tiny_bert, device="cpu")
    read, told = [], []
    encoder.model.product_tower.register_forward_pre_hook(
        lambda _, inputs: read.extend(len(batch) for batch in inputs[0])
    )

    embeddings = encoder.encode_products(["sofa", "lamp", "sofa", "sofa"], on_progress=told.append)

    assert sum(read) == 2
    assert sum(told) == 4
    assert np.array_equal(embeddings[0], embeddings[2])
    assert np.array_equal(embeddings[0], embeddings[3])
    assert not np.array_equal(embeddings[0], embeddings[1])


def batches_read_by(encoder):
    """Return a list to which every batch that the model reads is added."""
    read = []
    encoder.model.product_tower.register_forward_pre_hook(lambda _, inputs: read.extend(inputs[0]))
    return read


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_texts_are_encoded_without_padding(precision, tiny_bert):
    encoder = load_encoder(tiny_bert, device="cpu")
    read = batches_read_by(encoder)

    encoder.encode_products(["sofa", "a red lamp"], precision=precision)

    (batch,) = read
    assert isinstance(batch, PackedBatch)
    assert batch.read_tokens == 3 + 5  # special tokens counted


def test_a_model_that_cannot_read_packed_texts_gets_padded_texts(tiny_model):
    encoder = load_encoder(tiny_model("mpnet"), device="cpu")
    read = batches_read_by(encoder)

    encoder.encode_products(["sofa", "a red lamp"])

    assert {type(batch) for batch in read} == {PaddedBatch}


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "qwen3"])
def test_padded_and_packed_texts_have_the_same_embeddings(architecture, tiny_model, monkeypatch):
    packed = load_encoder(tiny_model(architecture), device="cpu").encode_products(TEXTS)
    monkeypatch.setattr("aisle.models.tower.why_padded", lambda *_, **__: "a test")
    encoder = load_encoder(tiny_model(architecture), device="cpu")
    read = batches_read_by(encoder)

    padded = encoder.encode_products(TEXTS, max_tokens=100)

    assert {type(batch) for batch in read} == {PaddedBatch}
    np.testing.assert_allclose(padded, packed, atol=1e-5)


def test_packing_is_tried_once_for_each_compute_type(tiny_bert, monkeypatch):
    tried = []
    monkeypatch.setattr("aisle.models.tower.why_padded", lambda *_, **how: tried.append(how))
    encoder = load_encoder(tiny_bert, overrides=Overrides(max_length=24), device="cpu")

    for precision in ("fp32", "bf16", "fp32", "bf16"):
        encoder.encode_products(["sofa", "lamp"], precision=precision)

    assert [how["max_length"] for how in tried] == [24, 24]


def test_a_single_query_is_embedded_without_trying_packing(tiny_bert, monkeypatch):
    monkeypatch.setattr("aisle.models.tower.why_padded", lambda *_, **__: pytest.fail("tried out"))

    assert load_encoder(tiny_bert, device="cpu").encode_queries(["red sofa"]).shape == (1, 32)
