"""Steps of static shape, eager and captured, compared with steps over batches as they come."""

import itertools

import numpy as np
import pytest
import torch

from aisle.kernels import gpu_attention, packed_attention
from aisle.losses.registry import registered_losses
from aisle.models.bi_encoder import BiEncoder
from aisle.text.static_shapes import MOST_SURPLUS, SHORT_TEXT, static_batch
from aisle.text.token_batches import pack
from aisle.text.tokens import TokenizedTexts
from tests.training.conftest import (
    assert_same,
    for_loss,
    labelled,
    moved_by,
    tower_of,
    trainer_of,
    weights_of,
)

LONGEST = 9
OUT_OF_MEMORY = "memory ran out, so batches are embedded in sub-batches"
LOSSES = [loss.name for loss in registered_losses()]


def computed_again(function, _):
    """Stand-in for a CUDA graph: compute the function again, on the same tensors."""
    return function


def cannot_be_captured(function, _):
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def attention_by_offsets(module, query, key, value, mask, *, packed, scaling, dropout=0.0, **_):
    """Attention that reads where texts begin from the device, as a GPU's kernels do."""
    attended = torch.zeros_like(query)
    for start, stop in itertools.pairwise(packed.offsets.tolist()):
        if stop > start:
            text = (one[:, :, start:stop] for one in (query, key, value))
            found = torch.nn.functional.scaled_dot_product_attention(*text, scale=scaling, dropout_p=dropout)
            attended[:, :, start:stop] = found
    return attended.transpose(1, 2), None


@pytest.fixture
def by_offsets(monkeypatch):
    monkeypatch.setattr(packed_attention, "packed_attention", attention_by_offsets)


def trained(base, pairs, **options):
    """The weights after a run of 3 epochs with an uneven last batch, and the trainer."""
    trainer = trainer_of(base, pairs, **({"batch_size": 12, "total_steps": 12} | options))
    torch.manual_seed(3)
    trainer.run()
    return weights_of(trainer), trainer


def assert_equal(found, expected, *, atol=1e-7):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("count", [40, 15])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_static_step_moves_weights_as_the_batch_without_dummy_texts(base, loss, count):
    pairs = for_loss(labelled(base, count), loss)
    expected = moved_by(trainer_of(base, pairs, loss=loss, max_tokens=1000))
    static = trainer_of(base, pairs, loss=loss, max_tokens=1000, static_length=LONGEST)
    (batch,) = static.collate(np.arange(len(pairs))).token_batches
    assert batch.rows > len(batch)
    assert_same(expected, moved_by(static))


@pytest.mark.parametrize("loss", LOSSES)
def test_captured_steps_train_the_weights_of_eager_steps(base, by_offsets, loss):
    pairs = for_loss(labelled(base), loss)
    static = {"loss": loss, "max_tokens": 1000, "static_length": LONGEST}
    expected, _ = trained(base, pairs, **static)
    found, trainer = trained(base, pairs, record=computed_again, eager_steps=3, **static)
    assert trainer.step.forward.captured.captured_batches == 8  # all but 3, and the first short batch
    assert_equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [
        {"accumulation": 3, "max_tokens": 1000},
        {"max_tokens": 40, "total_steps": 4},  # several token batches a step
        {"max_tokens": 40, "cached": True},
        {"dropout": 0.3, "max_tokens": 1000},
        {"max_tokens": 1000, "loss": "cosent", "learn_temperature": True},
        {"max_tokens": 1000, "max_grad_norm": 0.01},
    ],
    ids=str,
)
def test_captured_steps_equal_eager_static_steps(base, by_offsets, options):
    pairs = labelled(base)
    expected, _ = trained(base, pairs, static_length=LONGEST, **options)
    found, trainer = trained(base, pairs, static_length=LONGEST, record=computed_again, **options)
    assert bool(trainer.step.forward.captured.captured_batches) != bool(options.get("cached"))
    # Several passes of a step add their gradients in another order.
    assert_equal(found, expected, atol=1e-5 if "total_steps" in options else 1e-7)


def test_separate_towers_are_captured_each_by_itself(base, by_offsets):
    pairs = labelled(base)

    def towers():
        return BiEncoder(tower_of(base), tower_of(base))

    static = {"max_tokens": 1000, "static_length": LONGEST}
    expected, _ = trained(base, pairs, tower=towers(), **static)
    found, trainer = trained(base, pairs, tower=towers(), record=computed_again, **static)
    assert {slot for slot, *_ in trainer.step.forward.captured.shapes} == {0, 1}
    assert_equal(found, expected)


def test_one_capture_serves_all_batches_of_its_shape(base, by_offsets):
    recorded = []

    def record(function, slot):
        recorded.append(slot)
        return function

    _, trainer = trained(base, labelled(base), max_tokens=1000, static_length=LONGEST, record=record)
    captured = trainer.step.forward.captured
    assert len(recorded) == 2 * len(captured.shapes)
    assert len(captured.shapes) < captured.captured_batches


@pytest.mark.parametrize("fails_at", [1, 2, 5])  # the first forward pass, its backward pass, another shape
def test_a_pass_that_cannot_be_captured_is_computed_eagerly_and_logged_once(base, by_offsets, fails_at):
    pairs, tried, lines = labelled(base), [], []

    def record(function, slot):
        tried.append(slot)
        return cannot_be_captured(function, slot) if len(tried) == fails_at else function

    static = {"static_length": LONGEST, "max_tokens": 1000}
    expected, _ = trained(base, pairs, **static)
    found, trainer = trained(base, pairs, record=record, capture_log=lines.append, **static)
    captured = trainer.step.forward.captured
    assert "operation not permitted when stream is capturing" in captured.why_eager
    assert (len(tried), len(lines), captured.shapes) == (fails_at, 1, [])
    assert lines[0].endswith(f": {captured.why_eager}")
    assert_equal(found, expected)


def test_memory_that_runs_out_in_a_capture_is_the_reason(base):
    def record(function, _):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    _, trainer = trained(base, labelled(base), static_length=LONGEST, record=record)
    assert "CUDA out of memory" in trainer.step.forward.why_eager


def test_memory_that_runs_out_ends_the_captures_with_a_line(base, by_offsets):
    pairs, lines = labelled(base), []
    static = {"static_length": LONGEST, "max_tokens": 1000, "total_steps": 3}
    trainer = trainer_of(base, pairs, record=computed_again, capture_log=lines.append, **static)
    trainer.state.sub_batch_tokens = 32  # of the run before it was resumed
    trainer.run()
    assert lines == [f"warning: steps are computed eagerly, slower for small batches: {OUT_OF_MEMORY}"]
    assert trainer.step.forward.why_eager == OUT_OF_MEMORY


def test_a_capture_meets_only_kinds_of_batches_that_were_computed_eagerly(base, by_offsets):
    """Triton compiles its kernels for a number of texts and a longest text, which a capture cannot do."""
    _, trainer = trained(base, labelled(base), max_tokens=1000, static_length=LONGEST, record=computed_again)
    captured = trainer.step.forward.captured
    kinds = {(side, rows, longest) for _, side, _, rows, longest in captured.shapes}
    assert len(kinds) > 1
    assert captured.captured_batches == 12 - len(kinds)


def test_at_most_so_many_shapes_are_captured(base, by_offsets, monkeypatch):
    monkeypatch.setattr("aisle.kernels.captured_passes.MOST_GRAPHS", 1)
    pairs, lines = labelled(base), []
    expected, _ = trained(base, pairs, static_length=LONGEST, max_tokens=1000)
    found, trainer = trained(
        base,
        pairs,
        static_length=LONGEST,
        max_tokens=1000,
        record=computed_again,
        capture_log=lines.append,
    )
    assert 0 < trainer.step.forward.captured.captured_batches < 12
    assert len(trainer.step.forward.captured.shapes) == len(lines) == 1
    assert_equal(found, expected)


def test_static_batches_have_little_surplus_and_texts_in_order(base):
    pairs = labelled(base)
    plain = trainer_of(base, pairs, max_tokens=1000).collate
    static = trainer_of(base, pairs, max_tokens=1000, static_length=LONGEST).collate
    for count in range(1, 41):
        (expected,), (found,) = (one(np.arange(count)).token_batches for one in (plain, static))
        tokens = expected.read_tokens
        assert len(found) == len(expected)
        assert tokens <= found.read_tokens <= tokens * (1 + MOST_SURPLUS)
        assert torch.equal(found.input_ids[:tokens], expected.input_ids)
        assert torch.equal(found.offsets[: len(expected) + 1], expected.offsets)
        lengths = found.offsets.diff()
        assert int(lengths.max()) <= LONGEST
        assert found.rows >= len(found) + len(found.runs) - len(expected.runs)
        assert int(found.offsets[-1]) == found.read_tokens
        assert sum(texts * length for texts, length in found.runs) == found.read_tokens


def test_a_long_text_changes_only_the_shape_of_its_own_batch():
    """Batches of short texts keep the attention for short texts."""
    texts = TokenizedTexts(np.arange(130 + 5 + 7, dtype=np.int32), np.array([0, 130, 135, 142]))
    short, long = (static_batch(pack(texts, rows), 130, 0) for rows in (np.array([2, 1]), np.array([0, 2])))
    assert (short.longest, long.longest) == (SHORT_TEXT, 130)
    assert SHORT_TEXT == gpu_attention.LONGEST_SHORT_TEXT
    assert static_batch(pack(texts, np.array([2, 1])), 9, 0).longest == 9
    crowded = static_batch(pack(texts, np.repeat([2, 1], 1000)), 130, 0)
    assert int(crowded.offsets.diff().max()) <= SHORT_TEXT
