"""Ids of two files that should meet and do not: both sides, and how they could be written alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice

__all__ = ["NearIds", "no_common_ids", "quoted_ids"]

_SHOWN = 3
"""Ids quoted of each side."""
_REWRITES: dict[str, Callable[[str], str]] = {
    "without leading zeros": lambda text: text.lstrip("0") or "0",
    "without .0 at the end": lambda text: text.removesuffix(".0"),
    "all in lower case": str.lower,
    "without what stands before the last colon, slash or #": lambda text: (
        text.replace("/", ":").replace("#", ":").rpartition(":")[2]
    ),
}
"""Differences by which ids of two files often miss each other."""


def no_common_ids(
    what: str,
    *,
    one: str,
    ours: Collection[str],
    other: str,
    theirs: Iterable[str],
    count: int,
) -> str:
    """Return the message for two sides that have no id in common: ids of both, and what would mend it.

    Args:
        what: the ids are of, such as "query".
        one: where `ours` are from.
        ours: ids, at least one.
        other: where `theirs` are from.
        theirs: ids; read once, and never held together.
        count: number of `theirs`.
    """
    wanted = {rewrite: {write(one_id) for one_id in ours} for rewrite, write in _REWRITES.items()}
    met: dict[str, set[str]] = {rewrite: set() for rewrite in _REWRITES}
    first: list[str] = []
    for their in theirs:
        if len(first) < _SHOWN:
            first.append(their)
        for rewrite, write in _REWRITES.items():
            written = write(their)
            if written in wanted[rewrite]:
                met[rewrite].add(written)
    message = (
        f"{one} and {other} have no {what} id in common; both must use the same ids. In {one}: "
        f"{quoted_ids(ours)}; in {other}: {quoted_ids(first, count=count) or 'none'}"
    )
    best = max(met, key=lambda rewrite: len(met[rewrite]))
    if met[best]:
        message += f". Written {best}, {len(met[best]):,} of them would meet"
    return message


def quoted_ids(ids: Collection[str], *, count: int | None = None) -> str:
    """Return the first ids in quotes, and how many there are in all where that is more.

    Args:
        ids: to quote; all of them, or the first.
        count: number of them in all; None where `ids` are all.
    """
    names = ", ".join(repr(name) for name in islice(ids, _SHOWN))
    total = len(ids) if count is None else count
    return names if total <= _SHOWN else f"{names}, ... ({total:,} in all)"


class NearIds:
    """Ids that are wanted, and others that are the same when both are written alike.

    Args:
        wanted: ids, each once.

    Attributes:
        found: wanted id to the first other id that is the same but for how it is written.
    """

    def __init__(self, wanted: Collection[str]) -> None:
        self.found: dict[str, str] = {}
        self._by_plain: dict[str, list[str]] = {}
        for identity in wanted:
            self._by_plain.setdefault(_plain(identity), []).append(identity)

    def look_at(self, ids: Iterable[str]) -> None:
        """Look for wanted ids among more others."""
        for other in ids:
            for identity in self._by_plain.get(_plain(other), ()):
                if identity != other:
                    self.found.setdefault(identity, other)


def _plain(identity: str) -> str:
    """Return an id without any of the differences by which ids often miss each other."""
    text = identity.strip()
    for write in _REWRITES.values():
        text = write(text)
    return text
