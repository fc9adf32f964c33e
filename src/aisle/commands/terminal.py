"""Remove escape sequences and control characters from text before it reaches a terminal."""

from __future__ import annotations

import re

__all__ = ["escaped", "printable"]

# ECMA-48: control sequences, commands up to BEL or ST (titles, links), and shorter escapes.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)
# C0 without tab and newline, DEL, C1, and the marks that turn the direction of text (UAX #9).
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return a text without escape sequences, control characters and direction marks; newlines stay."""
    if text.isascii() and text.isprintable():
        return text
    return _CONTROLS.sub("", _SEQUENCES.sub("", text))


def escaped(document: str) -> str:
    """Return a JSON document with those characters escaped: the same document, safe to print."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", document)
