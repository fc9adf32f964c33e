"""Shards are put together from parts, and written in order by a thread."""

import threading

import numpy as np
import pytest

from aisle.commands.indexing import embedding
from aisle.commands.indexing.shard_queue import ShardPart, ShardQueue, parts_of
from aisle.models.encoder import TorchEncoder
from aisle.models.loading import load_encoder
from aisle.text.distinct_tokens import DistinctTokens
from aisle.text.tokens import TokenizedTexts, offsets_of

SHARDS = {4: np.arange(5), 7: np.arange(5, 7)}


def tokens_of(part):
    count = len(part.rows)
    marks = part.rows.astype(np.uint8)
    tokens = TokenizedTexts(np.zeros(count, np.int32), offsets_of(np.ones(count, np.int64)), marks)
    return DistinctTokens(tokens, np.arange(count), "product")


def run(write, texts_at_a_time):
    with ShardQueue(write) as shards:
        parts = parts_of(SHARDS, texts_at_a_time)
        for tokens in shards.noted((part, tokens_of(part)) for part in parts):
            shards.add(tokens.marks[:, None] * np.ones(3, np.float32))


@pytest.mark.parametrize("texts_at_a_time", [1, 2, 4, 5, 100, None])
def test_each_shard_is_written_once_with_all_its_parts_in_order(texts_at_a_time):
    written = []
    run(lambda *shard: written.append((*shard, threading.current_thread())), texts_at_a_time)

    assert [shard for shard, *_ in written] == [4, 7]
    for shard, embeddings, marks, thread in written:
        np.testing.assert_array_equal(marks, SHARDS[shard])
        np.testing.assert_array_equal(embeddings, np.repeat(SHARDS[shard][:, None], 3, axis=1))
        assert thread is not threading.current_thread()


def test_parts_follow_the_shards():
    assert [(part.shard, part.rows.tolist(), part.last) for part in parts_of(SHARDS, 3)] == [
        (4, [0, 1, 2], False),
        (4, [3, 4], True),
        (7, [5, 6], True),
    ]
    assert [type(part) for part in parts_of(SHARDS, None)] == [ShardPart] * 2


@pytest.mark.parametrize("bad", [4, 7])
def test_an_error_while_writing_is_raised(bad):
    def write(shard, *_):
        if shard == bad:
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run(write, 2)


def test_shards_embedded_in_parts_hold_the_embeddings_of_their_texts(tiny_bert, tmp_path, monkeypatch):
    import pyarrow as pa

    texts = [f"{'red ' * (row % 4)}sofa {row}" for row in range(12)]
    encoder = load_encoder(tiny_bert, device="cpu")
    expected = encoder.encode_products(texts)
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 5)
    monkeypatch.setattr(TorchEncoder, "texts_at_a_time", 2)
    products = pa.table({embedding.TEXT_COLUMN: texts})
    plan = embedding.plan_embeddings(products, None, made_by="a test")
    progress = []

    embedding.embed_shards(
        plan, products, encoder, tmp_path, precision="fp32", max_tokens=None, on_progress=progress.append
    )

    found = np.concatenate(list(embedding.embeddings_in_order(plan, None, tmp_path, dim=encoder.dim)))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert sum(progress) == 12
