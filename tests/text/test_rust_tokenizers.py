"""Token ids read from a Rust backend are those that the tokenizer itself returns."""

import numpy as np
import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from aisle.models.loading import load_tokenizer
from aisle.text import rust_tokenizers
from aisle.text.rust_tokenizers import encode, rust_backend
from aisle.text.tokens import tokenize
from tests.trained_tokenizers import TRAINING_TEXTS, byte_level, sentence_piece, word_level, word_piece

TEXTS = [
    *TRAINING_TEXTS,
    "a\x00b\tc\nd\u200b\ufeff",
    "x" * 500,
    "[CLS] usb [MASK] c [SEP] cable <s>",
    "☃☃☃",
]
BACKENDS = [byte_level, sentence_piece, word_piece, word_level]


@pytest.fixture(scope="module", params=[*BACKENDS, "minilm"], ids=lambda one: getattr(one, "__name__", one))
def tokenizer(request, minilm_dir):
    if request.param == "minilm":
        return load_tokenizer(minilm_dir)
    return PreTrainedTokenizerFast(tokenizer_object=request.param(), pad_token="[PAD]", unk_token="[UNK]")


@pytest.mark.parametrize("max_length", [4, 12, 512])
@pytest.mark.parametrize("side", ["right", "left"])
def test_ids_and_cuts_are_those_of_the_tokenizer(tokenizer, max_length, side, monkeypatch):
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    expected = tokenizer(TEXTS, truncation=True, max_length=max_length)

    assert rust_backend(tokenizer) is not None
    found, encodings = encode(tokenizer, TEXTS, max_length=max_length)

    assert found == expected["input_ids"]
    assert [bool(one.overflowing) for one in encodings] == [
        bool(one.overflowing) for one in expected.encodings
    ]


def test_tokens_and_marks_are_those_without_the_shortcut(tokenizer, monkeypatch):
    options = {"prompt": "a ", "max_length": 9, "marked": True}
    found = tokenize(tokenizer, TEXTS, **options)
    monkeypatch.setattr(rust_tokenizers, "rust_backend", lambda _: None)
    expected = tokenize(tokenizer, TEXTS, **options)

    for name in ("ids", "offsets", "marks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.marks.any()


def test_the_length_and_padding_of_an_earlier_call_do_not_count(tokenizer):
    expected = tokenizer(TEXTS)["input_ids"]
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=5)

    assert encode(tokenizer, TEXTS, max_length=2000)[0] == expected
    assert max(map(len, encode(tokenizer, TEXTS, max_length=7)[0])) == 7


def test_special_tokens_in_a_text_are_split_if_the_tokenizer_splits_them(tokenizer, monkeypatch):
    for split in (True, False):
        monkeypatch.setattr(tokenizer, "split_special_tokens", split)
        expected = tokenizer(TEXTS, truncation=True, max_length=99)["input_ids"]
        assert encode(tokenizer, TEXTS, max_length=99)[0] == expected


@pytest.mark.parametrize("method", ["__call__", "_encode_plus"])
def test_a_tokenizer_with_a_method_of_its_own_is_called_itself(method):
    def last_token_first(self, *texts, **options):
        encoded = getattr(PreTrainedTokenizerFast, method)(self, *texts, **options)
        return {"input_ids": [ids[::-1] for ids in encoded["input_ids"]]}

    backwards = type("Backwards", (PreTrainedTokenizerFast,), {method: last_token_first})
    reversing = backwards(tokenizer_object=word_piece(), pad_token="[PAD]")
    copied = Tokenizer.from_str(reversing.backend_tokenizer.to_str())
    plain = PreTrainedTokenizerFast(tokenizer_object=copied, pad_token="[PAD]")

    assert rust_backend(reversing) is None
    found = tokenize(reversing, TEXTS[:2], prompt="", max_length=50)
    assert found[0].tolist() == tokenize(plain, TEXTS[:2], prompt="", max_length=50)[0].tolist()[::-1]


class Letters:
    """Tokenizer without a backend."""

    pad_token_id = 0

    def __call__(self, texts, *, truncation, max_length):
        return {"input_ids": [[ord(letter) for letter in text][:max_length] for text in texts]}


def test_a_tokenizer_without_a_backend_is_called_itself():
    assert rust_backend(Letters()) is None
    assert tokenize(Letters(), ["ab", ""], prompt="", max_length=9).ids.tolist() == [97, 98, 0]
