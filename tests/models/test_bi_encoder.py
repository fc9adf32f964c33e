"""Two towers: each embeds its side, and a step trains both."""

import copy

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from aisle.errors import ModelError
from aisle.models.bi_encoder import BiEncoder
from aisle.models.dense import Dense
from aisle.models.encoder import TorchEncoder
from aisle.models.heads import Normalize
from aisle.models.loading import load_base, load_encoder
from aisle.models.model_source import find_model
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower
from aisle.text.batch_layout import device_layout
from aisle.text.side_tokenizers import SideTokenizer, SideTokenizers
from aisle.training.tokenized import tokenize_pairs
from aisle.training.validation import embed_texts
from aisle.types.encoder_settings import Overrides
from tests.training.conftest import collator_of, trainer_of

QUERIES = ["sofa", "red lamp", "desk", "usb cable", "sofa", "lamp"]
PRODUCTS = ["a red sofa", "lamp", "oak desk for two", "cable usb c 2 m", "sofa", "red lamp"]


@pytest.fixture
def base(tiny_bert):
    return load_base(find_model(str(tiny_bert)), overrides=Overrides(max_length=24))


@pytest.fixture
def towers(tiny_model):
    """A query tower and a product tower of different architectures."""
    return [
        load_base(find_model(str(tiny_model(name))), overrides=Overrides(max_length=24)).tower().eval()
        for name in ("bert", "distilbert")
    ]


def encoder_of(model, tiny_bert):
    plain = load_encoder(tiny_bert, device="cpu")
    return TorchEncoder(model, plain.tokenizer, plain.settings, "b" * 64, "a" * 64, name="two towers")


def test_each_side_is_embedded_by_its_own_tower(towers, tiny_model, tiny_bert):
    encoder = encoder_of(BiEncoder(*towers).eval(), tiny_bert)
    query_side, product_side = (
        load_encoder(tiny_model(name), device="cpu") for name in ("bert", "distilbert")
    )

    queries, products = encoder.encode_queries(QUERIES), encoder.encode_products(QUERIES)

    np.testing.assert_allclose(queries, query_side.encode_queries(QUERIES), atol=1e-6)
    np.testing.assert_allclose(products, product_side.encode_products(QUERIES), atol=1e-6)
    assert np.abs(queries - products).max() > 0.1
    assert (encoder.query_fingerprint, encoder.fingerprint) == ("a" * 64, "b" * 64)


def test_without_a_second_tower_one_tower_embeds_both_sides(towers):
    shared, separate = BiEncoder(towers[0]), BiEncoder(*towers)

    assert shared.query_tower is shared.product_tower
    assert (shared.separate_sides, separate.separate_sides) == (False, True)
    assert (len(shared.towers), len(separate.towers)) == (1, 2)


def test_a_deep_copy_still_shares_its_tower(towers):
    copied = copy.deepcopy(BiEncoder(towers[0]))

    assert copied.query_tower is copied.product_tower


def test_towers_of_different_dimensions_are_refused(towers):
    longer = Tower(towers[1].backbone, Pooling("mean"), [Dense(32, 8, bias=True, activation="Tanh")])

    with pytest.raises(ModelError, match=r"query tower's embeddings have 32 components, .* tower's have 8"):
        BiEncoder(towers[0], longer)


def pairs_of(tokenizer):
    import datasets

    from aisle.data.pairs import Pairs

    side = SideTokenizer(tokenizer, "", max_length=24)
    table = datasets.Dataset.from_dict({"query": QUERIES, "product": PRODUCTS})
    return tokenize_pairs(Pairs(table), SideTokenizers(side, side, separate=True))


def layout_of(model, *, packed):
    return device_layout(
        torch.device("cpu"), packed=packed, pad_token_id=0, max_tokens=32, separate_sides=model.separate_sides
    )


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_training_steps_move_the_weights_of_both_towers(cached, packed, towers, base):
    model = BiEncoder(*towers)
    pairs = pairs_of(base.tokenizer)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = trainer_of(
        base, pairs, tower=model, loss="in_batch", cached=cached, packed=packed, max_tokens=32, total_steps=3
    )

    trainer.run()

    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in moved} == {"query_tower", "product_tower"}


def test_a_batch_has_the_embeddings_of_each_tower_alone(towers, tiny_bert):
    """The oracle embeds queries with one tower and products with the other, without aisle's batches."""
    accelerator = Accelerator(cpu=True)
    model = BiEncoder(*towers)
    encoder = encoder_of(model.eval(), tiny_bert)
    pairs = pairs_of(encoder.tokenizer)
    batch = collator_of(pairs, separate=True)(np.arange(6))

    embedded = model(batch.token_batches)

    with torch.no_grad():
        found = embedded[batch.query_rows].numpy(), embedded[batch.product_rows].numpy()
    np.testing.assert_allclose(found[0], encoder.encode_queries(QUERIES), atol=1e-5)
    np.testing.assert_allclose(found[1], encoder.encode_products(PRODUCTS), atol=1e-5)
    numbers = np.concatenate([pairs.products[::-1], pairs.queries])
    validated = embed_texts(
        accelerator, model, pairs.texts, numbers, layout=layout_of(model, packed=True), max_texts=2
    )
    np.testing.assert_allclose(validated[:6].numpy()[::-1], found[1], atol=1e-5)
    np.testing.assert_allclose(validated[6:].numpy(), found[0], atol=1e-5)


def test_a_mixed_batch_is_refused_by_separate_towers(towers, tiny_bert):
    model = BiEncoder(*towers)
    tokens = load_encoder(tiny_bert, device="cpu").tokenize(["sofa"], prompt="").tokens
    mixed = device_layout(torch.device("cpu"), packed=True, pad_token_id=0).batch(tokens, np.arange(1))

    with pytest.raises(ValueError, match="need batches of a single side"):
        model([mixed])


def test_normalize_is_the_last_head_of_a_loaded_tower(towers):
    assert isinstance(towers[0].heads[-1], Normalize)
