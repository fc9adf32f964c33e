"""Read and show durations, such as 60m."""

from __future__ import annotations

import re

__all__ = ["duration_of", "shown_duration"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")


def duration_of(text: str) -> float:
    """Return the seconds of a duration: `90s`, `60m`, `1.5h`, `1h30m`.

    Raises:
        ValueError: The text has another form, or the duration is 0.
    """
    parts = _PART.findall(text)
    if "".join(number + unit for number, unit in parts) != text or not parts:
        raise ValueError("give a duration with its unit, such as 90s, 60m or 1.5h")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if not seconds:
        raise ValueError("must be longer than 0")
    return seconds


def shown_duration(seconds: float) -> str:
    """Return a duration as people read it: `45 s`, `12 min`, `1 h 05 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
