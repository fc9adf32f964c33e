"""Fonts for the texts of charts: DejaVu Sans, and installed fonts for the characters that it lacks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager

__all__ = ["FIRST_FONT", "characters_of", "families_for", "without_font"]

FIRST_FONT = "DejaVu Sans"
"""Font that matplotlib includes."""
_PLACEHOLDERS = "Last Resort"
"""Start of the name of fonts that have a placeholder for every character."""


def families_for(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the font families to draw texts with, in the order in which matplotlib looks for a character.

    Args:
        texts: Texts of a chart.
    """
    families = [FIRST_FONT]
    missing = {char for text in texts for char in text if not char.isspace()} - _known(FIRST_FONT)
    others = _other_families() if missing else ()
    while missing:
        # The family with the most of the missing characters; of several, the first by name.
        best = max(others, key=lambda family: len(missing & _known(family)), default=FIRST_FONT)
        if not missing & _known(best):
            break
        families.append(best)
        missing -= _known(best)
    return tuple(families)


def without_font(texts: Iterable[str]) -> str:
    """Return the characters of texts that no installed font has, each once and in order."""
    listed = list(texts)
    known = characters_of(families_for(listed))
    return "".join(sorted({char for text in listed for char in text if not char.isspace()} - known))


@cache
def characters_of(families: tuple[str, ...]) -> frozenset[str]:
    """Return the characters that at least one of the families has."""
    return frozenset().union(*map(_known, families))


@cache
def _known(family: str) -> frozenset[str]:
    """Return the characters of a family's regular font; none if it cannot be read or scaled."""
    named = FIRST_FONT if family in font_manager.font_family_aliases else family
    try:
        font = font_manager.get_font(font_manager.findfont(named, fallback_to_default=False))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
    if not getattr(font, "scalable", True):  # bitmaps of emoji
        return frozenset()
    return frozenset(map(chr, font.get_charmap()))


def _other_families() -> tuple[str, ...]:
    """Return the installed families, without matplotlib's own, which are for mathematics."""
    own = Path(matplotlib.get_data_path())
    names = {
        font.name
        for font in font_manager.fontManager.ttflist
        if not Path(font.fname).is_relative_to(own) and not font.name.startswith(_PLACEHOLDERS)
    }
    return tuple(sorted(names))
