"""One writer at a time: a second writer is refused by name of the first; a dead writer's lock is free."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from aisle.errors import IndexLockedError, IndexStoreError
from aisle.index import delete_products, index_writer, list_versions, open_index, rollback

WHOLE = ["lock", "manifest.json", "versions"]

HOLDER = """
import sys
from pathlib import Path
from aisle.index import index_writer

with index_writer(Path(sys.argv[1]), command="upsert"):
    print("held", flush=True)
    sys.stdin.read()
"""


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def numbers(index_dir):
    return [version.number for version in list_versions(index_dir)]


def fail_half_way(vectors):
    yield vectors[:10]
    raise ValueError("the encoder broke")


def test_second_writer_is_refused_with_the_lock_s_holder_and_readers_continue(
    build, clustered, old, assert_untouched
):
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


def test_lock_of_an_ended_process_can_be_taken(build, clustered, old):
    command = [sys.executable, "-c", HOLDER, str(old)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(IndexLockedError, match=f"upsert, process {holder.pid} on .* since 20"):
            build(clustered(7))
        assert names(old / ".building") == ["version"]  # the refused writer removed no file
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    build(clustered(7))

    assert len(open_index(old)) == 7
    assert names(old) == WHOLE


def test_empty_lock_file_still_locks(old):
    with index_writer(old, command="build"):
        (old / "lock").write_bytes(b"")
        with pytest.raises(IndexLockedError, match="another process is writing it"):
            delete_products(old, ["p00001"])


def test_lock_is_released_after_an_error(build, clustered, old):
    with pytest.raises(ValueError, match="the encoder broke"):
        build(clustered(20), embeddings=fail_half_way(clustered(20)))

    build(clustered(20))

    assert len(open_index(old)) == 20


@pytest.fixture(params=[errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def no_locks(request, monkeypatch):
    """Simulate a file system without locks, such as some NFS and Lustre mounts."""

    def flock(descriptor, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    return os.strerror(request.param)


def test_writer_is_refused_without_file_locks_and_readers_continue(
    build, clustered, old, no_locks, assert_untouched
):
    message = f"{old}: its file system refuses the lock .*: {no_locks}; write to a folder on a local disk"
    with pytest.raises(IndexStoreError, match=message):
        build(clustered(20))
    with pytest.raises(IndexStoreError, match=message):
        delete_products(old, ["p00001"])
    with pytest.raises(IndexStoreError, match=message):
        rollback(old, to=1)

    assert_untouched()
    assert len(open_index(old)) == 30


def test_first_build_without_locks_leaves_nothing(build, clustered, tmp_path, no_locks):
    with pytest.raises(IndexStoreError, match=no_locks):
        build(clustered(20))

    assert names(tmp_path) == []
