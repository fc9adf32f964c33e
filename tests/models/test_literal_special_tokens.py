"""Texts that contain a special token as a word, and texts without a word, compared with other libraries."""

import numpy as np
import pytest

from aisle.models.loading import load_encoder
from aisle.text.token_batches import PackedBatch, PaddedBatch

TEXTS = [
    "a [PAD] b",
    "[PAD]",
    "[PAD] red sofa",
    "red sofa [PAD]",
    "red [unused0] sofa",  # the padding token of the models that count positions from it
    "[unused0]",
    "[unused0] [unused0] wooden table for the garden [unused0]",
    "[SEP] y",
    "x [CLS] [MASK] y",
    "</s> y",
    "<s>",
    "<pad>",
    "\ue000",
    "\ue000 lamp",
    "   \t ",
    "\u200b",
    "",
    "a plain wooden table",
]


@pytest.mark.parametrize(
    "architecture",
    ["bert", "roberta", "xlm-roberta", "mpnet", "distilbert", "modernbert", "qwen3", "mistral"],
)
def test_special_tokens_in_a_text_are_read_as_sentence_transformers_reads_them(
    architecture, save_run, tiny_model, monkeypatch
):
    from sentence_transformers import SentenceTransformer

    run = save_run(base=tiny_model(architecture), adapter=False, max_length=40)
    expected = SentenceTransformer(str(run), device="cpu").encode(TEXTS)
    kinds = []
    for why in (None, "a test"):
        if why is not None:
            monkeypatch.setattr("aisle.models.tower.why_padded", lambda *_, **__: "a test")
        encoder = load_encoder(run, device="cpu")
        read = []
        tower = encoder.model.product_tower
        tower.register_forward_pre_hook(lambda _, inputs, read=read: read.extend(inputs[0]))

        np.testing.assert_allclose(encoder.encode_products(TEXTS), expected, atol=1e-5)
        kinds += {type(batch) for batch in read}

    assert kinds == [PaddedBatch if architecture == "mpnet" else PackedBatch, PaddedBatch]
