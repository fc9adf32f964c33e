"""Versions side by side: readers during changes, pruning, and rollback."""

import os
from dataclasses import replace

import numpy as np
import pytest

from aisle.errors import IndexIntegrityError, IndexStoreError
from aisle.index import delete_products, list_versions, open_index, read_manifest, reader, rollback

WHOLE = ["lock", "manifest.json", "versions"]


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def numbers(index_dir):
    return [version.number for version in list_versions(index_dir)]


# --- readers


def test_index_replaced_while_it_is_opened_is_consistent(build, clustered, old, monkeypatch):
    real, replaced = reader.read_manifest, []

    def read(index_dir):
        manifest = real(index_dir)
        if not replaced:
            replaced.append(True)
            build(clustered(50, seed=7), keep_versions=1)
        return manifest

    monkeypatch.setattr(reader, "read_manifest", read)

    np.testing.assert_array_equal(open_index(old).embeddings, clustered(50, seed=7))


@pytest.mark.parametrize("step", ["verify_files", "read_array", "read_products", "recorded_backend"])
def test_version_removed_at_any_step_of_opening_it_is_not_missed(build, clustered, old, monkeypatch, step):
    real, replaced = getattr(reader, step), []

    def replaces_before(*arguments, **more):
        if not replaced:
            replaced.append(True)
            build(clustered(50, seed=7), keep_versions=1)
        return real(*arguments, **more)

    monkeypatch.setattr(reader, step, replaces_before)

    index = open_index(old)

    assert replaced
    np.testing.assert_array_equal(index.embeddings, clustered(50, seed=7))


def test_version_opened_before_another_became_current_stays_usable(build, clustered, old, monkeypatch):
    real = reader.rank_ids

    def rank_ids(products):
        monkeypatch.setattr(reader, "rank_ids", real)
        build(clustered(30, seed=7))
        return real(products)

    monkeypatch.setattr(reader, "rank_ids", rank_ids)

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


def test_index_that_keeps_being_replaced_is_an_index_store_error(old, monkeypatch):
    steps, real = iter(range(100, 1000)), reader.read_manifest
    monkeypatch.setattr(
        reader, "read_manifest", lambda index_dir: replace(real(index_dir), version=next(steps))
    )

    with pytest.raises(IndexStoreError, match="replaced 10 times"):
        open_index(old)


def test_missing_folder_of_the_current_version_is_named_with_advice(old):
    os.rename(old / "versions" / "000001", old / "versions" / "away")

    with pytest.raises(IndexIntegrityError, match=r"versions/000001: missing; .*rollback"):
        open_index(old)


# --- versions, rollback, pruning


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
    build(clustered(33))  # three are kept by default
    assert numbers(three) == [2, 3, 4]

    assert build(clustered(34), keep_versions=2).pruned == (2, 3)
    assert numbers(three) == [4, 5]

    build(clustered(35), keep_versions=1)
    assert numbers(three) == [6]
    assert names(three) == WHOLE


def test_rollback_goes_to_the_parent_version_and_returns_its_manifest(three):
    assert rollback(three).count == 31
    assert len(open_index(three)) == 31
    assert rollback(three) == read_manifest(three)
    assert len(open_index(three)) == 30
    assert numbers(three) == [1, 2, 3]  # nothing is removed: a number goes forward again

    assert rollback(three, to=3).version == 3
    assert len(open_index(three)) == 32


def test_version_after_a_rollback_follows_the_highest_and_its_ancestors_are_kept(three):
    rollback(three, to=1)

    manifest = delete_products(three, ["p00001"], keep_versions=2)

    assert (manifest.version, manifest.count) == (4, 29)  # of version 1
    assert numbers(three) == [1, 4]


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


def test_lost_manifest_is_named_with_the_way_back(three):
    (three / "manifest.json").unlink()

    with pytest.raises(IndexIntegrityError) as caught:
        open_index(three)

    assert f"{three}/manifest.json: missing" in str(caught.value)
    way_back = f"go back to the newest with: aisle rollback --index_dir {three}"
    assert f"versions [1, 2, 3] are there: {way_back}" in str(caught.value)
    assert [(version.number, version.current) for version in list_versions(three)] == [
        (1, False), (2, False), (3, False),
    ]  # fmt: skip


@pytest.mark.parametrize(("to", "count"), [(None, 32), (2, 31)])
def test_lost_manifest_is_mended_by_rollback(three, to, count):
    (three / "manifest.json").unlink()

    assert rollback(three, to=to).count == count

    assert len(open_index(three)) == count
    assert numbers(three) == [1, 2, 3]
    assert names(three) == WHOLE


def test_lost_manifest_and_a_refused_rollback_cost_no_version(three):
    (three / "manifest.json").unlink()

    with pytest.raises(IndexStoreError, match=r"has no version 9; it has \[1, 2, 3\] and none is current"):
        rollback(three, to=9)

    assert numbers(three) == [1, 2, 3]


def test_build_over_a_lost_manifest_counts_on_and_comes_from_the_newest(build, clustered, three):
    (three / "manifest.json").unlink()

    manifest = build(clustered(5))

    assert (manifest.version, manifest.parent) == (4, 3)
    assert rollback(three).version == 3


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


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff"])
def test_damaged_current_manifest_is_mended_by_rollback_or_by_a_build(build, clustered, three, damage):
    (three / "manifest.json").write_bytes(damage)
    with pytest.raises(IndexIntegrityError, match=r"manifest\.json"):
        open_index(three)

    assert rollback(three).version == 3
    assert open_index(three).manifest.version == 3

    (three / "manifest.json").write_bytes(damage)
    assert build(clustered(5)).version == 4
    assert open_index(three).manifest.version == 4


def test_damaged_manifest_without_a_version_is_refused(build, clustered, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text("{}")
    with pytest.raises(IndexStoreError, match=r"manifest\.json"):
        build(clustered(5))
