from itertools import pairwise

import numpy as np
import pytest
import torch

from aisle.text.batch_layout import Layout, device_layout, length_groups
from aisle.text.token_batches import PaddedBatch, pack, pad, split
from aisle.text.tokens import TokenizedTexts, offsets_of

CPU = torch.device("cpu")


def tokens_of(*texts):
    return TokenizedTexts(
        np.array([token for text in texts for token in text], np.int32), offsets_of([len(t) for t in texts])
    )


def texts_of_lengths(*lengths):
    """Return texts in which no two tokens are equal."""
    return TokenizedTexts(np.arange(sum(lengths), dtype=np.int32) + 10, offsets_of(np.array(lengths)))


def layout(*, packed, max_tokens=64, group_cost=32):
    return Layout(packed=packed, max_tokens=max_tokens, group_cost=group_cost, pad_token_id=0)


def texts_in(batch):
    """Return the token ids of each text in a batch."""
    if isinstance(batch, PaddedBatch):
        rows = zip(batch.input_ids, batch.attention_mask.bool(), strict=True)
        return [ids[mask].tolist() for ids, mask in rows]
    return [batch.input_ids[start:end].tolist() for start, end in pairwise(batch.offsets)]


def test_padding_is_on_the_right_and_masked():
    batch = pad(tokens_of([7, 8, 9], [4]), np.array([0, 1]), pad_token_id=1)

    assert batch.input_ids.tolist() == [[7, 8, 9], [4, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert (len(batch), batch.read_tokens) == (2, 6)


def test_a_padding_token_inside_a_text_is_not_masked():
    batch = pad(tokens_of([7, 1, 9], [4]), np.array([0, 1]), pad_token_id=1)

    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_texts_are_padded_to_the_longest_of_their_own_batch():
    batch = pad(tokens_of([7, 8, 9], [4], [5, 6]), np.array([2, 1]), pad_token_id=0)

    assert batch.input_ids.tolist() == [[5, 6], [4, 0]]


def test_packed_texts_are_concatenated_with_positions_from_zero_in_each():
    batch = pack(tokens_of([7, 8, 9], [4], [5, 6, 3], [2]), np.array([0, 2, 3, 1]))

    assert batch.input_ids.tolist() == [7, 8, 9, 5, 6, 3, 2, 4]
    assert batch.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 0]
    assert batch.offsets.tolist() == [0, 3, 6, 7, 8]
    assert batch.offsets.dtype == torch.int32  # the type that Flash Attention needs
    assert batch.runs == ((2, 3), (2, 1))
    assert (len(batch), batch.read_tokens, batch.longest) == (4, 8, 3)


def test_equal_lengths_that_are_not_neighbours_are_separate_runs():
    assert pack(tokens_of([7], [4, 5], [6]), np.arange(3)).runs == ((1, 1), (1, 2), (1, 1))


def test_packed_texts_have_no_padding_and_padded_texts_of_unequal_length_do():
    lengths = np.random.default_rng(0).integers(1, 40, size=200)
    texts = texts_of_lengths(*lengths)

    read = {}
    for packed in (True, False):
        chosen = layout(packed=packed, max_tokens=256)
        read[packed] = sum(chosen.batch(texts, rows).read_tokens for rows in chosen.rows(texts.lengths()))

    assert read[True] == lengths.sum()
    assert read[False] > lengths.sum()


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("max_tokens", [64, 256, 100_000])
def test_a_layout_covers_every_text_once_longest_first_within_the_limit(max_tokens, packed):
    lengths = np.random.default_rng(0).integers(1, 100, size=500)
    chosen, texts = layout(packed=packed, max_tokens=max_tokens), texts_of_lengths(*lengths)

    rows = chosen.rows(lengths)

    in_order = np.concatenate(rows)
    assert sorted(in_order.tolist()) == list(range(500))
    assert (np.diff(lengths[in_order]) <= 0).all()
    assert all(len(some) == 1 or chosen.batch(texts, some).read_tokens <= max_tokens for some in rows)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_layout_gives_the_texts_of_each_batch(packed):
    texts = texts_of_lengths(3, 9, 1, 3, 5, 9)
    chosen = layout(packed=packed, max_tokens=12, group_cost=2)

    for rows in chosen.rows(texts.lengths()):
        assert texts_in(chosen.batch(texts, rows)) == [texts[row].tolist() for row in rows]


def test_packed_batches_are_filled_up_to_the_limit():
    rows = layout(packed=True, max_tokens=10).rows(np.array([4, 3, 6, 3, 4]))

    assert [some.tolist() for some in rows] == [[2, 0], [4, 1, 3]]  # 6 + 4, 4 + 3 + 3


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_text_longer_than_the_limit_is_a_batch_by_itself(packed):
    rows = layout(packed=packed, max_tokens=64).rows([3, 200, 3])

    assert [some.tolist() for some in rows] == [[1], [0, 2]]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_no_texts_give_no_batches(packed):
    assert layout(packed=packed).rows([]) == []


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_texts_of_equal_length_keep_their_order(packed):
    rows = layout(packed=packed, max_tokens=100_000).rows([2, 5, 2, 5, 2])

    assert np.concatenate(rows).tolist() == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("max_tokens", [1, 5, 6, 9, 17, 1000])
def test_the_parts_of_a_batch_contain_its_texts_in_order_within_the_limit(max_tokens, packed):
    texts = texts_of_lengths(6, 6, 5, 4, 4, 4, 1, 1)
    whole = layout(packed=packed).batch(texts, np.arange(8))

    parts = split(whole, max_tokens)

    assert [ids for part in parts for ids in texts_in(part)] == [text.tolist() for text in texts]
    assert all(part.read_tokens <= max_tokens or len(part) == 1 for part in parts)


@pytest.mark.parametrize("max_tokens", [1, 9, 17])
def test_a_part_of_a_packed_batch_equals_the_batch_of_its_texts(max_tokens):
    texts = texts_of_lengths(6, 6, 5, 4, 4, 4, 1, 1)
    first = 0

    for part in split(pack(texts, np.arange(8)), max_tokens):
        own = pack(texts, np.arange(first, first + len(part)))
        assert part.input_ids.tolist() == own.input_ids.tolist()
        assert part.positions.tolist() == own.positions.tolist()
        assert part.offsets.tolist() == own.offsets.tolist()
        assert part.offsets.dtype == own.offsets.dtype
        assert part.runs == own.runs
        first += len(part)
    assert first == 8


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_batch_within_the_limit_is_not_split(packed):
    whole = layout(packed=packed).batch(texts_of_lengths(3, 3), np.arange(2))

    (part,) = split(whole, 6)

    assert part is whole


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_batch_moves_to_a_device_with_all_its_tensors(packed):
    batch = layout(packed=packed).batch(texts_of_lengths(3, 2), np.arange(2))

    moved = batch.to(torch.device("meta"))

    assert type(moved) is type(batch)
    assert {one.device.type for one in vars(moved).values() if isinstance(one, torch.Tensor)} == {"meta"}
    assert len(moved) == 2


@pytest.mark.parametrize("group_cost", [0, 32, 10_000])
@pytest.mark.parametrize("max_tokens", [64, 256, 100_000])
def test_groups_contain_every_text_once_within_the_limit(max_tokens, group_cost):
    lengths = np.random.default_rng(0).integers(1, 100, size=500)

    groups = length_groups(lengths.tolist(), max_tokens=max_tokens, group_cost=group_cost)

    assert sorted(np.concatenate(groups).tolist()) == list(range(500))
    assert all(len(rows) == 1 or len(rows) * lengths[rows].max() <= max_tokens for rows in groups)
    assert lengths[groups[0]].max() == lengths.max()


def test_texts_without_tokens_can_be_grouped():
    assert length_groups([], max_tokens=64, group_cost=32) == []
    assert sum(len(rows) for rows in length_groups([0, 0, 4], max_tokens=64, group_cost=32)) == 3


def test_groups_have_the_lowest_cost_of_all_divisions():
    """The oracle tries all divisions of six sorted lengths into runs."""
    lengths = [40, 38, 20, 19, 5, 4]

    def cost(sizes):
        starts = np.cumsum([0, *sizes[:-1]])
        return sum(size * lengths[start] + 10 for start, size in zip(starts, sizes, strict=True))

    def divisions(count):
        yield from ([first, *rest] for first in range(1, count) for rest in divisions(count - first))
        yield [count]

    groups = length_groups(lengths, max_tokens=1000, group_cost=10)

    assert cost([len(rows) for rows in groups]) == min(map(cost, divisions(6)))
    assert np.concatenate(groups).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_the_users_limit_overrides_the_devices(packed):
    assert device_layout(CPU, packed=packed, pad_token_id=1, max_tokens=77).max_tokens == 77
    assert device_layout(CPU, packed=packed, pad_token_id=1).max_tokens > 77


def test_a_device_layout_packs_if_asked_and_pads_with_the_tokenizers_token():
    for packed in (True, False):
        chosen = device_layout(CPU, packed=packed, pad_token_id=9)
        assert (chosen.packed, chosen.pad_token_id) == (packed, 9)


def test_a_gpu_reads_more_at_a_time_than_a_cpu():
    for packed in (True, False):
        gpu = device_layout(torch.device("cuda"), packed=packed, pad_token_id=0)
        assert gpu.max_tokens > device_layout(CPU, packed=packed, pad_token_id=0).max_tokens


@pytest.mark.parametrize("packed", [True, False])
def test_parts_and_copies_of_a_batch_keep_its_side(packed):
    texts = TokenizedTexts(
        np.arange(9, dtype=np.int32), offsets_of(np.array([2, 2, 3, 2])), sides=np.array([1, 2, 1, 1])
    )
    separate = Layout(packed, max_tokens=4, group_cost=0, pad_token_id=0, separate_sides=True)
    queries, products = separate.by_tower(texts, np.array([3, 1, 0]))

    assert (queries.tolist(), products.tolist()) == ([3, 0], [1])
    for rows, side in ((queries, "query"), (products, "product")):
        batch = separate.batch(texts, rows)
        assert batch.side == side
        assert batch.to(CPU).side == side
        assert {part.side for part in split(batch, 2)} == {side}


def test_a_batch_of_a_shared_tower_has_no_side_and_texts_are_not_divided():
    mixed = layout(packed=True)
    texts = tokens_of([7], [8])

    assert [part.tolist() for part in mixed.by_tower(texts, np.array([1, 0]))] == [[1, 0]]
    assert mixed.batch(texts, np.array([0, 1])).side is None


def test_separate_towers_refuse_texts_without_sides():
    separate = Layout(True, max_tokens=4, group_cost=0, pad_token_id=0, separate_sides=True)

    with pytest.raises(ValueError, match="separate towers need texts with sides"):
        separate.by_tower(tokens_of([7]), np.array([0]))
