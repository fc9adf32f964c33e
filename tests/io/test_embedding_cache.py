"""Embeddings on disk: what is written is read, by other processes too, and damaged files are not read."""

import os
import subprocess
import sys

import numpy as np
import pytest

from aisle.io import embedding_cache
from aisle.io.embedding_cache import MISSING, EmbeddingCache, key_of
from aisle.io.lock import take_lock

WRITER = """
import sys
import numpy as np
from pathlib import Path
from aisle.io.embedding_cache import EmbeddingCache

folder, start = sys.argv[1], int(sys.argv[2])
cache = EmbeddingCache(Path(folder), dim=2)
for first in range(start, start + 500, 50):
    numbers = np.arange(first, first + 50)
    keys = np.array([b"%016d" % number for number in numbers], dtype="S16")
    cache.add(keys, np.stack([numbers, -numbers], axis=1).astype(np.float32))
"""


def keys(*texts):
    return np.array([key_of(text.encode()) for text in texts], dtype="S16")


def vectors(*values):
    return np.array([[value, -value, 0.5] for value in values], dtype=np.float32)


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "cache", dim=3)


def test_vectors_are_found_by_key_in_any_order(cache):
    cache.add(keys("sofa", "lamp"), vectors(1, 2))
    cache.add(keys("rug"), vectors(3))

    places = cache.find(keys("rug", "desk", "sofa", "lamp"))

    assert (places == MISSING).tolist() == [False, True, False, False]
    np.testing.assert_array_equal(cache.take(places[[0, 2, 3, 2]]), vectors(3, 1, 2, 1))


def test_keys_with_zero_bytes_are_told_apart(cache):
    similar = np.array([b"a" + bytes(15), b"a" + bytes(14) + b"b", bytes(15) + b"a"], dtype="S16")
    cache.add(similar, vectors(1, 2, 3))

    np.testing.assert_array_equal(cache.take(cache.find(similar)), vectors(1, 2, 3))


def test_places_stay_valid_when_another_process_adds_vectors(cache):
    cache.add(keys("sofa"), vectors(1))
    (place,) = cache.find(keys("sofa"))
    for number in range(8):
        EmbeddingCache(cache.folder, dim=3).add(keys(f"text {number}"), vectors(10 + number))

    assert (cache.find(keys("text 0")) == MISSING).all()
    cache.refresh()

    np.testing.assert_array_equal(cache.take(np.array([place])), vectors(1))
    np.testing.assert_array_equal(cache.take(cache.find(keys("text 0", "text 7"))), vectors(10, 17))


def test_processes_write_at_the_same_time(tmp_path):
    starts = (0, 400, 800)
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), str(start)]) for start in starts
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]

    cache = EmbeddingCache(tmp_path, dim=2)
    numbers = np.arange(1300)
    places = cache.find(np.array([b"%016d" % number for number in numbers], dtype="S16"))

    assert (places != MISSING).all()
    np.testing.assert_array_equal(cache.take(places), np.stack([numbers, -numbers], axis=1))


@pytest.mark.parametrize("change", ["cut off", "longer", "key", "magic", "dim"])
def test_a_damaged_file_is_not_read_but_named(change, cache):
    cache.add(keys("sofa", "lamp"), vectors(1, 2))
    (path,) = cache.folder.iterdir()
    content = bytearray(path.read_bytes())
    if change == "cut off":
        content = content[:-4]
    elif change == "longer":
        content += b"1234"
    else:
        content[{"key": embedding_cache.HEADER.size + 3, "magic": 0, "dim": 24}[change]] ^= 1
    path.write_bytes(content)

    again = EmbeddingCache(cache.folder, dim=3)

    assert again.damaged == [path]
    assert (again.find(keys("sofa", "lamp")) == MISSING).all()
    assert (again.newly_damaged(), again.newly_damaged()) == ([path], [])


def test_a_flipped_byte_of_a_vector_is_found_when_its_file_is_needed(cache):
    cache.add(keys("sofa", "lamp"), vectors(1, 2))
    (path,) = cache.folder.iterdir()
    cache.add(keys("rug"), vectors(3))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)

    again = EmbeddingCache(cache.folder, dim=3)
    assert (again.find(keys("rug")) != MISSING).all()
    assert again.damaged == []

    places = again.find(keys("rug", "sofa", "lamp"))

    assert (places == MISSING).tolist() == [False, True, True]
    assert again.damaged == [path]
    again.add(keys("sofa", "lamp"), vectors(1, 2))
    np.testing.assert_array_equal(again.take(again.find(keys("lamp", "rug"))), vectors(2, 3))


def test_small_files_are_merged_while_a_reader_goes_on(cache):
    reader = EmbeddingCache(cache.folder, dim=3)
    for number in range(5):
        cache.add(keys(f"text {number}", f"text {number + 1}"), vectors(number, number + 1))
    reader.refresh()
    names = [f"text {number}" for number in range(6)]
    before = reader.find(keys(*names))

    assert not cache.compact(most_segments=5)
    assert cache.compact(most_segments=4)

    (path,) = cache.folder.glob("*.vectors")
    np.testing.assert_array_equal(reader.take(before), vectors(*range(6)))
    for one in (cache, reader, EmbeddingCache(cache.folder, dim=3)):
        one.refresh()
        np.testing.assert_array_equal(one.take(one.find(keys(*names))), vectors(*range(6)))
    assert path.stat().st_size == embedding_cache.HEADER.size + 6 * (16 + 3 * 4)


def test_merging_leaves_large_and_damaged_files(cache):
    cache.add(keys("sofa", "lamp", "desk"), vectors(1, 2, 3))
    (large,) = cache.folder.iterdir()
    cache.add(keys("rug"), vectors(4))
    (damaged,) = {*cache.folder.iterdir()} - {large}
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    cache.add(keys("bed"), vectors(5))

    again = EmbeddingCache(cache.folder, dim=3)
    assert again.compact(most_segments=1, small=3)

    assert {large, damaged} < {*cache.folder.glob("*.vectors")}
    again.refresh()
    assert (again.find(keys("sofa", "rug", "bed")) == MISSING).tolist() == [False, True, False]


def test_files_of_killed_writers_are_removed_after_a_day(cache):
    cache.add(keys("sofa"), vectors(1))
    old, recent = (cache.folder / f".{name}.vectors.writing" for name in ("old", "recent"))
    for path, age in ((old, 25), (recent, 23)):
        path.write_bytes(b"half")
        os.utime(path, times=(path.stat().st_mtime - age * 3600,) * 2)

    assert not cache.compact()

    assert not old.exists()
    assert recent.exists()
    assert (cache.find(keys("sofa")) != MISSING).all()


def test_only_one_process_merges(cache):
    for number in range(3):
        cache.add(keys(f"text {number}"), vectors(number))
    lock = take_lock(cache.folder / ".compact.lock", "another")

    assert not cache.compact(most_segments=1)

    lock.release()
    assert cache.compact(most_segments=1)


def test_files_that_are_merged_while_a_reader_opens_them_lose_no_vector(cache, monkeypatch):
    for number in range(3):
        cache.add(keys(f"text {number}"), vectors(number))
    own, merged = embedding_cache._open, []

    def merge_first(path, dim):
        if not merged:
            merged.append(path)
            cache.compact(most_segments=1)
        return own(path, dim)

    monkeypatch.setattr(embedding_cache, "_open", merge_first)
    reader = EmbeddingCache(cache.folder, dim=3)

    assert reader.damaged == []
    np.testing.assert_array_equal(
        reader.take(reader.find(keys("text 0", "text 1", "text 2"))), vectors(0, 1, 2)
    )


def test_a_write_that_fails_leaves_nothing(cache, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)

    with pytest.raises(OSError, match="No space left"):
        cache.add(keys("sofa"), vectors(1))

    assert not list(cache.folder.iterdir())
    assert len(cache) == 0
