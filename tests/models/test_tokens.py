import numpy as np
import pytest
import torch

from aisle.models.loading import load_tokenizer
from aisle.models.tokens import TokenBudget, length_groups, pad, token_budget, tokenize


@pytest.fixture(scope="module")
def tokenizer(minilm_dir):
    return load_tokenizer(minilm_dir)


def test_the_prompt_is_read_with_the_text(tokenizer):
    (ids,) = tokenize(tokenizer, ["red shoes"], prompt="query: ", max_length=32)

    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "query", ":", "red", "shoes", "[SEP]"]


def test_a_long_text_is_cut_to_the_maximum_length_and_keeps_its_special_tokens(tokenizer):
    (ids,) = tokenize(tokenizer, ["shoe " * 100], prompt="query: ", max_length=8)

    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens == ["[CLS]", "query", ":", "shoe", "shoe", "shoe", "shoe", "[SEP]"]


def test_texts_are_not_padded_to_the_length_that_the_tokenizer_file_asks_for(tokenizer):
    """MiniLM's tokenizer.json pads to 128 and cuts at 128."""
    short, long = tokenize(tokenizer, ["a", "b " * 300], prompt="", max_length=256)

    assert (len(short), len(long)) == (3, 256)


def test_no_texts_are_no_token_ids(tokenizer):
    assert tokenize(tokenizer, [], prompt="query: ", max_length=8) == []


def test_a_text_without_tokens_is_one_padding_token():
    class Bare:
        """Adds no special tokens, as many decoders' tokenizers."""

        pad_token_id = 5

        def __call__(self, texts, **options):
            return {"input_ids": [[len(word) for word in text.split()] for text in texts]}

    assert tokenize(Bare(), ["", "red shoes"], prompt="", max_length=8) == [[5], [3, 5]]


def test_padding_stands_on_the_right_and_is_masked():
    batch = pad([[7, 8, 9], [4]], pad_token_id=1)

    assert batch.input_ids.tolist() == [[7, 8, 9], [4, 1, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_a_padding_token_inside_a_text_is_not_masked():
    batch = pad([[7, 1, 9], [4]], pad_token_id=1)

    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("group_cost", [0, 32, 10_000])
@pytest.mark.parametrize("max_tokens", [64, 256, 100_000])
def test_groups_hold_every_text_once_and_keep_to_the_bound(max_tokens, group_cost):
    lengths = np.random.default_rng(0).integers(1, 100, size=500)

    groups = length_groups(lengths.tolist(), TokenBudget(max_tokens, group_cost))

    assert sorted(np.concatenate(groups).tolist()) == list(range(500))
    assert all(len(rows) == 1 or len(rows) * lengths[rows].max() <= max_tokens for rows in groups)
    assert lengths[groups[0]].max() == lengths.max()


def test_a_text_longer_than_the_bound_is_a_group_of_its_own():
    groups = length_groups([3, 200, 3], TokenBudget(max_tokens=64, group_cost=32))

    assert [rows.tolist() for rows in groups] == [[1], [0, 2]]


def test_texts_without_tokens_can_be_grouped():
    assert length_groups([], TokenBudget(64, 32)) == []
    assert sum(len(rows) for rows in length_groups([0, 0, 4], TokenBudget(64, 32))) == 3


def test_groups_cost_the_least_of_all_divisions():
    """All ways to cut six sorted lengths into runs, by brute force."""
    lengths = [40, 38, 20, 19, 5, 4]
    budget = TokenBudget(max_tokens=1000, group_cost=10)

    def cost(sizes):
        starts = np.cumsum([0, *sizes[:-1]])
        return sum(size * lengths[start] + 10 for start, size in zip(starts, sizes, strict=True))

    def divisions(count):
        yield from ([first, *rest] for first in range(1, count) for rest in divisions(count - first))
        yield [count]

    groups = length_groups(lengths, budget)

    assert cost([len(rows) for rows in groups]) == min(map(cost, divisions(6)))
    assert np.concatenate(groups).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_users_bound_goes_before_the_devices():
    assert token_budget(torch.device("cpu"), max_tokens=77).max_tokens == 77
    assert token_budget(torch.device("cpu")).max_tokens > 77
