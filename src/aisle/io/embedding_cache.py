"""Cache of embeddings on disk, which processes and runs share: memory-mapped, atomic, without pickle.

A folder has any number of segments. A segment is a file that is written once: a header, sorted keys, and a
vector for each key. It gets its name when it is complete and on the disk. So readers see only whole segments,
and a process that is killed loses no more than the segment that it was writing. Writers need no lock: if two
write the same key, either vector is read.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from aisle.io.durable import replacing

KEY_BYTES = 16
SUFFIX = ".vectors"
MAGIC = b"aisle vectors 1\n"
HEADER = struct.Struct(f"<{len(MAGIC)}sQQ{KEY_BYTES}s")
"""Magic bytes, number of vectors, dimension, and a hash of the keys."""
MISSING = -1
"""Place of a key that the cache does not have."""


@dataclass(frozen=True)
class Segment:
    """Keys and vectors of a file, memory-mapped.

    Args:
        keys: (vectors,) S16, sorted.
        vectors: (vectors, dim) float32.
    """

    keys: np.ndarray
    vectors: np.ndarray


class EmbeddingCache:
    """Embeddings by key, in a folder.

    Args:
        folder: Folder of the cache, which is made if it is missing. It belongs to a single encoder, as the
            keys do not name the encoder.
        dim: Dimension of the embeddings.

    Raises:
        OSError: The folder cannot be made or read.
    """

    def __init__(self, folder: Path, *, dim: int) -> None:
        self.folder, self.dim = folder, dim
        self._segments: list[Segment] = []
        self._names: list[str] = []
        self._starts = np.zeros(1, dtype=np.int64)
        self.damaged: list[Path] = []
        """Files that are no whole segment of this dimension; they are not read."""
        folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def refresh(self) -> None:
        """Find the segments that other processes have written; places that `find` returned stay valid."""
        known = {*self._names, *(path.name for path in self.damaged)}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            if path.name in known:
                continue
            segment = _open(path, self.dim)
            if segment is None:
                self.damaged.append(path)
            else:
                self._append(path.name, segment)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the place of each key, for `take`: (keys,) int64, `MISSING` for a key that is not here.

        Args:
            keys: (keys,) S16.
        """
        places = np.full(len(keys), MISSING, dtype=np.int64)
        for start, segment in zip(self._starts.tolist(), self._segments, strict=False):
            wanted = np.flatnonzero(places == MISSING)
            row = np.searchsorted(segment.keys, keys[wanted])
            row[row == len(segment.keys)] = 0
            here = segment.keys[row] == keys[wanted]
            places[wanted[here]] = start + row[here]
        return places

    def take(self, places: np.ndarray) -> np.ndarray:
        """Return the vectors at some places: (places, dim) float32."""
        vectors = np.empty((len(places), self.dim), dtype=np.float32)
        owners = np.searchsorted(self._starts, places, side="right") - 1
        for owner in np.unique(owners):
            mine = np.flatnonzero(owners == owner)
            vectors[mine] = self._segments[owner].vectors[places[mine] - self._starts[owner]]
        return vectors

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Write vectors as a segment, which other processes can read from then on.

        Args:
            keys: (vectors,) S16, distinct.
            vectors: (vectors, dim) float32.

        Raises:
            OSError: The system refuses to write; the cache is unchanged.
        """
        order = np.argsort(keys, kind="stable")
        sorted_keys = np.ascontiguousarray(keys[order])
        path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        with replacing(path) as beside, beside.open("wb") as file:
            file.write(HEADER.pack(MAGIC, len(keys), self.dim, _hash(sorted_keys)))
            file.write(sorted_keys.tobytes())
            file.write(np.ascontiguousarray(vectors[order], dtype="<f4").tobytes())
        self.refresh()

    def _append(self, name: str, segment: Segment) -> None:
        self._names.append(name)
        self._segments.append(segment)
        self._starts = np.append(self._starts, self._starts[-1] + len(segment.keys))


def key_of(content: bytes) -> bytes:
    """Return the key of a text, given the bytes that decide its embedding."""
    return blake2b(content, digest_size=KEY_BYTES).digest()


def _hash(keys: np.ndarray) -> bytes:
    return blake2b(keys.tobytes(), digest_size=KEY_BYTES).digest()


def _open(path: Path, dim: int) -> Segment | None:
    """Return the segment in a file; None if the file is damaged or has another dimension."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = file.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        magic, count, found_dim, digest = HEADER.unpack(header)
        end_of_keys = HEADER.size + count * KEY_BYTES
        if magic != MAGIC or found_dim != dim or not count or size != end_of_keys + count * dim * 4:
            return None
        # As plain arrays, of which numpy makes parts much faster.
        keys = np.asarray(np.memmap(path, f"S{KEY_BYTES}", "r", HEADER.size, (count,)))
        vectors = np.asarray(np.memmap(path, "<f4", "r", end_of_keys, (count, dim)))
    except FileNotFoundError:  # removed since the folder was listed
        return None
    return Segment(keys, vectors) if _hash(keys) == digest else None
