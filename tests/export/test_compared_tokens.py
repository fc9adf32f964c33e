"""An export compares the tokens of 1,000 texts, and refuses a tokenizer that a bundle cannot contain."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import normalizers

from aisle.bundle.onnx_encoder import load_bundle
from aisle.cli import main
from aisle.errors import ModelError
from aisle.export.gates import check_tokens
from aisle.export.sample_texts import SampleTexts
from aisle.export.write_bundle import ExportOptions, write_bundle
from aisle.models.loading import load_encoder
from tests.bundle.test_bundle_tokenizer import TEXTS
from tests.tiny_models import TOKENIZER_FILES
from tests.trained_tokenizers import WRITERS

UNUSUAL = {
    "cut off": ["steel espresso machine " * 60, "a " * 61, "a " * 62, "a " * 63, "a " * 64, "lamp"],
    "very long": ["red sofa, " * 10_000, "x" * 100_000, "lamp"],
    "without a word": ["", " ", "\t\n", "\u200b", "\ufeff", "\x00", "\u00ad"],
    "composed and decomposed": ["caf\u00e9", "cafe\u0301", "\u212b", "A\u030a", "\u1e69", "s\u0307\u0323"],
    "zero width": ["so\u200bfa", "so\u200dfa", "\u2060sofa", "sofa\ufeff", "\u202esofa\u202c", "so\u00adfa"],
    "rare characters": ["\U0010ffff", "\ufffe \ufffd", "\ue000", "\U0001f6cb\ufe0f", "\u2028", "\x1b[0m"],
    "special tokens": ["a <pad> b", "<pad>", "<pad> <pad> c", "</s> y", "<s>", "<mask>", "<|endoftext|> z"],
}
"""Texts on which the text handling of two encoders may differ."""
PROMPTS = {"alone": "", "prompt": "query: ", "long prompt": "search for " * 100}
SAMPLE = SampleTexts(("red sofa", "lamp"), ("wooden chair", "steel table for the garden", "blue bed"))


@pytest.fixture(scope="module", params=WRITERS)
def source(request, tiny_model, tmp_path_factory):
    """An encoder with the kind of tokenizer that its architecture has."""
    folder = tmp_path_factory.mktemp("model") / request.param
    shutil.copytree(tiny_model(request.param), folder)
    for name in TOKENIZER_FILES:
        (folder / name).unlink()
    return load_encoder(WRITERS[request.param](folder), device="cpu")


@pytest.fixture(scope="module")
def bundle(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "bundle"
    write_bundle(source, folder, ExportOptions("fp32", SAMPLE))
    return folder


@pytest.fixture(scope="module")
def exported(bundle):
    return load_bundle(bundle)


def test_a_bundle_has_the_tokens_and_embeddings_of_its_source(source, exported):
    assert exported.bundle.gates.figures["texts_with_equal_tokens"] == 1000
    assert exported.encode_products(TEXTS) == pytest.approx(source.encode_products(TEXTS), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "prompt"),
    [(kind, prompt) for kind in UNUSUAL for prompt in PROMPTS if kind != "very long" or prompt == "prompt"],
)
def test_a_bundle_reads_unusual_texts_as_its_source_does(kind, prompt, source, exported):
    texts, given = UNUSUAL[kind], PROMPTS[prompt]

    found, expected = (one.tokenize(texts, prompt=given, marked=True) for one in (exported, source))

    for name in ("ids", "offsets", "marks"):
        np.testing.assert_array_equal(getattr(found.tokens, name), getattr(expected.tokens, name))
    together = source.encode_texts(texts, prompt=given)
    assert exported.encode_texts(texts, prompt=given) == pytest.approx(together, abs=1e-5)
    for encoder in (source, exported):
        assert encoder.encode_texts(texts[-1:], prompt=given) == pytest.approx(together[-1:], abs=1e-5)


def test_a_bundle_refuses_a_lone_surrogate_as_its_source_does(source, exported):
    messages = []
    for encoder in (source, exported):
        with pytest.raises(ModelError, match=r"texts\[1\] must be Unicode; found a lone surrogate") as caught:
            encoder.encode_products(["lamp", "so\ud800fa"])
        messages.append(str(caught.value))

    assert messages[0] == messages[1]


def test_another_normaliser_is_found_whatever_the_tokenizer(source, bundle):
    exported = load_bundle(bundle)
    exported.tokenizer._backend.normalizer = normalizers.Lowercase()

    with pytest.raises(ModelError, match="other tokens than its tokenizer for the text"):
        check_tokens(source, exported, SAMPLE)


def test_a_setting_that_tokenizer_json_leaves_out_is_found(source, tmp_path, monkeypatch):
    monkeypatch.setattr(source.tokenizer, "split_special_tokens", True)

    with pytest.raises(ModelError, match=r"its tokenizer\.json gives other tokens .* cannot contain"):
        write_bundle(source, tmp_path / "bundle", ExportOptions("fp32", SAMPLE))

    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_python_code_is_one_message_that_names_it(tiny_bert, tmp_path, capfd):
    model = tmp_path / "japanese"
    shutil.copytree(tiny_bert, model)
    (model / "tokenizer.json").unlink()
    settings = {
        "tokenizer_class": "BertJapaneseTokenizer",
        "word_tokenizer_type": "basic",
        "subword_tokenizer_type": "character",
    }
    (model / "tokenizer_config.json").write_text(json.dumps(settings))

    code = main(["export", str(model), "--output_dir", str(tmp_path / "bundles" / "japanese")])

    message = capfd.readouterr().err
    assert code == 2
    assert message.count("error:") == 1
    assert "its tokenizer, BertJapaneseTokenizer, runs its own Python code" in message
    assert not list((tmp_path / "bundles").iterdir())
