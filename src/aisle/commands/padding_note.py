"""Note for the user on why texts are padded, which is slower than packing them."""

from __future__ import annotations

from aisle.models.tower import NEEDS_HALF_PRECISION


def padding_note(padded_because: str) -> str:
    """Return the note on padded texts, to be printed once."""
    return f"texts are padded, with others of similar length, which is slower: {padded_because}"


def with_remedy(padded_because: str, flag: str) -> str:
    """Return the reason for padded texts, with the flag that changes it if there is one.

    Args:
        padded_because: Reason of `Tower.why_padded`.
        flag: Flag that sets the compute type to half precision.
    """
    return f"{padded_because}; give {flag}" if padded_because == NEEDS_HALF_PRECISION else padded_because
