"""Parts of texts, tokenised ahead and embedded in half precision: as on a GPU, but on a CPU."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from aisle.models import device_queue, half_precision, tower_copies
from aisle.models import encoder as encoder_module
from aisle.models.device_queue import BATCHES_IN_FLIGHT, DeviceQueue
from aisle.models.half_precision import half_copy, weights_version
from aisle.models.loading import load_encoder
from aisle.text import distinct_tokens
from aisle.text.distinct_tokens import distinct_texts
from aisle.text.token_batches import pack
from aisle.text.tokens import tokenize
from aisle.types.encoder_settings import Overrides

TEXTS = [
    f"{colour} {noun}" * (1 + number % 3)
    for number, (colour, noun) in enumerate(
        (colour, noun) for colour in ("red", "blue", "wooden", "steel") for noun in ("sofa", "lamp", "bed")
    )
]
WITH_REPEATS = [*TEXTS, TEXTS[3], "", TEXTS[0], TEXTS[0]]


@pytest.fixture
def encoder(tiny_bert):
    return load_encoder(tiny_bert, overrides=Overrides(product_prompt="a "), device="cpu")


@pytest.fixture
def in_windows(monkeypatch):
    """Let encoders tokenise a few texts at a time, as on a GPU."""
    monkeypatch.setattr(encoder_module.TorchEncoder, "texts_at_a_time", 3)


def test_texts_tokenised_ahead_have_the_embeddings_of_all_at_once(encoder, monkeypatch):
    expected = encoder.encode_products(WITH_REPEATS)
    monkeypatch.setattr(encoder_module.TorchEncoder, "texts_at_a_time", 3)
    progress, drawn = [], []
    tokenize_window = distinct_tokens.tokenize
    monkeypatch.setattr(
        distinct_tokens, "tokenize", lambda *a, **b: drawn.append(len(a[1])) or tokenize_window(*a, **b)
    )

    found = encoder.encode_products(WITH_REPEATS, on_progress=progress.append)

    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert drawn == [3, 3, 3, 3, 1]  # each distinct text once
    assert sum(progress) == len(WITH_REPEATS)


@pytest.mark.parametrize("texts", [[], ["sofa"], ["sofa"] * 9])
def test_few_texts_are_embedded_in_windows_too(texts, encoder, in_windows):
    found = encoder.encode_products(texts)

    assert found.shape == (len(texts), 32)
    assert found.dtype == np.float32
    if texts:
        np.testing.assert_array_equal(found, np.repeat(found[:1], len(texts), axis=0))


def test_an_error_of_a_later_window_is_raised(encoder, in_windows, monkeypatch):
    real = distinct_tokens.tokenize

    def fails(tokenizer, texts, **options):
        if TEXTS[7] in texts:
            raise OSError("the disk is gone")
        return real(tokenizer, texts, **options)

    monkeypatch.setattr(distinct_tokens, "tokenize", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        encoder.encode_products(TEXTS)


def test_parts_come_in_order_including_empty_parts(encoder):
    parts = [encoder.tokenize_products(part) for part in (TEXTS[:5], [], TEXTS[5:6], TEXTS[6:])]
    found = []

    encoder.encode_parts(iter(parts), found.append, max_tokens=20)

    assert [len(part) for part in found] == [5, 0, 1, 6]
    np.testing.assert_allclose(np.concatenate(found), encoder.encode_products(TEXTS), atol=1e-6)


def test_equal_texts_are_in_the_same_window():
    texts = distinct_texts(["b", "a", "b", "c", "a", "d"])
    windows = list(texts.windows(2))

    assert [window.texts for window, _ in windows] == [["b", "a"], ["c", "d"]]
    assert [window.place.tolist() for window, _ in windows] == [[0, 0, 1, 1], [0, 1]]
    assert [numbers.tolist() for _, numbers in windows] == [[0, 2, 1, 4], [3, 5]]


class Events:
    """Replaces torch.cuda: an event records when the host waits for it."""

    def __init__(self):
        self.waits = 0

    def Event(self, blocking):  # noqa: N802
        assert blocking
        return SimpleNamespace(record=lambda stream: None, synchronize=self._wait)

    def current_stream(self, device):
        return None

    def _wait(self):
        self.waits += 1


@pytest.fixture
def events(monkeypatch):
    """A CPU that is treated like a GPU."""
    events = Events()
    monkeypatch.setattr(device_queue, "_cuda", events)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **how: empty(*shape, **how))
    return events


def test_the_host_waits_for_a_batch_once_enough_others_are_launched(events):
    queue, found = DeviceQueue(torch.device("cuda")), []
    for number in range(BATCHES_IN_FLIGHT):
        queue.add(torch.full((2,), float(number)), found.append)
    assert (events.waits, found) == (0, [])

    queue.add(torch.full((1,), 9.0), found.append)
    assert [one.tolist() for one in found] == [[0, 0]]
    assert events.waits == 1

    queue.drain()
    assert [one.tolist() for one in found] == [[0, 0], [1, 1], [9]]


def test_the_queue_does_not_change_embeddings(encoder, events, monkeypatch):
    expected = encoder.encode_products(WITH_REPEATS, max_tokens=20)
    monkeypatch.setattr(encoder_module, "DeviceQueue", lambda device: DeviceQueue(torch.device("cuda")))
    parts = [encoder.tokenize_products(part) for part in (WITH_REPEATS[:7], [], WITH_REPEATS[7:])]
    found = []

    encoder.encode_parts(parts, found.append, max_tokens=20)

    assert events.waits > 4
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)


@pytest.fixture
def tokens(encoder):
    texts = tokenize(encoder.tokenizer, TEXTS, prompt="", max_length=64)
    return pack(texts, np.argsort(-texts.lengths(), kind="stable"))


@pytest.mark.parametrize(
    "architecture", ["bert", "xlm-roberta", "distilbert", "modernbert", "mpnet", "qwen3"]
)
def test_a_half_copy_computes_the_embeddings_without_autocast(architecture, tiny_model):
    encoder = load_encoder(tiny_model(architecture), device="cpu")
    tower = encoder.model.product_tower
    before = copy.deepcopy(tower.state_dict())
    batch = encoder_module.device_layout(torch.device("cpu"), packed=False, pad_token_id=0).batch(
        tokenize(encoder.tokenizer, TEXTS, prompt="", max_length=64), np.arange(len(TEXTS))
    )

    copied, reason = half_copy(tower, torch.bfloat16)
    with torch.inference_mode():
        expected, found = tower([batch]), copied([batch])

    assert reason is None
    assert copied is not tower
    assert copied.compute_type == torch.bfloat16
    assert {one.dtype for one in copied.backbone.parameters()} == {torch.bfloat16}
    assert found.dtype == torch.float32
    assert (found * expected).sum(dim=1).min() > 0.999
    assert all(torch.equal(one, before[name]) for name, one in tower.state_dict().items())
    assert {one.dtype for one in tower.parameters()} == {torch.float32}


def test_weights_that_layers_share_are_shared_in_the_copy(encoder):
    tower = encoder.model.product_tower
    layers = tower.backbone.encoder.layer
    layers[1].output.dense.weight = layers[0].output.dense.weight

    copied = half_copy(tower, torch.bfloat16)[0].backbone.encoder.layer

    assert copied[1].output.dense.weight is copied[0].output.dense.weight


def test_a_tower_that_needs_float32_is_not_copied_and_the_reason_is_given(encoder, monkeypatch):
    monkeypatch.setattr("aisle.models.half_precision._computes", lambda *_: False)
    tower = encoder.model.product_tower

    copied, reason = half_copy(tower, torch.bfloat16)

    assert copied is tower
    assert reason == "BertModel does not compute in bfloat16 by itself"


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError, torch.AcceleratorError])
def test_a_device_error_is_raised_and_not_taken_for_a_need_of_float32(encoder, monkeypatch, fault):
    def fail(_):
        raise fault("CUDA error")

    tower, tried = encoder.model.product_tower, half_precision._tried
    monkeypatch.setattr(half_precision, "_tried", lambda one: (tried if one is tower.backbone else fail)(one))

    with pytest.raises(fault):
        half_copy(tower, torch.bfloat16)


def test_a_half_copy_of_a_tower_that_changes_itself_is_compared_while_no_thread_uses_it(encoder, monkeypatch):
    monkeypatch.setattr(encoder.model.product_tower, "changes_itself", True)
    found = []

    def copied(tower, _):
        found.append(tower_copies._PASSING.locked())
        return tower, None

    monkeypatch.setattr(tower_copies, "half_copy", copied)
    encoder.copies._half_copy("product")

    assert found == [True]


def test_a_change_of_the_weights_changes_their_version(encoder):
    tower = encoder.model.product_tower
    before = weights_version(tower)
    assert weights_version(tower) == before

    with torch.no_grad():
        next(tower.parameters()).add_(1)

    assert weights_version(tower) > before


def test_copies_of_changed_weights_are_made_again(encoder):
    made = []
    for version in (1, 1, 2, 2):
        encoder.copies.once("copy", lambda: made.append(True), version=version)

    assert made == [True, True]
