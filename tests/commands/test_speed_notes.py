"""Notes on why a model computes more slowly than it could."""

from types import SimpleNamespace

import pytest

from aisle.commands.speed_notes import speed_notes
from aisle.models.tower import NEEDS_HALF_PRECISION


def encoder(*, padded=None, autocast=None, kernels=None):
    copies = SimpleNamespace(
        why_padded=lambda side, precision: padded,
        why_autocast=lambda side, precision: autocast,
        why_no_kernels=lambda precision: kernels,
    )
    return SimpleNamespace(copies=copies)


@pytest.mark.parametrize(
    ("remedy", "expected"),
    [
        ("build in bf16", f"{NEEDS_HALF_PRECISION}; build in bf16"),
        (None, NEEDS_HALF_PRECISION),
    ],
)
def test_padding_in_float32_has_its_remedy_if_there_is_one(remedy, expected):
    (note,) = speed_notes(encoder(padded=NEEDS_HALF_PRECISION), "fp32", texts=9, remedy=remedy)

    assert note.endswith(f"which is slower: {expected}")


def test_each_reason_has_a_note():
    slow = encoder(padded="bert cannot be packed", autocast="BertModel needs it", kernels="no compiler")

    assert speed_notes(slow, "bf16", texts=9, remedy="build in bf16") == [
        "texts are padded, with others of similar length, which is slower: bert cannot be packed",
        "norms and residuals are computed in float32, which is slower: BertModel needs it",
        "attention and norms are computed without aisle's own kernels, which is slower: no compiler",
    ]


def test_nothing_is_checked_without_texts_nor_printed_on_a_fast_model():
    assert speed_notes(encoder(padded="no"), "fp32", texts=0, remedy=None) == []
    assert speed_notes(encoder(), "bf16", texts=9, remedy=None) == []
    assert speed_notes(encoder(padded="no"), "fp32", texts=1, remedy=None) == []
