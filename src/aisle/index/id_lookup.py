"""Find a product by its id, typed exactly or with other signs and capitals."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aisle.index.scoring import Rows

__all__ = ["IdLookup"]

NO_LETTER_OR_DIGIT = re.compile("[^a-z0-9]+")
END = "\0"
"""Separates an id without signs from the id itself."""


@dataclass(frozen=True, eq=False)
class IdLookup:
    """Product ids and their rows, sorted by letters and digits of the ids."""

    ids: npt.NDArray[np.uint8]
    """Sorted entries as UTF-8 bytes: an id without signs and capitals, `END`, and the id itself."""
    id_starts: npt.NDArray[np.int64]
    """First byte of each entry, (ids + 1,)."""
    id_rows: Rows
    """Row of each entry, (ids,)."""

    @classmethod
    def build(cls, product_ids: pa.ChunkedArray | None) -> IdLookup:
        """Return the lookup of (n,) ids in the order of their rows; an empty lookup for None."""
        given = pa.chunked_array([], pa.string()) if product_ids is None else product_ids
        ids = given.cast(pa.large_string()).combine_chunks()  # the bytes of all may be more than 2 GiB
        entries = pc.binary_join_element_wise(
            _letters_and_digits(ids), ids, pa.scalar(END, pa.large_string())
        )
        order = pc.sort_indices(entries)
        entries = entries.take(order)
        _, starts, content = entries.buffers()
        return cls(
            ids=np.frombuffer(content or b"", np.uint8),
            id_starts=np.frombuffer(starts, np.int64)[: len(entries) + 1]
            if starts
            else np.zeros(1, np.int64),
            id_rows=order.to_numpy().astype(np.int64),
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the arrays to save, by name."""
        return {"ids": self.ids, "id_starts": self.id_starts, "id_rows": self.id_rows}

    def rows(self, query: str) -> Rows:
        """Return the rows with the query as their id, or else with an id of the same letters and digits."""
        wanted = query.strip()
        letters = _letters_and_digits_of(wanted)
        if not letters:
            return np.empty(0, np.int64)
        prefix, count = (letters + END).encode(), len(self.id_rows)
        first = at = bisect_left(range(count), prefix, key=self._entry)
        while at < count and self._entry(at).startswith(prefix):
            if self._entry(at)[len(prefix) :] == wanted.encode():
                return np.asarray(self.id_rows[at : at + 1])
            at += 1
        return np.asarray(self.id_rows[first:at])

    def _entry(self, at: int) -> bytes:
        return self.ids[self.id_starts[at] : self.id_starts[at + 1]].tobytes()


def _letters_and_digits_of(text: str) -> str:
    """Return a text in lower case, without signs and spaces; the same as `_letters_and_digits` for an id.

    Arrow compiles its pattern in every call, which takes 9 ms a query; ASCII text does not need Arrow.
    """
    if text.isascii():
        return NO_LETTER_OR_DIGIT.sub("", text.lower())
    found: str = _letters_and_digits(pa.array([text], pa.large_string()))[0].as_py()
    return found


def _letters_and_digits(ids: pa.Array) -> pa.Array:
    """Return ids in lower case, without signs and spaces."""
    lower = pc.utf8_lower(pc.utf8_normalize(ids, form="NFKC"))
    return pc.replace_substring_regex(lower, pattern=r"[^\pL\pN\pM]+", replacement="")
