"""The layout of a run's batches, and the reason that is printed if texts are padded."""

from types import SimpleNamespace

import pytest
import torch

from aisle.commands.train.layout_choice import choose_layout
from aisle.commands.train.settings import TrainSettings
from aisle.models.tower import NEEDS_HALF_PRECISION
from aisle.text.batch_layout import WHOLE_BATCH

BASE = SimpleNamespace(
    settings=SimpleNamespace(max_length=16), tokenizer=SimpleNamespace(pad_token_id=0), query=None
)


def chosen(why_padded, *, precision="bf16", distribution="NO", processes=1):
    """Return the layout on a GPU, the reason for padding, and what was printed and asked."""
    asked, printed = [], []
    tower = SimpleNamespace(
        why_padded=lambda compute_type, max_length: asked.append((compute_type, max_length)) or why_padded,
        separate_sides=False,
    )
    accelerator = SimpleNamespace(
        device=torch.device("cuda"),
        mixed_precision=precision,
        distributed_type=SimpleNamespace(value=distribution),
        num_processes=processes,
    )
    layout, reason = choose_layout(tower, TrainSettings(), BASE, accelerator, log=printed.append)
    return layout, reason, printed, asked


@pytest.mark.parametrize(
    ("precision", "compute_type"), [("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_packed_texts_are_the_default_in_the_runs_compute_type(precision, compute_type):
    layout, reason, printed, asked = chosen(None, precision=precision)

    assert layout.packed
    assert (reason, printed, asked) == (None, [], [(compute_type, 16)])


def test_float32_on_a_gpu_is_named_with_the_remedy():
    layout, reason, printed, _ = chosen(NEEDS_HALF_PRECISION, precision="no")

    assert not layout.packed
    assert reason == (
        "Flash Attention needs half precision, and the model computes in float32; give --mixed_precision bf16"
    )
    assert printed == [f"texts are padded, with others of similar length, which is slower: {reason}"]


def test_the_reason_of_an_architecture_is_printed_as_it_is():
    _, reason, printed, _ = chosen("mpnet has its own attention")

    assert reason == "mpnet has its own attention"
    assert len(printed) == 1


def test_sharded_ranks_compute_whole_batches():
    layout, *_ = chosen(None, distribution="FSDP", processes=2)

    assert (layout.max_tokens, layout.group_cost) == (WHOLE_BATCH, WHOLE_BATCH)
