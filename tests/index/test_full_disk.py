"""A full disk at any point gives one error, and the old version stays current."""

import errno
import os
import resource

import pytest

from aisle.errors import IndexStoreError
from aisle.index import builder as build_module
from aisle.index import delete_products
from aisle.index import incremental as change_module
from aisle.index import lexical as lexical_module
from aisle.index import writer as writer_module
from aisle.index.backends.hnsw import HnswBackend


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def largest_file():
    """Limit the size of files, to simulate a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def largest_file(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield largest_file
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("size", "name"), [(20_000, "embeddings.npy"), (40_000, "graph.bin")])
def test_incomplete_file_is_one_error_and_the_old_version_stays(
    build, clustered, assert_untouched, largest_file, size, name
):
    vectors = clustered(500)  # 32,128 bytes of embeddings; a graph holds them and its links
    largest_file(size)

    with pytest.raises(IndexStoreError, match=f"{name}: could not be written"):
        build(vectors)

    assert_untouched()


@pytest.mark.parametrize(
    ("size", "name"), [(20_000, "upserted.npy"), (33_000, "embeddings.npy"), (40_000, "graph.bin")]
)
def test_incomplete_file_of_an_upsert_is_one_error_and_the_old_version_stays(
    upsert, clustered, assert_untouched, largest_file, size, name
):
    vectors, ids = clustered(500, seed=1), [f"new{row}" for row in range(500)]
    largest_file(size)

    with pytest.raises(IndexStoreError, match=f"{name}: could not be written"):
        upsert(ids, vectors)

    assert_untouched()


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (build_module, "write_products"),
        (build_module, "write_array"),
        (HnswBackend, "save"),
        (lexical_module.Bm25Index, "save"),
        (writer_module, "file_record"),
        (writer_module, "write_manifest"),
        (writer_module, "sync"),
        (os, "rename"),
        (os, "replace"),
    ],
)
def test_full_disk_is_one_clear_error_and_the_old_version_stays(
    build, clustered, assert_untouched, monkeypatch, module, function
):
    monkeypatch.setattr(module, function, full_disk)

    with pytest.raises(
        IndexStoreError, match=r"No space left on device; free some space.*current version is unchanged"
    ):
        build(clustered(5), texts=["one word"] * 5)

    monkeypatch.undo()
    assert_untouched()


@pytest.mark.parametrize(
    ("module", "function"),
    [(change_module, "write_array"), (HnswBackend, "save"), (os, "replace")],
)
def test_full_disk_while_deleting_is_one_error_and_the_old_version_stays(
    old, assert_untouched, monkeypatch, module, function
):
    monkeypatch.setattr(module, function, full_disk)

    with pytest.raises(IndexStoreError, match="No space left on device; free some space"):
        delete_products(old, ["p00001"])

    monkeypatch.undo()
    assert_untouched()


@pytest.mark.parametrize("function", ["rename", "replace"])
def test_first_build_on_a_full_disk_leaves_nothing(build, clustered, tmp_path, monkeypatch, function):
    monkeypatch.setattr(os, function, full_disk)

    with pytest.raises(IndexStoreError, match="No space left on device"):
        build(clustered(5))

    assert names(tmp_path) == []


def test_every_file_and_folder_is_synced_before_the_switch(build, clustered, old, monkeypatch):
    real_sync, real_replace, synced, at_switch = os.fsync, os.replace, set(), []

    def fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    def replace_file(source, target):
        at_switch.append((set(synced), os.stat(source).st_ino))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace_file)

    build(clustered(5), texts=["one word"] * 5)

    ((before, manifest),) = at_switch
    made = old / "versions" / "000002"
    assert len(list(made.rglob("*"))) > 8
    assert {path.stat().st_ino for path in [made.parent, made, *made.rglob("*")]} <= before
    assert manifest in before
    assert old.stat().st_ino in synced
