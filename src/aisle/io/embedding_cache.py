"""Cache of embeddings on disk, which processes and runs share: memory-mapped, atomic, without pickle.

A folder has any number of segments. A segment is a file that is written once: a header, sorted keys, and a
vector for each key. It gets its name when it is complete and on the disk. So readers see only whole segments,
and a process that is killed loses no more than the segment that it was writing, and `compact` removes
its file. Writers need no lock: if two write the same key, either vector is read. Only `compact` takes a lock,
which keeps two of them apart.

The header has a checksum of the keys, which is checked when a segment is opened, and a checksum of the
vectors, which is checked when a key is first found in the segment: about 1 GB per second, once per process.
"""

from __future__ import annotations

import struct
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np

from aisle.errors import IndexLockedError, IndexStoreError
from aisle.io.durable import WRITING, replacing
from aisle.io.lock import take_lock

KEY_BYTES = 16
SUFFIX = ".vectors"
MAGIC = b"aisle vectors 2\n"
HEADER = struct.Struct(f"<{len(MAGIC)}sQQ{KEY_BYTES}s{KEY_BYTES}s")
"""Magic bytes, number of vectors, dimension, and checksums of the keys and of the vectors."""
BLOCK = 16_384
"""Vectors to write at a time."""
ABANDONED_SECONDS = 24 * 60 * 60
"""Age from which on a file that is being written is of a process that was killed."""
MISSING = -1
"""Place of a key that the cache does not have."""


@dataclass(frozen=True)
class Segment:
    """Keys and vectors of a file, memory-mapped.

    Args:
        path: Path of the file.
        keys: (vectors,) S16, sorted.
        vectors: (vectors, dim) float32.
        checksum: Checksum of the vectors when they were written.
    """

    path: Path
    keys: np.ndarray
    vectors: np.ndarray
    checksum: bytes

    @cached_property
    def is_whole(self) -> bool:
        """Whether the vectors match their checksum; the first call reads them all."""
        return _hash(self.vectors) == self.checksum


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
        self._starts = np.zeros(1, dtype=np.int64)
        self.damaged: list[Path] = []
        """Files that are no whole segment of this dimension, as far as they were read; they are not used."""
        self._named: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self.refresh()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def refresh(self) -> None:
        """Find the segments that other processes have written; places that `find` returned stay valid."""
        known = {*(segment.path for segment in self._segments), *self.damaged}
        listed = True
        while listed:  # until nothing was removed meanwhile: `compact` has then written its vectors elsewhere
            listed = False
            for path in sorted({*self.folder.glob(f"*{SUFFIX}")} - known):
                known.add(path)
                try:
                    segment = _open(path, self.dim)
                except FileNotFoundError:
                    listed = True
                    continue
                if segment is None:
                    self.damaged.append(path)
                else:
                    self._segments.append(segment)
                    self._starts = np.append(self._starts, self._starts[-1] + len(segment.keys))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the place of each key, for `take`: (keys,) int64, `MISSING` for a key that is not here.

        Segments whose vectors do not match their checksum are added to `damaged`, and their keys are missing.

        Args:
            keys: (keys,) S16.
        """
        places = np.full(len(keys), MISSING, dtype=np.int64)
        for start, segment in zip(self._starts.tolist(), self._segments, strict=False):
            if segment.path in self.damaged:
                continue
            wanted = np.flatnonzero(places == MISSING)
            row = np.searchsorted(segment.keys, keys[wanted])
            row[row == len(segment.keys)] = 0
            here = segment.keys[row] == keys[wanted]
            if here.any() and not segment.is_whole:
                self.damaged.append(segment.path)
                continue
            places[wanted[here]] = start + row[here]
        return places

    def newly_damaged(self) -> list[Path]:
        """Return the damaged files that no call has returned before."""
        new = [path for path in self.damaged if path not in self._named]
        self._named.update(new)
        return new

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
        self._write(keys[order], order, vectors)
        self.refresh()

    def compact(self, *, most_segments: int = 64, small: int = 65_536) -> bool:
        """Merge the small segments into one if there are many; return whether they were merged.

        Files that a killed process has left half-written are removed.

        Every run with new texts adds a segment or a few, and a process keeps each open. Processes that read
        the merged segments at this time go on with their maps of the removed files. Nothing is done while
        another process merges, or if the file system has no locks.

        Args:
            most_segments: Number of small segments to leave alone.
            small: Number of vectors from which on a segment is not small.

        Raises:
            OSError: The system refuses to write; the cache has the same vectors as before.
        """
        try:
            lock = take_lock(self.folder / ".compact.lock", "compact")
        except (IndexLockedError, IndexStoreError):
            return False
        try:
            self._remove_abandoned()
            self.refresh()
            merged = [one for one in self._segments if len(one.keys) < small and one.path.exists()]
            if len(merged) <= most_segments:
                return False
            keys = np.unique(np.concatenate([one.keys for one in merged]))
            places = self.find(keys)
            found = places != MISSING  # the keys of damaged segments are not
            self._write(keys[found], places[found])
            for one in merged:
                if one.path not in self.damaged:
                    one.path.unlink()
            return True
        finally:
            lock.release()

    def _remove_abandoned(self) -> None:
        """Remove files of writers that were killed: nothing was written to them for a day."""
        for path in self.folder.glob(f".*{SUFFIX}{WRITING}"):
            try:
                if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # its writer has ended
                continue

    def _write(self, keys: np.ndarray, places: np.ndarray, vectors: np.ndarray | None = None) -> None:
        """Write a segment, a block at a time.

        Args:
            keys: (vectors,) S16, sorted and distinct.
            places: (vectors,) row of each key's vector in `vectors`, or its place if there are none.
            vectors: (rows, dim) float32.
        """
        path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        checksum = blake2b(digest_size=KEY_BYTES)
        with replacing(path) as beside, beside.open("wb") as file:
            file.seek(HEADER.size)
            file.write(keys.tobytes())
            for start in range(0, len(keys), BLOCK):
                rows = places[start : start + BLOCK]
                block = self.take(rows) if vectors is None else vectors[rows]
                content = np.ascontiguousarray(block, dtype="<f4").tobytes()
                checksum.update(content)
                file.write(content)
            file.seek(0)
            file.write(HEADER.pack(MAGIC, len(keys), self.dim, _hash(keys), checksum.digest()))


def key_of(content: bytes) -> bytes:
    """Return the key of a text, given the bytes that decide its embedding."""
    return blake2b(content, digest_size=KEY_BYTES).digest()


def _hash(numbers: np.ndarray) -> bytes:
    return blake2b(np.ascontiguousarray(numbers).data, digest_size=KEY_BYTES).digest()


def _open(path: Path, dim: int) -> Segment | None:
    """Return the segment in a file; None if the file is damaged or has another dimension.

    Raises:
        FileNotFoundError: The file was removed.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    magic, count, found_dim, keys_checksum, checksum = HEADER.unpack(header)
    end_of_keys = HEADER.size + count * KEY_BYTES
    if magic != MAGIC or found_dim != dim or not count or size != end_of_keys + count * dim * 4:
        return None
    # As plain arrays, of which numpy makes parts much faster.
    keys = np.asarray(np.memmap(path, f"S{KEY_BYTES}", "r", HEADER.size, (count,)))
    vectors = np.asarray(np.memmap(path, "<f4", "r", end_of_keys, (count, dim)))
    return Segment(path, keys, vectors, checksum) if _hash(keys) == keys_checksum else None
