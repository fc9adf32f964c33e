"""Notes for the user on why a model computes more slowly than it could."""

from __future__ import annotations

from aisle.bundle.onnx_encoder import OnnxEncoder
from aisle.search.load_encoder import LoadedEncoder
from aisle.types.encoder_protocol import Precision

IN_BF16 = "build the index with --precision bf16"


def speed_notes(encoder: LoadedEncoder, precision: Precision, *, texts: int, remedy: str | None) -> list[str]:
    """Return the notes on embedding products, to be printed once.

    Args:
        encoder: Encoder of the products; a bundle has no notes.
        precision: Its compute type.
        texts: Number of texts to embed; a single text is neither packed nor padded.
        remedy: What the user can do to compute in half precision; None if nothing.
    """
    if not texts or isinstance(encoder, OnnxEncoder):
        return []
    notes = []
    padded_because = encoder.copies.why_padded("product", precision) if texts > 1 else None
    if padded_because is not None:
        notes.append(padding_note(with_remedy(padded_because, remedy)))
    autocast_because = encoder.copies.why_autocast("product", precision)
    if autocast_because is not None:
        notes.append(f"norms and residuals are computed in float32, which is slower: {autocast_because}")
    missing = encoder.copies.why_no_kernels(precision)
    if missing is not None:
        notes.append(kernels_note(missing))
    return notes


def padding_note(padded_because: str) -> str:
    """Return the note on padded texts, to be printed once."""
    return f"texts are padded, with others of similar length, which is slower: {padded_because}"


def kernels_note(missing: str) -> str:
    """Return the note on Triton kernels that are not used, with the reason of `why_no_triton`."""
    return f"attention and norms are computed without aisle's own kernels, which is slower: {missing}"


def with_remedy(padded_because: str, remedy: str | None) -> str:
    """Return the reason for padded texts, with the remedy if it is the number type.

    Args:
        padded_because: Reason of `Tower.why_padded`.
        remedy: What the user can do to compute in half precision; None if nothing.
    """
    from aisle.models.tower import NEEDS_HALF_PRECISION  # imports torch

    if remedy is None or padded_because != NEEDS_HALF_PRECISION:
        return padded_because
    return f"{padded_because}; {remedy}"
