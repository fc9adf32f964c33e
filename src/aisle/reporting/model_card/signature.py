"""Sign a card with a checksum in its last line, to detect edits on the Hub before a later upload."""

from __future__ import annotations

import hashlib
import re

_LINE = re.compile(r"\r?\n<!-- aisle: card as it was sent, ([0-9a-f]{16}) -->\r?\n?\Z")


def signed_card(card: str) -> str:
    """Append the checksum of the card, replacing an earlier checksum."""
    text = _LINE.sub("", card)
    end = "\r\n" if "\r\n" in text else "\n"
    return f"{text}{end}<!-- aisle: card as it was sent, {_checksum(text)} -->{end}"


def is_signed_card(card: str) -> bool:
    """Return whether the card still matches the checksum in its last line."""
    found = _LINE.search(card)
    return found is not None and found[1] == _checksum(card[: found.start()])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
