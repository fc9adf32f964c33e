"""Keep the server's paths out of what clients read: in messages of errors and in names of models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["local_places", "public_message", "public_model_name"]

ABSOLUTE_PATH = re.compile(r"(?<![\w.:/~-])(?:/[^/\s'\"`,;:()\[\]]+){2,}/?")
"""A path with two or more parts. `/search` has one, and the first slash of an address follows a colon."""


def local_places(places: Iterable[str | Path | None]) -> list[str]:
    """Return the paths among places, as they are given and in full, the longest first.

    Args:
        places: Files, folders and Hub ids; None is ignored.
    """
    known = {str(place) for place in places if place is not None and _is_local(str(place))}
    return sorted(known | {str(Path(place).resolve()) for place in known}, key=len, reverse=True)


def public_message(message: str, places: Sequence[str] = ()) -> str:
    """Return a message without the server's paths: of each path, its last part remains.

    Args:
        message: Message of an error.
        places: What `local_places` returned for files and folders that the message may name, whose names may
            have spaces. What lies in them keeps its path from there.
    """
    for place in places:
        name = Path(place).name.replace("\\", r"\\")
        message = re.sub(rf"{re.escape(place)}(?![\w-]|\.\w)", name, message)
    return ABSOLUTE_PATH.sub(lambda found: Path(found[0]).name, message)


def public_model_name(model: str) -> str:
    """Return the name of a model for clients: a Hub id as it is, and the last part of a folder's path."""
    return Path(model).resolve().name if _is_local(model) else model


def _is_local(name: str) -> bool:
    """Return whether a name is a path, and no Hub id (`name`, or `owner/name`)."""
    return name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).is_dir()
