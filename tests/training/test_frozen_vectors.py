"""Cached vectors of a frozen encoder equal fresh ones, and each text is encoded once."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aisle.errors import TrainingError
from aisle.io.embedding_cache import EmbeddingCache
from aisle.models.loading import load_base
from aisle.models.model_source import find_model
from aisle.models.prepare_model import prepare_model
from aisle.models.tower import Tower
from aisle.text.batch_layout import device_layout, encoded_layout
from aisle.text.token_batches import EncodedBatch, pad, split
from aisle.text.tokens import tokenize
from aisle.training import frozen_vectors as module
from aisle.training.frozen_vectors import cache_folder, frozen_vectors
from aisle.types.encoder_settings import Overrides
from aisle.types.head_options import HeadOptions

TEXTS = ["red sofa", "lamp", "a usb c cable for an old telephone", "espresso machine", "red sofa", "a"]


@pytest.fixture(scope="module")
def model(tiny_bert):
    """A tower with a frozen encoder, and a function that tokenises texts for it."""
    loaded = load_base(find_model(str(tiny_bert)), overrides=Overrides())
    tower = prepare_model(loaded, lora=None, head=HeadOptions("gated"), freeze_encoder=True)

    def tokens(texts, *, prompt="", max_length=16):
        return tokenize(loaded.tokenizer, texts, prompt=prompt, max_length=max_length)

    return tower, tokens


@pytest.fixture
def encode(model, tmp_path, monkeypatch):
    """Return a function that encodes texts through a cache; `encode.texts` counts the texts encoded."""
    tower, _ = model
    own = tower.encode

    def counted(batch):
        run.texts += len(batch)
        return own(batch)

    def run(tokens, *, rank=0, ranks=1, folder=tmp_path / "cache", cache=None):
        monkeypatch.setattr(tower, "encode", counted)
        accelerator = SimpleNamespace(
            device=torch.device("cpu"),
            process_index=rank,
            num_processes=ranks,
            autocast=lambda: torch.autocast("cpu", enabled=False),
            wait_for_everyone=lambda: None,
        )
        layout = device_layout(torch.device("cpu"), packed=True, pad_token_id=0, max_tokens=12)
        cache = EmbeddingCache(folder, dim=32) if cache is None else cache
        return frozen_vectors(
            cache, tokens, tower, layout=layout, accelerator=accelerator, log=lambda _: None
        )

    run.texts = 0
    return run


def fresh(model, tokens):
    """The vectors of texts, each encoded by itself."""
    tower, _ = model
    batches = [pad(tokens, np.array([row]), 0) for row in range(len(tokens))]
    return torch.cat([Tower.encode(tower, batch) for batch in batches]).numpy()


def test_cached_vectors_equal_fresh_ones_and_equal_texts_are_encoded_once(model, encode):
    tokens = model[1](TEXTS)

    found = encode(tokens)(np.arange(len(TEXTS)))

    np.testing.assert_allclose(found, fresh(model, tokens), atol=1e-5)
    assert encode.texts == 5


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [2, 0, 2]])
def test_reordered_rows_find_their_own_vectors(order, model, encode):
    encode(model[1](TEXTS))
    tokens = model[1]([TEXTS[row] for row in order])

    found = encode(tokens)(np.arange(len(order)))

    np.testing.assert_allclose(found, fresh(model, tokens), atol=1e-5)
    assert encode.texts == 5


@pytest.mark.parametrize(
    ("change", "added"),
    [({"prompt": "query: "}, 5), ({"max_length": 4}, 2)],
)
def test_another_prompt_or_length_gives_other_vectors(change, added, model, encode):
    encode(model[1](TEXTS))
    tokens = model[1](TEXTS, **change)

    found = encode(tokens)(np.arange(len(TEXTS)))

    np.testing.assert_allclose(found, fresh(model, tokens), atol=1e-5)
    assert encode.texts == 5 + added


def test_only_an_edited_row_is_encoded_again(model, encode):
    encode(model[1](TEXTS))
    tokens = model[1](["blue sofa", *TEXTS[1:]])

    found = encode(tokens)(np.arange(len(TEXTS)))

    np.testing.assert_allclose(found, fresh(model, tokens), atol=1e-5)
    assert encode.texts == 6


def test_ranks_share_the_work(model, encode, tmp_path, monkeypatch):
    """The first rank meets a cache without the other's share: the others add it while it waits."""
    tokens = model[1](TEXTS)
    with pytest.raises(TrainingError, match="start the run again"):
        encode(tokens, rank=1, ranks=2)
    assert encode.texts == 2

    found = encode(tokens, rank=0, ranks=2)(np.arange(len(TEXTS)))

    assert encode.texts == 5
    np.testing.assert_allclose(found, fresh(model, tokens), atol=1e-5)


def test_an_interrupted_run_keeps_the_vectors_that_it_wrote(model, encode, monkeypatch, tmp_path):
    tokens = model[1](TEXTS)
    monkeypatch.setattr(module, "MOST_TEXTS", 1)
    cache = EmbeddingCache(tmp_path / "cache", dim=32)
    add, added = cache.add, []

    def fail_at_the_second(keys, vectors):
        if added:
            raise OSError(28, "No space left on device")
        add(keys, vectors)
        added.extend(keys)

    cache.add = fail_at_the_second
    with pytest.raises(TrainingError, match=r"cannot be written: .*No space left.* --embedding_cache"):
        encode(tokens, cache=cache)
    before = encode.texts

    found = encode(tokens)(np.arange(len(TEXTS)))

    assert encode.texts - before == 5 - len(added) < 5
    np.testing.assert_allclose(found, fresh(model, tokens), atol=1e-5)


def test_another_encoder_or_precision_has_another_folder(tmp_path):
    folders = {
        cache_folder(tmp_path, fingerprint=fingerprint, precision=precision)
        for fingerprint in ("a" * 64, "b" * 64)
        for precision in ("no", "bf16")
    }

    assert len(folders) == 4


def test_a_batch_of_vectors_gives_the_embeddings_of_its_tokens(model, encode):
    tower, tokenized = model
    tokens = tokenized(TEXTS)
    rows = np.array([3, 0, 2])
    with_vectors = replace(tokens, vectors=encode(tokens))
    layout = device_layout(torch.device("cpu"), packed=True, pad_token_id=0)

    batch = encoded_layout(layout).batch(with_vectors, rows)

    assert isinstance(batch, EncodedBatch)
    assert (len(batch), batch.read_tokens) == (3, int(tokens.lengths(rows).sum()))
    torch.testing.assert_close(tower([batch]), tower([pad(tokens, rows, 0)]), atol=1e-5, rtol=0)


def test_a_batch_of_vectors_is_split_in_order():
    vectors = torch.arange(14.0).view(7, 2)

    parts = split(EncodedBatch(vectors, 35), 15)

    assert [len(part) for part in parts] == [3, 3, 1]
    assert [part.read_tokens for part in parts] == [15, 15, 5]
    assert torch.equal(torch.cat([part.vectors for part in parts]), vectors)
