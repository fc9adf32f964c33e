"""Explain why ids of two files do not match: quote both sides, and suggest a common spelling."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from itertools import islice

__all__ = ["NearIds", "no_common_ids", "quoted_ids"]

_SHOWN = 3
"""Number of ids that are quoted from each side."""
_REWRITES: dict[str, Callable[[str], str]] = {
    "without leading zeros": lambda text: text.lstrip("0") or "0",
    "without .0 at the end": lambda text: text.removesuffix(".0"),
    "all in lower case": str.lower,
    "without the part before the last colon, slash or #": lambda text: (
        text.replace("/", ":").replace("#", ":").rpartition(":")[2]
    ),
}
"""Differences in spelling that often keep ids of two files from matching."""


def no_common_ids(
    what: str,
    *,
    one: str,
    ours: Collection[str],
    other: str,
    theirs: Iterable[str],
    count: int,
) -> str:
    """Return the message for two sides without a common id: examples of both, and a spelling that matches.

    Args:
        what: Kind of ids, such as "query".
        one: Source of `ours`.
        ours: Ids, at least one.
        other: Source of `theirs`.
        theirs: Ids, read once and not kept in memory.
        count: Number of `theirs`.
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
        message += f". Written {best}, {len(met[best]):,} of them would match"
    return message


def quoted_ids(ids: Collection[str], *, count: int | None = None) -> str:
    """Return the first ids in quotes, and the total number if there are more.

    Args:
        ids: All ids, or the first of them.
        count: Total number of ids; None if `ids` are all.
    """
    names = ", ".join(repr(name) for name in islice(ids, _SHOWN))
    total = len(ids) if count is None else count
    return names if total <= _SHOWN else f"{names}, ... ({total:,} in all)"


class NearIds:
    """Wanted ids, and other ids that differ from them only in spelling.

    Args:
        wanted: Distinct ids.

    Attributes:
        found: Wanted id to the first other id that differs only in spelling.
    """

    def __init__(self, wanted: Collection[str]) -> None:
        self.found: dict[str, str] = {}
        self._by_plain: dict[str, list[str]] = {}
        for identity in wanted:
            self._by_plain.setdefault(_plain(identity), []).append(identity)

    def look_at(self, ids: Iterable[str]) -> None:
        """Search more ids for different spellings of wanted ones."""
        for other in ids:
            for identity in self._by_plain.get(_plain(other), ()):
                if identity != other:
                    self.found.setdefault(identity, other)


def _plain(identity: str) -> str:
    """Return an id without the usual differences in spelling."""
    text = identity.strip()
    for write in _REWRITES.values():
        text = write(text)
    return text
