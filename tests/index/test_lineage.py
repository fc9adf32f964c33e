"""Versions record their ancestors: rollback follows them, and pruning keeps them first."""

import random
from dataclasses import dataclass, replace

import pytest

from aisle.errors import ConfigError, IndexStoreError
from aisle.index import (
    compact_index,
    delete_products,
    index_writer,
    list_versions,
    open_index,
    read_manifest,
    retune_index,
    rollback,
)
from aisle.index.backends.hnsw import GRAPH_FILE
from aisle.index.manifest import INDEX_FILES


def numbers(index_dir):
    return [version.number for version in list_versions(index_dir)]


def made_from(index_dir):
    """Return the parent of every existing version."""
    return {version.number: version.manifest.parent for version in list_versions(index_dir)}


def test_rollback_after_an_upsert_goes_to_the_version_that_was_upserted(build, clustered, upsert, old):
    build(clustered(31))
    build(clustered(32))
    rollback(old, to=1)

    fourth = upsert(["new"], clustered(1, seed=7))

    assert (fourth.version, fourth.parent, fourth.count) == (4, 1, 31)
    assert numbers(old) == [1, 3, 4]  # the newest of the abandoned versions stays
    assert rollback(old).version == 1
    assert len(open_index(old)) == 30


def test_rollback_never_lands_on_a_version_that_was_rolled_back_from(old):
    delete_products(old, ["p00001", "p00002"])
    rollback(old)
    delete_products(old, ["p00003"])

    assert made_from(old) == {1: None, 2: 1, 3: 1}
    assert rollback(old).version == 1


def test_every_kind_of_change_records_its_ancestors(build, clustered, upsert, old):
    upsert(["new"], clustered(1, seed=7), keep_versions=9)
    delete_products(old, ["p00001"])
    compact_index(old)
    retune_index(old)
    build(clustered(31))

    versions = list_versions(old)
    assert [version.manifest.command for version in versions] == [
        "build", "upsert", "delete", "compact", "tune", "build",
    ]  # fmt: skip
    assert made_from(old) == {1: None, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5}


def test_rollback_skips_removed_ancestors(build, clustered, old):
    build(clustered(31))
    build(clustered(32))
    rollback(old, to=1)
    assert delete_products(old, ["p00001"]).pruned == (2,)
    rollback(old, to=3)  # made from version 2

    assert rollback(old).version == 1


def test_rollback_from_a_version_without_ancestors_lists_the_versions(build, clustered, old):
    build(clustered(31))
    rollback(old)

    with pytest.raises(
        IndexStoreError, match=r"has no older version; it has \[1, 2\] and 1 is current, .*--to"
    ):
        rollback(old)


def test_number_of_versions_is_remembered_until_another_is_given(build, clustered, old):
    build(clustered(31), keep_versions=5)
    for count in range(32, 36):
        build(clustered(count))
    assert numbers(old) == [2, 3, 4, 5, 6]

    rollback(old, to=2)
    assert delete_products(old, ["p00001"]).pruned == (3,)
    assert numbers(old) == [2, 4, 5, 6, 7]

    assert delete_products(old, ["p00002"], keep_versions=3).pruned == (4, 5, 6)
    assert delete_products(old, ["p00003"]).pruned == (2,)
    assert read_manifest(old).keep_versions == 3


def test_number_of_versions_outlives_a_rollback_to_a_version_from_before_it_was_given(build, clustered, old):
    build(clustered(31), keep_versions=6)
    rollback(old, to=1)  # its manifest keeps 3

    for row in range(4):
        assert delete_products(old, [f"p0000{row}"]).pruned == ()

    assert numbers(old) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("number", [0, -1])
def test_number_of_versions_below_one_is_refused_before_writing(build, clustered, old, number):
    def embeddings():
        raise AssertionError("nothing is to be embedded")
        yield

    with pytest.raises(ConfigError, match=f"keep_versions: must be at least 1, found {number}"):
        build(clustered(31), embeddings=embeddings(), keep_versions=number)


@dataclass
class Oracle:
    """Model of the versions: the parent of each, the existing versions, the current version."""

    parents: dict
    there: set
    current: int
    keep: int

    def chain(self, number):
        """Return all ancestors of a version, nearest first, also removed ones."""
        found = []
        while (number := self.parents[number]) is not None:
            found.append(number)
        return found

    def commit(self, keep):
        new = max(self.parents) + 1
        self.keep = keep or self.keep
        self.parents[new], self.current = self.current, new
        ancestors = [number for number in self.chain(new) if number in self.there]
        others = sorted(self.there - set(ancestors), reverse=True)
        kept = [new, *ancestors, *others][: self.keep]
        pruned = self.there - set(kept)
        self.there = set(kept)
        return pruned

    def back(self):
        return next((number for number in self.chain(self.current) if number in self.there), None)


def commit(index_dir, manifest, keep):
    """Commit a version with empty files; return its manifest."""
    with index_writer(index_dir, command="delete", keep_versions=keep) as writer:
        for name in (*INDEX_FILES, GRAPH_FILE):
            (writer.staging / name).write_bytes(str(writer.number).encode())
        return writer.commit(replace(manifest, command="delete"))


@pytest.mark.parametrize("seed", range(8))
def test_random_changes_and_rollbacks_agree_with_an_oracle(old, seed):
    random_ = random.Random(seed)
    manifest = read_manifest(old)
    oracle = Oracle({1: None}, {1}, 1, 3)
    for _ in range(40):
        what = random_.random()
        if what < 0.55:
            keep = random_.choice([None, None, None, 1, 2, 3, 5])
            pruned = oracle.commit(keep)
            assert set(commit(old, manifest, keep).pruned) == pruned
        elif what < 0.8:
            expected = oracle.back()
            if expected is None:
                with pytest.raises(IndexStoreError, match="has no older version"):
                    rollback(old)
            else:
                assert rollback(old).version == expected
                oracle.current = expected
        else:
            oracle.current = random_.choice(sorted(oracle.there))
            rollback(old, to=oracle.current)

        assert set(numbers(old)) == oracle.there
        assert read_manifest(old).version == oracle.current
