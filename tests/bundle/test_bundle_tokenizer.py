"""A bundle's tokenizer gives the tokens of the model's, whatever its kind and whatever the text."""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from aisle.bundle.bundle_record import BundledTokenizer
from aisle.bundle.bundle_tokenizer import load_tokenizer_file
from aisle.models.tokenizers import load_tokenizer
from aisle.text.tokens import tokenize
from tests.trained_tokenizers import TRAINING_TEXTS, WRITERS, word_level

TEXTS = [
    *TRAINING_TEXTS,
    "Größe 42 \u2013 Schühe für 日本語の本, кофемашина, مصباح أحمر, तकिया",
    "🛋️ 🇩🇪 👩\u200d👩\u200d👧\u200d👦 👍🏽",
    "e\u0301cran a\u0308\u0323\u0302 \u0301 \u0e33 \u1112\u1161\u11ab",
    "a\x00b\x01\x1f\x7f\x85 tab\tnew\r\nline",
    "\u00a0\u2003\u200b\ufeff\u2028 zero width",
    "ﬁt İstanbul ẞ ΑΣ Ǆ ½ \u210c",
    "<s> sofa</s> <pad><mask> lamp <|endoftext|><|im_start|> [SEP]",
    "x" * 5_000,
    "steel espresso machine, " * 2_000,
    " leading and trailing ",
    "123,456.789 don't",
]


@pytest.fixture(scope="module", params=WRITERS)
def written(request, tmp_path_factory):
    """Folder of a tokenizer, and the tokenizer as a model loads it."""
    folder = WRITERS[request.param](tmp_path_factory.mktemp(request.param))
    return folder, load_tokenizer(folder)


def bundled(written, *, max_length):
    folder, tokenizer = written
    tokenizer.backend_tokenizer.save(str(folder / "bundled.json"))
    record = BundledTokenizer(tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.truncation_side)
    return load_tokenizer_file(folder / "bundled.json", record, max_length=max_length)


@pytest.mark.parametrize("max_length", [3, 16, 8192])
@pytest.mark.parametrize("prompt", ["", "query: "])
@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_and_marks_are_those_of_the_model(written, max_length, prompt, side, monkeypatch):
    tokenizer = written[1]
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    options = {"prompt": prompt, "max_length": max_length, "marked": True}

    found = tokenize(bundled(written, max_length=max_length), TEXTS, **options)
    expected = tokenize(tokenizer, TEXTS, **options)

    for name in ("ids", "offsets", "marks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_text_alone_has_the_tokens_that_it_has_in_a_batch(written):
    tokenizer = bundled(written, max_length=64)
    together = tokenize(tokenizer, TEXTS, prompt="", max_length=64)

    for number, text in enumerate(TEXTS):
        alone = tokenize(tokenizer, [text], prompt="", max_length=64)
        assert alone[0].tolist() == together[number].tolist()


def test_a_text_without_any_token_becomes_the_padding_token(tmp_path):
    """Only a tokenizer without special tokens leaves a text empty."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=word_level(), pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(tmp_path)
    texts = ["", " \t", "a", "\u200b a"]

    for prompt in ("", "a "):
        options = {"prompt": prompt, "max_length": 8, "marked": True}
        found = tokenize(bundled((tmp_path, tokenizer), max_length=8), texts, **options)
        expected = tokenize(tokenizer, texts, **options)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.lengths().tolist() == expected.lengths().tolist()
        assert found.marks.tolist() == expected.marks.tolist()
        assert prompt or found[0].tolist() == [tokenizer.pad_token_id]


def test_a_byte_level_tokenizer_knows_every_text_and_unigram_does_not(tmp_path):
    unknown = {}
    for name, write in WRITERS.items():
        folder = write(tmp_path / name)
        written = folder, load_tokenizer(folder)
        tokens = tokenize(
            bundled(written, max_length=64), ["☃", "sofa"], prompt="", max_length=64, marked=True
        )
        unknown[name] = tokens.marks.tolist()

    assert unknown == {"roberta": [0, 0], "qwen3": [0, 0], "xlm-roberta": [2, 0]}
