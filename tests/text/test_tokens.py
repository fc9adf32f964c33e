import numpy as np
import pytest

from aisle.models.loading import load_tokenizer
from aisle.text.tokens import TokenizedTexts, iter_tokenized, offsets_of, tokenize


@pytest.fixture(scope="module")
def tokenizer(minilm_dir):
    return load_tokenizer(minilm_dir)


class WordLengths:
    """Tokenizer with a token per word, the word's length, and no special tokens, like many decoders'."""

    pad_token_id = 5

    def __call__(self, texts, *, truncation, max_length):
        assert truncation
        return {"input_ids": [[len(word) for word in text.split()][:max_length] for text in texts]}


def tokens_of(*texts):
    return TokenizedTexts(
        np.array([token for text in texts for token in text], np.int32), offsets_of([len(t) for t in texts])
    )


def test_the_prompt_is_tokenised_with_the_text(tokenizer):
    (ids,) = tokenize(tokenizer, ["red shoes"], prompt="query: ", max_length=32)

    assert tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "query", ":", "red", "shoes", "[SEP]"]


def test_a_long_text_is_cut_to_the_maximum_length_and_keeps_its_special_tokens(tokenizer):
    (ids,) = tokenize(tokenizer, ["shoe " * 100], prompt="query: ", max_length=8)

    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens == ["[CLS]", "query", ":", "shoe", "shoe", "shoe", "shoe", "[SEP]"]


def test_texts_are_not_padded_to_the_length_in_the_tokenizer_file(tokenizer):
    """MiniLM's tokenizer.json pads to 128 and cuts at 128."""
    texts = tokenize(tokenizer, ["a", "b " * 300], prompt="", max_length=256)

    assert texts.lengths().tolist() == [3, 256]


def test_no_texts_give_no_token_ids(tokenizer):
    texts = tokenize(tokenizer, [], prompt="query: ", max_length=8)

    assert len(texts) == 0
    assert texts.offsets.tolist() == [0]
    assert texts.lengths().tolist() == []


def test_a_text_without_tokens_becomes_one_padding_token():
    texts = tokenize(WordLengths(), ["", "red shoes"], prompt="", max_length=8)

    assert texts.ids.tolist() == [5, 3, 5]
    assert texts.offsets.tolist() == [0, 1, 3]


def test_token_ids_are_concatenated_in_one_int32_array():
    texts = tokenize(WordLengths(), ["a bb", "ccc", "a a a"], prompt="", max_length=8)

    assert (texts.ids.dtype, texts.offsets.dtype) == (np.int32, np.int64)
    assert texts.ids.tolist() == [1, 2, 3, 1, 1, 1]
    assert [text.tolist() for text in texts] == [[1, 2], [3], [1, 1, 1]]


def test_texts_tokenised_in_parts_equal_those_tokenised_at_once(tokenizer, monkeypatch):
    products = [f"shoe {'long ' * (number % 7)}{number}" for number in range(23)]
    whole = tokenize(tokenizer, products, prompt="passage: ", max_length=9)

    monkeypatch.setattr("aisle.text.tokens.TEXTS_AT_A_TIME", 10)
    parts = list(iter_tokenized(tokenizer, products, prompt="passage: ", max_length=9))
    joined = tokenize(tokenizer, products, prompt="passage: ", max_length=9)

    assert [len(part) for part in parts] == [10, 10, 3]
    assert np.concatenate([part.ids for part in parts]).tolist() == whole.ids.tolist()
    assert joined.ids.tolist() == whole.ids.tolist()
    assert joined.offsets.tolist() == whole.offsets.tolist()


def test_rows_are_taken_in_the_given_order_with_repeats():
    texts = tokens_of([7, 8, 9], [4], [5, 6])

    assert texts.take(np.array([2, 0, 2])).tolist() == [5, 6, 7, 8, 9, 5, 6]
    assert texts.take(np.array([2, 0, 2])).dtype == np.int64  # the type for embedding look-ups
    assert texts.lengths(np.array([2, 0, 2])).tolist() == [2, 3, 2]


def test_no_rows_give_no_tokens():
    rows = np.empty(0, np.int64)

    assert tokens_of([7, 8]).take(rows).tolist() == []
    assert tokens_of([7, 8]).lengths(rows).tolist() == []


def test_rows_without_tokens_add_nothing():
    """Lists of hard negatives are stored like texts, and may be empty."""
    assert tokens_of([], [4, 5], [], [6]).take(np.array([0, 3, 2, 1])).tolist() == [6, 4, 5]


def test_offsets_start_at_zero_and_end_at_the_number_of_tokens():
    assert offsets_of(np.array([3, 0, 2])).tolist() == [0, 3, 3, 5]
    assert offsets_of(np.array([], dtype=np.int64)).tolist() == [0]
