"""Marks of cut texts and of texts without a known token, compared with the tokenizer's output."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from aisle.text.tokens import tokenize
from aisle.types.text_marks import CUT, UNKNOWN, count_marks

TEXTS = [
    "red sofa",
    "a " * 5,
    "a " * 6,
    "a " * 7,
    "lamp " * 300,
    "\u2603",
    "\u2603 \u2604",
    "\u2603 sofa",
    "",
    "\u200e",
    "a",
]
PROMPTS = ["", "passage: ", "query:"]


@pytest.fixture(scope="module")
def tokenizer(minilm_dir):
    return AutoTokenizer.from_pretrained(minilm_dir)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("max_length", [8, 10, 64])
def test_a_text_is_marked_as_cut_if_and_only_if_it_exceeds_the_maximum_length(tokenizer, prompt, max_length):
    marks = tokenize(tokenizer, TEXTS, prompt=prompt, max_length=max_length, marked=True).marks

    whole = [len(tokenizer(prompt + text, verbose=False)["input_ids"]) for text in TEXTS]
    assert (marks & CUT > 0).tolist() == [length > max_length for length in whole]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_text_is_marked_as_unknown_if_it_has_no_known_token(tokenizer, prompt):
    marks = tokenize(tokenizer, TEXTS, prompt=prompt, max_length=64, marked=True).marks

    unknown = [text for text, mark in zip(TEXTS, marks, strict=True) if mark & UNKNOWN]
    assert unknown == ["\u2603", "\u2603 \u2604", "", "\u200e"]


def test_a_tokenizer_without_encodings_gives_the_same_marks(tokenizer):
    """Slow tokenizers have no encodings."""

    class Slow:
        unk_token_id, pad_token_id = tokenizer.unk_token_id, tokenizer.pad_token_id
        decode = staticmethod(tokenizer.decode)

        def __call__(self, *arguments, **options):
            found = tokenizer(*arguments, **options)
            return type("Encoded", (dict,), {"encodings": None})(found)

    fast, slow = (
        tokenize(one, TEXTS, prompt="query: ", max_length=10, marked=True).marks
        for one in (tokenizer, Slow())
    )

    assert fast.tolist() == slow.tolist()


def test_tokens_are_the_same_with_and_without_marks(tokenizer):
    plain, marked = (
        tokenize(tokenizer, TEXTS, prompt="", max_length=8, marked=marked) for marked in (False, True)
    )

    np.testing.assert_array_equal(plain.ids, marked.ids)
    assert plain.marks is None


def test_marks_are_counted_by_bit():
    counts = count_marks(np.array([0, CUT, UNKNOWN, CUT | UNKNOWN, CUT], np.uint8))

    assert counts == {"truncated_texts": 3, "unknown_texts": 2}
