"""An encoder shared by threads gives each thread the same embeddings as a single thread."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
import torch
from transformers import AutoModel

from aisle.models.bi_encoder import BiEncoder
from aisle.models.encoder import TorchEncoder
from aisle.models.heads import Normalize
from aisle.models.loading import load_encoder
from aisle.models.pooling import Pooling
from aisle.models.tower import Tower
from aisle.text.token_batches import pack, pad
from aisle.text.tokens import tokenize
from aisle.types.encoder_settings import Overrides

THREADS = 8
CALLS = 25
SHORT = ["red sofa", "lamp", "usb c cable", "espresso machine with a milk frother", "a", ""]
LONG = [text + " in a very long title that is cut off somewhere" * 9 for text in SHORT]
PROMPTS = Overrides(query_prompt="query: ", product_prompt="passage: ")


def calls_of(precisions):
    """Return `CALLS` calls of many kinds: one text or several, long or short, queries or products."""
    texts = [SHORT[:1], LONG[:1], SHORT, LONG, SHORT[2:] + LONG[:3], LONG[3:] + SHORT[:1]]
    kinds = list(product(("encode_queries", "encode_products"), precisions, texts))
    return [kinds[number * 7 % len(kinds)] for number in range(CALLS)]


def call(encoder, kind):
    side, precision, texts = kind
    return getattr(encoder, side)(texts, precision=precision, max_tokens=150)


def in_threads(work):
    """Run `work` in threads that start together; return the result of each."""
    start = threading.Barrier(THREADS)

    def run(number):
        start.wait()
        return work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(run, range(THREADS)))


def mixed_calls_agree(load, precisions):
    kinds = calls_of(precisions)
    alone = load()
    expected = [call(alone, kind) for kind in kinds]
    shared = load()

    def work(number):
        order = [(number * 3 + place) % CALLS for place in range(CALLS)]
        return [(place, call(shared, kinds[place])) for place in order]

    for found in in_threads(work):
        for place, embeddings in found:
            np.testing.assert_allclose(embeddings, expected[place], atol=2e-6, err_msg=str(kinds[place]))


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "mpnet", "qwen3"])
def test_mixed_calls_of_eight_threads_give_the_embeddings_of_one_thread(architecture, tiny_model):
    def load():
        return load_encoder(tiny_model(architecture), overrides=PROMPTS, device="cpu")

    mixed_calls_agree(load, ["fp32", "bf16"])


def test_threads_embed_padded_and_packed_batches_at_the_same_time(tiny_bert):
    encoder = load_encoder(tiny_bert, device="cpu")
    tokens = tokenize(encoder.tokenizer, SHORT + LONG, prompt="", max_length=64)
    rows = np.argsort(-tokens.lengths(), kind="stable")
    batches = [pack(tokens, rows), pad(tokens, rows, pad_token_id=0)]
    tower = encoder.model.product_tower
    with torch.inference_mode():
        expected = tower(batches[1:]).numpy()

    def work(number):
        with torch.inference_mode():
            return [tower([batches[(number + place) % 2]]).numpy() for place in range(CALLS)]

    for found in in_threads(work):
        for embeddings in found:
            np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_the_packing_check_runs_once_for_all_threads(tiny_bert, monkeypatch):
    tried = []

    def try_out(*_, **__):
        tried.append(True)
        threading.Event().wait(0.05)  # long enough for the others to ask as well

    monkeypatch.setattr("aisle.models.tower.why_padded", try_out)
    encoder = load_encoder(tiny_bert, device="cpu")

    in_threads(lambda _: encoder.encode_products(SHORT))

    assert tried == [True]


def test_an_encoder_never_switches_its_model_between_training_and_evaluation(tiny_bert, monkeypatch):
    """Another thread might compute in it at that moment, with dropout or with gradients."""
    encoder = load_encoder(tiny_bert, device="cpu")
    modules, switched, train = set(encoder.model.product_tower.modules()), [], torch.nn.Module.train

    def recorded(module, mode=True):
        switched.extend([mode] if module in modules else [])
        return train(module, mode)

    monkeypatch.setattr(torch.nn.Module, "train", recorded)

    encoder.encode_products(SHORT)
    encoder.encode_products(SHORT, precision="bf16")

    assert switched == []


class ChangesItself(torch.nn.Module):
    """A layer that keeps state from its last pass, as in some repositories' code."""

    __module__ = "transformers_modules.someone.modeling"

    def __init__(self):
        super().__init__()
        self.last = None

    def forward(self, hidden):
        self.last = hidden
        threading.Event().wait(0.001)
        return self.last


def test_threads_take_turns_with_a_model_that_has_state(tiny_bert):
    backbone = AutoModel.from_pretrained(tiny_bert, dtype=torch.float32)
    backbone.embeddings.dropout = ChangesItself()
    plain = load_encoder(tiny_bert, device="cpu")
    tower = Tower(backbone, Pooling("mean"), [Normalize()]).eval()
    encoder = TorchEncoder(
        BiEncoder(tower).eval(), plain.tokenizer, plain.settings, None, None, name="someone's"
    )

    def work(number):
        return [encoder.encode_queries([LONG[number % 6]]) for _ in range(5)]

    for number, found in enumerate(in_threads(work)):
        expected = plain.encode_queries([LONG[number % 6]])
        for embeddings in found:
            np.testing.assert_allclose(embeddings, expected, atol=1e-5)
