"""A build that dies at any point leaves the old index or the new one."""

import errno
import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from aisle.errors import IndexIntegrityError, IndexStoreError
from aisle.index import build as build_module
from aisle.index import open_index, switch
from aisle.index import search as search_module

KILLED = """
import os, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from aisle.index import build_index, switch

vectors = np.tile(np.eye(4, dtype=np.float32), (5, 1))

def embeddings():
    yield vectors[:10]
    if sys.argv[2] == "embedding":
        os._exit(9)
    yield vectors[10:]

renames = {"first rename": 1, "second rename": 2}
def rename(source, target, real=os.rename):
    real(source, target)
    renames[sys.argv[2]] -= 1
    if not renames[sys.argv[2]]:
        os._exit(9)

if sys.argv[2] in renames:
    switch.os.rename = rename
build_index(Path(sys.argv[1]), product_ids=[f"new{row}" for row in range(20)], payload=pa.table({}),
            embeddings=embeddings(), dim=4, fingerprint="new", encoder={}, text_template=None, threads=1,
            overwrite=True)
"""


def kill(index_dir, moment):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(index_dir), moment], env=environment, check=False
    )
    assert done.returncode == 9


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def old(build, clustered, tmp_path):
    build(clustered(30), fingerprint="old")
    return tmp_path / "index"


def fail_half_way(vectors):
    yield vectors[:10]
    raise ValueError("the encoder broke")


def test_failing_embeddings_leave_the_old_index_and_nothing_else(build, clustered, old, tmp_path):
    with pytest.raises(ValueError, match="the encoder broke"):
        build(clustered(20), embeddings=fail_half_way(clustered(20)), overwrite=True)

    assert open_index(old).manifest.fingerprint == "old"
    assert names(tmp_path) == ["index"]


def test_failing_first_build_leaves_nothing(build, clustered, tmp_path):
    with pytest.raises(ValueError, match="the encoder broke"):
        build(clustered(20), embeddings=fail_half_way(clustered(20)))

    assert names(tmp_path) == []


def test_an_error_of_the_encoder_reading_files_is_not_taken_for_a_full_disk(build, clustered):
    def embeddings():
        yield clustered(10)
        raise FileNotFoundError("catalogue.csv")

    with pytest.raises(FileNotFoundError, match=r"catalogue\.csv"):
        build(clustered(20), embeddings=embeddings())


@pytest.mark.parametrize(
    ("moment", "survivor"), [("embedding", "old"), ("first rename", "old"), ("second rename", "new")]
)
def test_killed_build_leaves_a_whole_index_and_the_next_build_cleans_up(
    build, clustered, old, tmp_path, moment, survivor
):
    kill(old, moment)

    assert open_index(old).manifest.fingerprint == survivor
    assert len(names(tmp_path)) > 1  # what the dead build could not remove

    with pytest.raises(IndexStoreError, match="already there"):
        build(clustered(5))
    build(clustered(5), fingerprint="next", overwrite=True)
    assert open_index(old).manifest.fingerprint == "next"
    assert names(tmp_path) == ["index"]


def test_killed_first_build_is_not_an_index(build, clustered, tmp_path):
    kill(tmp_path / "index", "embedding")

    with pytest.raises(IndexIntegrityError, match="must be an index directory"):
        open_index(tmp_path / "index")
    build(clustered(5))
    assert names(tmp_path) == ["index"]


def test_running_build_is_left_alone_by_another_and_looks_again_before_switching(build, clustered, tmp_path):
    def embeddings():
        build(clustered(7), fingerprint="inner")
        yield clustered(9)

    build_of_nine = {"embeddings": embeddings(), "fingerprint": "outer"}
    with pytest.raises(IndexStoreError, match="already there"):  # seen again before switching
        build(clustered(9), **build_of_nine)

    assert open_index(tmp_path / "index").manifest.fingerprint == "inner"
    assert names(tmp_path) == ["index"]


def test_two_builds_at_once_that_may_overwrite_both_finish(build, clustered, old):
    def embeddings():
        build(clustered(7), fingerprint="inner", overwrite=True)
        yield clustered(9)

    build(clustered(9), embeddings=embeddings(), fingerprint="outer", overwrite=True)

    assert open_index(old).manifest.fingerprint == "outer"


def test_failed_second_rename_puts_the_old_index_back(build, clustered, old, tmp_path, monkeypatch):
    real, calls = os.rename, []

    def rename(source, target):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        real(source, target)

    monkeypatch.setattr(switch.os, "rename", rename)

    with pytest.raises(IndexStoreError, match="Input/output error"):
        build(clustered(5), overwrite=True)

    assert open_index(old).manifest.fingerprint == "old"
    assert names(tmp_path) == ["index"]


@pytest.fixture
def largest_file():
    """Set the largest file the system lets us write, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def largest_file(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield largest_file
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("size", "name"), [(20_000, "embeddings.npy"), (40_000, "graph.bin")])
def test_file_that_cannot_be_written_whole_is_one_error_and_the_old_index_survives(
    build, clustered, old, tmp_path, largest_file, size, name
):
    vectors = clustered(500)  # 32,128 bytes of embeddings; a graph holds them and its links
    largest_file(size)

    with pytest.raises(IndexStoreError, match=f"{name}: could not be written"):
        build(vectors, overwrite=True)

    assert open_index(old).manifest.fingerprint == "old"
    assert names(tmp_path) == ["index"]


@pytest.mark.parametrize("function", ["write_products", "write_nodes", "save_graph", "write_manifest"])
def test_full_disk_is_one_error_that_says_so_and_the_old_index_survives(
    build, clustered, old, tmp_path, monkeypatch, function
):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build_module, function, full)

    with pytest.raises(IndexStoreError, match="No space left on device; free some space"):
        build(clustered(5), overwrite=True)

    assert open_index(old).manifest.fingerprint == "old"
    assert names(tmp_path) == ["index"]


def test_disk_that_is_full_only_when_synced_is_noticed_before_the_switch(build, clustered, old, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(switch.os, "fsync", full)

    with pytest.raises(IndexStoreError, match="No space left on device"):
        build(clustered(5), overwrite=True)

    assert open_index(old).manifest.fingerprint == "old"


def test_every_file_and_the_directory_are_synced_before_the_switch(build, clustered, old, monkeypatch):
    real_sync, real_rename, synced, at_switch = os.fsync, os.rename, set(), []

    def fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        real_sync(descriptor)

    def rename(source, target):
        at_switch.append(set(synced))
        real_rename(source, target)

    monkeypatch.setattr(switch.os, "fsync", fsync)
    monkeypatch.setattr(switch.os, "rename", rename)

    build(clustered(5), overwrite=True)

    assert {path.stat().st_ino for path in [old, *old.iterdir()]} <= at_switch[0]
    assert old.parent.stat().st_ino in synced


def test_index_replaced_while_it_is_opened_comes_out_whole(build, clustered, old, monkeypatch):
    real, replaced = search_module.read_manifest, []

    def read_manifest(index_dir):
        manifest = real(index_dir)
        if not replaced:
            replaced.append(True)
            build(clustered(50, seed=7), fingerprint="new", overwrite=True)
        return manifest

    monkeypatch.setattr(search_module, "read_manifest", read_manifest)

    index = open_index(old)

    assert index.manifest.fingerprint == "new"
    np.testing.assert_array_equal(index.embeddings, clustered(50, seed=7))


def test_index_replaced_after_its_graph_was_read_comes_out_whole(build, clustered, old, monkeypatch):
    real, replaced = search_module.rank_ids, []

    def rank_ids(products):
        if not replaced:
            replaced.append(True)
            build(clustered(30, seed=7), fingerprint="new", overwrite=True)
        return real(products)

    monkeypatch.setattr(search_module, "rank_ids", rank_ids)

    index = open_index(old)

    assert index.manifest.fingerprint == "new"
    np.testing.assert_array_equal(index.embeddings, clustered(30, seed=7))


def test_open_index_answers_from_the_old_files_after_it_was_replaced(build, clustered, old):
    index = open_index(old)

    build(clustered(50, seed=7), fingerprint="new", overwrite=True)

    np.testing.assert_array_equal(index.embeddings, clustered(30))
    result = index.search(clustered(30), top_k=1, exact=True)
    assert result.product_ids[:, 0].tolist() == [f"p{row:05d}" for row in range(30)]


def test_index_that_is_always_being_replaced_is_an_error_of_ours(old, monkeypatch):
    steps = iter(range(1000))
    monkeypatch.setattr(search_module, "_identity", lambda _: (0, next(steps)))

    with pytest.raises(IndexStoreError, match="replaced 10 times"):
        open_index(old)


def test_permissions_are_those_of_any_new_directory(build, clustered, tmp_path):
    mask = os.umask(0o022)
    try:
        build(clustered(3))
    finally:
        os.umask(mask)

    assert (tmp_path / "index").stat().st_mode & 0o777 == 0o755
