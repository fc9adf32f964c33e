"""Check that a backbone gives the same token vectors for packed texts as for padded texts.

There is no list of architectures. The check runs the backbone on a few texts, packed and padded, and compares
the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from aisle.kernels.device_faults import FAULTS
from aisle.kernels.flash_attention import UnsupportedAttentionError
from aisle.kernels.packed_attention import (
    ATTENTION,
    NATIVE,
    dispatch_attention,
    padding_position,
    read_packed,
    shared_copy,
)
from aisle.text.token_batches import PaddedBatch, pack, pad
from aisle.text.tokens import TokenizedTexts

SHORT_LENGTHS = (1, 3, 3, 7)
MOST_TOKENS = 512
LARGEST_ERROR = 1e-3
LARGEST_ERROR_IN_HALF_PRECISION = 0.1
"""Largest accepted error of a token vector, relative to its norm. Rounding causes far less: 4e-6, 0.013 in
bf16."""
REFUSALS = (TypeError, ValueError, LookupError, RuntimeError)
"""Errors with which an architecture refuses an argument, the attention, a position or a shape."""


def why_padded(
    backbone: nn.Module, *, max_length: int, vocabulary_size: int, positions: int, pad_token_id: int
) -> str | None:
    """Return why a backbone must read padded texts; None if it gives packed texts the same token vectors.

    The check reads a few short texts, and then also texts of `max_length` tokens. The long texts reveal a
    window, and together have more tokens than the backbone has positions. The short texts come first, because
    an architecture that counts positions across texts would then look up positions that it does not have, and
    on a GPU this ends the process.

    Args:
        backbone: Backbone on its device, in its compute type.
        max_length: Length of the longest text to be read, in tokens.
        vocabulary_size: Number of tokens with an embedding.
        positions: Number of positions with an embedding; 0 if there is no limit.
        pad_token_id: Id of the padding token.

    Raises:
        Exception: The backbone cannot read padded texts, memory ran out, or our attention failed.
    """
    config: Any = backbone.config
    name = config.model_type
    if config._attn_implementation not in (NATIVE, ATTENTION):
        return f"{name} has its own attention ({config._attn_implementation}), which cannot be replaced"
    try:
        native, probed = shared_copy(backbone).eval(), shared_copy(backbone).eval()
    except REFUSALS as error:
        return f"{name} cannot be copied: {_first_line(error)}"
    cast(Any, native.config)._attn_implementation = NATIVE
    short = [min(length, max_length) for length in SHORT_LENGTHS]
    long = [max_length] * (1 + min(positions, MOST_TOKENS) // max_length)
    for lengths in (short, long + short):
        texts = random_texts(lengths, vocabulary_size, pad_token_id)
        why = _difference(native, probed, texts, pad_token_id)
        if why is not None:
            return f"{name} {why}"
    return None


def _difference(native: nn.Module, probed: nn.Module, texts: TokenizedTexts, pad_token_id: int) -> str | None:
    """Return how two copies of a backbone differ: `native` reads texts padded, and `probed` packed."""
    device = next(native.parameters()).device
    rows = np.arange(len(texts.lengths()))
    padded, packed = pad(texts, rows, pad_token_id).to(device), pack(texts, rows).to(device)
    attended: list[bool] = []
    with torch.no_grad():
        expected = _read_padded(native, padded)
        try:
            dispatch_attention(probed)
            found = read_packed(probed, packed, padding_position=padding_position(probed), attended=attended)
            # An architecture may depend on the attention's name, and read padded texts differently.
            again = _read_padded(probed, padded)
        except UnsupportedAttentionError as error:
            return f"cannot be packed: {error}"
        except REFUSALS as error:
            if isinstance(error, FAULTS) or (attended and not attended[-1]):
                raise  # memory, the device or our attention failed, which is no refusal by the architecture
            return f"refuses packed texts: {_first_line(error)}"
    if not attended:
        return "accepts another attention, but does not call it"
    if found.shape != expected.shape:
        return f"changes the number of tokens from {len(expected)} to {len(found)}"
    half = torch.is_autocast_enabled(device.type) or next(native.parameters()).dtype != torch.float32
    errors = [_error(one, expected) for one in (found, again)]
    largest = LARGEST_ERROR_IN_HALF_PRECISION if half else LARGEST_ERROR
    if all(error <= largest for error in errors):
        return None
    return f"gives packed texts other token vectors: the largest difference is {max(errors):.1%}"


def random_texts(lengths: Sequence[int], vocabulary_size: int, pad_token_id: int) -> TokenizedTexts:
    """Return texts of random tokens; those of several tokens have a padding token, as typed by a user."""
    in_order = np.sort(lengths)
    ids = np.random.default_rng(0).integers(5, max(vocabulary_size, 6), size=int(in_order.sum()))
    starts = np.cumsum(in_order) - in_order
    ids[starts[in_order > 1] + 1] = pad_token_id
    return TokenizedTexts(ids.astype(np.int32), np.concatenate([starts, [in_order.sum()]]))


def _read_padded(backbone: Any, batch: PaddedBatch) -> torch.Tensor:
    """Return the vectors of the real tokens of a padded batch: (tokens, dim)."""
    output = backbone(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    vectors: torch.Tensor = output.last_hidden_state[batch.attention_mask.bool()]
    return vectors


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error of a token vector, relative to its norm."""
    return float(((found.float() - expected.float()).norm(dim=1) / expected.float().norm(dim=1)).max())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
