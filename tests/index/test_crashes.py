"""A writer that fails or is killed at any point leaves the old version or the new one."""

import os
import signal
import subprocess
import sys

import pytest

from aisle.errors import IndexIntegrityError
from aisle.index import delete_products, list_versions, open_index, read_manifest, rollback

WHOLE = ["lock", "manifest.json", "versions"]

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from aisle.index import build_index, delete_products, upsert_products

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
def test_killed_writer_leaves_a_complete_version_and_the_next_writer_cleans_up(
    clustered, old, operation, moment, survives
):
    kill(old, operation, moment)

    index = open_index(old)
    expected = 30 if survives == "old" else COUNT_AFTER[operation]
    assert (index.manifest.version, len(index)) == (1 if survives == "old" else 2, expected)
    index.search(clustered(3, seed=1), top_k=expected)
    assert names(old) != WHOLE  # leftovers of the killed writer

    some_id = index.products.column("product_id")[3].as_py()
    delete_products(old, [some_id])

    index = open_index(old)
    assert len(index) == expected - 1
    assert names(old) == WHOLE
    assert all(version.problem is None for version in list_versions(old))


def test_version_that_never_became_current_is_not_restored(old):
    kill(old, "delete", "moved")  # version 2 is complete, and 1 is still current

    delete_products(old, ["p00001"])

    assert numbers(old) == [1, 2]
    rollback(old)
    assert len(open_index(old)) == 30


@pytest.mark.parametrize("moment", ["embedding", "staged", "before the switch"])
def test_killed_first_build_is_not_an_index_and_the_next_build_succeeds(build, clustered, tmp_path, moment):
    kill(tmp_path / "index", "build", moment)

    with pytest.raises(IndexIntegrityError, match=r"manifest\.json, found none"):
        open_index(tmp_path / "index")
    build(clustered(5))
    assert names(tmp_path / "index") == WHOLE
    assert numbers(tmp_path / "index") == [1]


def test_leftovers_of_a_crashed_writer_are_removed_by_the_next_writer(old):
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
