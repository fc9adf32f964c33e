"""Versions side by side, one writer at a time; one that dies at any point leaves the old or the new one."""

import errno
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from aisle.errors import IndexIntegrityError, IndexLockedError, IndexStoreError
from aisle.index import build as build_module
from aisle.index import change as change_module
from aisle.index import (
    delete_products,
    index_writer,
    list_versions,
    open_index,
    read_manifest,
    rollback,
    versions,
)
from aisle.index import search as search_module

WHOLE = ["lock", "manifest.json", "versions"]

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from aisle.index import build_index, delete_products, upsert_products, versions

index_dir, operation, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
vectors = np.tile(np.eye(16, dtype=np.float32), (2, 1))
ids = [f"new{row}" for row in range(32)]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def embeddings():
    yield vectors[:10]
    if moment == "embedding":
        die()
    yield vectors[10:]

def dies_around(module, name, *, before, after):
    real = getattr(module, name)
    def call(*arguments, **more):
        if moment == before:
            die()
        real(*arguments, **more)
        if moment == after:
            die()
    setattr(module, name, call)

dies_around(os, "rename", before="staged", after="moved")
dies_around(os, "replace", before="before the switch", after="switched")
if moment == "pruning":
    real = os.unlink
    def unlink(path, *arguments, **more):
        real(path, *arguments, **more)
        if str(path).endswith("graph.bin"):
            die()
    os.unlink = unlink

if operation == "build":
    build_index(index_dir, product_ids=ids, payload=pa.table({}), embeddings=embeddings(), dim=16,
                fingerprint="f" * 64, encoder={}, threads=1, keep_versions=1)
elif operation == "upsert":
    upsert_products(index_dir, products=pa.table({"product_id": ids}), embeddings=embeddings(),
                    fingerprint="f" * 64, threads=1, keep_versions=1)
else:
    delete_products(index_dir, ["p00000"], keep_versions=1)
sys.exit("was not killed")
"""
COUNT_AFTER = {"build": 32, "upsert": 62, "delete": 29}

HOLDER = """
import sys
from pathlib import Path
from aisle.index import index_writer

with index_writer(Path(sys.argv[1]), command="upsert"):
    print("held", flush=True)
    sys.stdin.read()
"""


def kill(index_dir, operation, moment):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(index_dir), operation, moment]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def numbers(index_dir):
    return [version.number for version in list_versions(index_dir)]


def fail_half_way(vectors):
    yield vectors[:10]
    raise ValueError("the encoder broke")


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def old(build, clustered, tmp_path):
    build(clustered(30))
    return tmp_path / "index"


@pytest.fixture
def assert_untouched(old):
    """Assert that the index of 30 products is as it was, and nothing is beside it."""

    def assert_untouched():
        index = open_index(old)
        assert (index.manifest.version, len(index)) == (1, 30)
        assert names(old) == WHOLE
        assert names(old / "versions") == ["000001"]

    return assert_untouched


# --- a writer that fails or dies


def test_failing_embeddings_leave_the_old_version_and_nothing_else(build, clustered, assert_untouched):
    with pytest.raises(ValueError, match="the encoder broke"):
        build(clustered(20), embeddings=fail_half_way(clustered(20)))

    assert_untouched()


def test_failing_first_build_leaves_nothing(build, clustered, tmp_path):
    with pytest.raises(ValueError, match="the encoder broke"):
        build(clustered(20), embeddings=fail_half_way(clustered(20)))

    assert names(tmp_path) == []


def test_failing_first_build_leaves_an_empty_folder_that_was_there(build, clustered, tmp_path):
    (tmp_path / "index").mkdir()

    with pytest.raises(ValueError, match="the encoder broke"):
        build(clustered(20), embeddings=fail_half_way(clustered(20)))

    assert names(tmp_path / "index") == []


def test_an_error_of_the_encoder_reading_files_is_not_taken_for_a_full_disk(build, clustered):
    def embeddings():
        yield clustered(10)
        raise FileNotFoundError("catalogue.csv")

    with pytest.raises(FileNotFoundError, match=r"catalogue\.csv"):
        build(clustered(20), embeddings=embeddings())


@pytest.mark.parametrize(
    ("operation", "moment", "survives"),
    [
        ("build", "embedding", "old"),
        ("build", "staged", "old"),
        ("build", "moved", "old"),
        ("build", "before the switch", "old"),
        ("build", "switched", "new"),
        ("build", "pruning", "new"),
        ("upsert", "embedding", "old"),
        ("upsert", "moved", "old"),
        ("upsert", "switched", "new"),
        ("delete", "staged", "old"),
        ("delete", "moved", "old"),
        ("delete", "switched", "new"),
    ],
)
def test_killed_writer_leaves_a_whole_version_and_the_next_writer_cleans_up(
    clustered, old, operation, moment, survives
):
    kill(old, operation, moment)

    index = open_index(old)
    expected = 30 if survives == "old" else COUNT_AFTER[operation]
    assert (index.manifest.version, len(index)) == (1 if survives == "old" else 2, expected)
    index.search(clustered(3, seed=1), top_k=expected)
    assert names(old) != WHOLE  # what the dead one could not remove

    some_id = index.products.column("product_id")[3].as_py()
    delete_products(old, [some_id])

    index = open_index(old)
    assert len(index) == expected - 1
    assert names(old) == WHOLE
    assert all(version.problem is None for version in list_versions(old))


def test_version_that_never_served_is_not_gone_back_to(old):
    kill(old, "delete", "moved")  # version 2 is whole, and 1 still serves

    delete_products(old, ["p00001"])

    assert numbers(old) == [1, 2]
    rollback(old)
    assert len(open_index(old)) == 30


@pytest.mark.parametrize("moment", ["embedding", "staged", "before the switch"])
def test_killed_first_build_is_not_an_index_and_the_next_one_goes_through(build, clustered, tmp_path, moment):
    kill(tmp_path / "index", "build", moment)

    with pytest.raises(IndexIntegrityError, match=r"manifest\.json, found none"):
        open_index(tmp_path / "index")
    build(clustered(5))
    assert names(tmp_path / "index") == WHOLE
    assert numbers(tmp_path / "index") == [1]


def test_leftovers_of_a_dead_writer_are_removed_by_any_next_one(old):
    staging = old / ".building" / "version"
    (staging / "lexical").mkdir(parents=True)
    (staging / "graph.bin").write_bytes(b"half")
    (staging / "lexical" / "rows.npy").write_bytes(b"half")
    (old / ".manifest.json.writing").write_bytes(b"{")

    delete_products(old, ["p00001"])

    assert names(old) == WHOLE
    assert "lexical/rows.npy" not in read_manifest(old).files


def test_shards_of_an_unfinished_build_outlive_other_writers_and_end_with_the_next_build(
    build, clustered, old
):
    shards = old / ".building" / "shards"
    shards.mkdir(parents=True)
    (shards / "one").write_bytes(b"embeddings")

    delete_products(old, ["p00001"])
    assert (shards / "one").read_bytes() == b"embeddings"
    assert names(old / ".building") == ["shards"]

    with pytest.raises(ValueError, match="the encoder broke"):
        build(clustered(20), embeddings=fail_half_way(clustered(20)))
    assert (shards / "one").read_bytes() == b"embeddings"

    build(clustered(20))
    assert names(old) == WHOLE


# --- two writers


def test_second_writer_is_told_who_holds_the_lock_and_readers_go_on(build, clustered, old, assert_untouched):
    def embeddings():
        with pytest.raises(IndexLockedError, match=rf"build, process {os.getpid()} on .* is writing it"):
            build(clustered(7))
        with pytest.raises(IndexLockedError, match="build, process"):
            delete_products(old, ["p00001"])
        with pytest.raises(IndexLockedError, match="build, process"):
            rollback(old, to=1)
        assert len(open_index(old)) == 30
        yield clustered(9)

    build(clustered(9), embeddings=embeddings())

    assert len(open_index(old)) == 9
    assert numbers(old) == [1, 2]


def test_lock_of_a_dead_process_is_taken_over(build, clustered, old):
    command = [sys.executable, "-c", HOLDER, str(old)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(IndexLockedError, match=f"upsert, process {holder.pid} on .* since 20"):
            build(clustered(7))
        assert names(old / ".building") == ["version"]  # the one that was refused removed nothing of it
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    build(clustered(7))

    assert len(open_index(old)) == 7
    assert names(old) == WHOLE


def test_lock_file_that_says_nothing_still_locks(old):
    with index_writer(old, command="build"):
        (old / "lock").write_bytes(b"")
        with pytest.raises(IndexLockedError, match="another process is writing it"):
            delete_products(old, ["p00001"])


def test_lock_is_given_back_after_an_error(build, clustered, old):
    with pytest.raises(ValueError, match="the encoder broke"):
        build(clustered(20), embeddings=fail_half_way(clustered(20)))

    build(clustered(20))

    assert len(open_index(old)) == 20


# --- a full disk


@pytest.fixture
def largest_file():
    """Set the largest file the system lets us write, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def largest_file(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    yield largest_file
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("size", "name"), [(20_000, "embeddings.npy"), (40_000, "graph.bin")])
def test_file_that_cannot_be_written_whole_is_one_error_and_the_old_version_serves(
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
def test_upsert_that_cannot_be_written_whole_is_one_error_and_the_old_version_serves(
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
        (build_module, "save_graph"),
        (build_module.Bm25Index, "save"),
        (versions, "file_record"),
        (versions, "write_manifest"),
        (versions, "sync"),
        (versions.os, "rename"),
        (versions.os, "replace"),
    ],
)
def test_full_disk_is_one_error_that_says_so_and_the_old_version_serves(
    build, clustered, assert_untouched, monkeypatch, module, function
):
    monkeypatch.setattr(module, function, full_disk)

    with pytest.raises(IndexStoreError, match=r"No space left on device; free some space.*is untouched"):
        build(clustered(5), texts=["one word"] * 5)

    monkeypatch.undo()
    assert_untouched()


@pytest.mark.parametrize(
    ("module", "function"),
    [(change_module, "write_array"), (change_module, "save_graph"), (versions.os, "replace")],
)
def test_full_disk_while_deleting_is_one_error_and_the_old_version_serves(
    old, assert_untouched, monkeypatch, module, function
):
    monkeypatch.setattr(module, function, full_disk)

    with pytest.raises(IndexStoreError, match="No space left on device; free some space"):
        delete_products(old, ["p00001"])

    monkeypatch.undo()
    assert_untouched()


@pytest.mark.parametrize("function", ["rename", "replace"])
def test_first_build_on_a_full_disk_leaves_nothing(build, clustered, tmp_path, monkeypatch, function):
    monkeypatch.setattr(versions.os, function, full_disk)

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

    monkeypatch.setattr(versions.os, "fsync", fsync)
    monkeypatch.setattr(versions.os, "replace", replace_file)

    build(clustered(5), texts=["one word"] * 5)

    ((before, manifest),) = at_switch
    made = old / "versions" / "000002"
    assert len(list(made.rglob("*"))) > 8
    assert {path.stat().st_ino for path in [made.parent, made, *made.rglob("*")]} <= before
    assert manifest in before
    assert old.stat().st_ino in synced


# --- readers


def test_index_replaced_while_it_is_opened_comes_out_whole(build, clustered, old, monkeypatch):
    real, replaced = search_module.read_manifest, []

    def read(index_dir):
        manifest = real(index_dir)
        if not replaced:
            replaced.append(True)
            build(clustered(50, seed=7), keep_versions=1)
        return manifest

    monkeypatch.setattr(search_module, "read_manifest", read)

    np.testing.assert_array_equal(open_index(old).embeddings, clustered(50, seed=7))


@pytest.mark.parametrize("step", ["verify_files", "read_array", "read_products", "load_graph"])
def test_version_removed_at_any_step_of_opening_it_is_not_missed(build, clustered, old, monkeypatch, step):
    real, replaced = getattr(search_module, step), []

    def replaces_before(*arguments, **more):
        if not replaced:
            replaced.append(True)
            build(clustered(50, seed=7), keep_versions=1)
        return real(*arguments, **more)

    monkeypatch.setattr(search_module, step, replaces_before)

    index = open_index(old)

    assert replaced
    np.testing.assert_array_equal(index.embeddings, clustered(50, seed=7))


def test_version_that_was_read_before_another_became_current_is_whole(build, clustered, old, monkeypatch):
    real = search_module.rank_ids

    def rank_ids(products):
        monkeypatch.setattr(search_module, "rank_ids", real)
        build(clustered(30, seed=7))
        return real(products)

    monkeypatch.setattr(search_module, "rank_ids", rank_ids)

    index = open_index(old)

    assert index.manifest.version == 1
    np.testing.assert_array_equal(index.embeddings, clustered(30))


def test_open_index_answers_from_its_version_after_that_was_removed(build, clustered, old):
    index = open_index(old)

    build(clustered(50, seed=7), keep_versions=1)

    assert names(old / "versions") == ["000002"]
    np.testing.assert_array_equal(index.embeddings, clustered(30))
    result = index.search(clustered(30), top_k=1)
    assert result.product_ids[:, 0].tolist() == [f"p{row:05d}" for row in range(30)]


def test_index_that_is_always_being_replaced_is_an_error_of_ours(old, monkeypatch):
    steps, real = iter(range(100, 1000)), search_module.read_manifest
    monkeypatch.setattr(
        search_module, "read_manifest", lambda index_dir: replace(real(index_dir), version=next(steps))
    )

    with pytest.raises(IndexStoreError, match="replaced 10 times"):
        open_index(old)


def test_missing_folder_of_the_current_version_is_named_with_what_to_do(old):
    os.rename(old / "versions" / "000001", old / "versions" / "away")

    with pytest.raises(IndexIntegrityError, match=r"versions/000001: missing; .*rollback"):
        open_index(old)


# --- versions, going back, how many stay


@pytest.fixture
def three(build, clustered, old):
    """An index with versions 1, 2 and 3 of 30, 31 and 32 products."""
    build(clustered(31))
    build(clustered(32))
    return old


def test_every_writer_makes_a_version_and_an_older_one_can_be_opened(three):
    delete_products(three, ["p00001"], keep_versions=9)

    found = list_versions(three)

    assert [(version.number, version.current) for version in found] == [
        (1, False), (2, False), (3, False), (4, True),
    ]  # fmt: skip
    assert [version.manifest.count for version in found] == [30, 31, 32, 31]
    assert [version.manifest.command for version in found] == ["build"] * 3 + ["delete"]
    assert [len(open_index(three, version=number)) for number in (1, 2, 3, 4)] == [30, 31, 32, 31]


def test_version_that_does_not_exist_is_refused(three):
    with pytest.raises(IndexIntegrityError, match=r"versions/000009: an index holds manifest\.json"):
        open_index(three, version=9)


def test_keep_versions_removes_the_oldest(build, clustered, three):
    build(clustered(33))  # three are kept unless told otherwise
    assert numbers(three) == [2, 3, 4]

    build(clustered(34), keep_versions=2)
    assert numbers(three) == [4, 5]

    build(clustered(35), keep_versions=1)
    assert numbers(three) == [6]
    assert names(three) == WHOLE


def test_rollback_goes_to_the_version_before_and_says_which(three):
    assert rollback(three).count == 31
    assert len(open_index(three)) == 31
    assert rollback(three) == read_manifest(three)
    assert len(open_index(three)) == 30
    assert numbers(three) == [1, 2, 3]  # nothing is removed: a number goes forward again

    assert rollback(three, to=3).version == 3
    assert len(open_index(three)) == 32


def test_version_after_a_rollback_follows_the_highest_and_the_newest_are_kept(three):
    rollback(three, to=1)

    manifest = delete_products(three, ["p00001"], keep_versions=2)

    assert (manifest.version, manifest.count) == (4, 29)  # of version 1
    assert numbers(three) == [3, 4]


def test_rollback_goes_by_number_not_by_what_served_before(three):
    rollback(three, to=1)
    delete_products(three, ["p00001"], keep_versions=9)

    rollback(three)

    assert read_manifest(three).version == 3


@pytest.mark.parametrize(
    ("to", "message"),
    [(9, r"has no version 9; it has \[1, 2, 3\] and 3 is current"), (0, "has no version 0")],
)
def test_rollback_to_a_missing_version_is_refused(three, to, message):
    with pytest.raises(IndexStoreError, match=message):
        rollback(three, to=to)

    assert read_manifest(three).version == 3


def test_rollback_where_nothing_is_older_is_refused(old):
    with pytest.raises(IndexStoreError, match=r"has no older version; it has \[1\] and 1 is current"):
        rollback(old)


@pytest.mark.parametrize("name", ["graph.bin", "embeddings.npy", "manifest.json"])
def test_rollback_to_a_damaged_version_is_refused_with_the_file_and_changes_nothing(three, name):
    path = three / "versions" / "000002" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    with pytest.raises(IndexIntegrityError, match=f"000002/{name}"):
        rollback(three)

    assert read_manifest(three).version == 3
    assert names(three) == WHOLE


def test_version_that_cannot_be_read_is_listed_with_the_reason(three):
    (three / "versions" / "000002" / "manifest.json").write_text("{")

    one, two, _ = list_versions(three)

    assert one.problem is None
    assert two.manifest is None
    assert "000002/manifest.json: not a valid manifest" in two.problem


@pytest.mark.parametrize("call", [list_versions, rollback])
def test_nothing_is_made_where_there_is_no_index(tmp_path, call):
    with pytest.raises(IndexIntegrityError, match=r"manifest\.json, found none"):
        call(tmp_path / "nowhere")

    assert names(tmp_path) == []


def test_permissions_are_those_of_any_new_directory(build, clustered, tmp_path):
    mask = os.umask(0o022)
    try:
        build(clustered(3))
    finally:
        os.umask(mask)

    assert (tmp_path / "index").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "index" / "versions" / "000001").stat().st_mode & 0o777 == 0o755
