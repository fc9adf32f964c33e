"""A card's last line: a checksum by which a later upload sees whether somebody edited the card on the Hub."""

from __future__ import annotations

import hashlib
import re

_LINE = re.compile(r"\r?\n<!-- aisle: card as it was sent, ([0-9a-f]{16}) -->\r?\n?\Z")


def signed_card(card: str) -> str:
    """Return a card with the checksum of what is above it; an older one at its end is replaced."""
    text = _LINE.sub("", card)
    end = "\r\n" if "\r\n" in text else "\n"
    return f"{text}{end}<!-- aisle: card as it was sent, {_checksum(text)} -->{end}"


def is_signed_card(card: str) -> bool:
    """Return whether a card ends in the checksum of what is above it: nobody has edited it since."""
    found = _LINE.search(card)
    return found is not None and found[1] == _checksum(card[: found.start()])


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
