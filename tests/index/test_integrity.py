"""Damage and mismatch are refused before hnswlib reads a byte."""

import json
import os
import shutil

import numpy as np
import pytest

from aisle.errors import FingerprintMismatchError, IndexIntegrityError, IndexStoreError
from aisle.index import (
    array_files,
    compact_index,
    delete_products,
    integrity,
    manifest,
    open_index,
    open_stored,
    read_manifest,
    reader,
    retune_index,
)
from aisle.index.backends.hnsw import HnswBackend
from aisle.index.dense_search import approximate_search, build_graph
from aisle.index.manifest import FORMAT_VERSION

FILES = [
    "embeddings.npy",
    "graph.bin",
    "nodes.npy",
    "products.arrow",
    "queries.npy",
    "lexical/bm25.json",
    "lexical/rows.npy",
]


@pytest.fixture
def index_dir(build, clustered, tmp_path, monkeypatch):
    """An index that must be refused before hnswlib reads one of its files."""
    build(clustered(40), texts=[f"word{row % 7} thing" for row in range(40)])

    def load(*_, **__):
        pytest.fail("hnswlib was given a file that should have been refused")

    monkeypatch.setattr(HnswBackend, "load", load)
    return tmp_path / "index"


@pytest.fixture
def folder(index_dir, current_folder):
    return current_folder(index_dir)


def rewrite(index_dir, **changes):
    """Write the manifest again with other values and a matching checksum."""
    path = index_dir / "manifest.json"
    document = json.loads(path.read_text()) | changes
    document.pop("manifest_sha256")
    document["manifest_sha256"] = manifest._checksum(document)
    path.write_text(json.dumps(document))


def test_missing_directory_is_refused(tmp_path):
    with pytest.raises(IndexIntegrityError, match="nowhere: must be an index directory"):
        open_index(tmp_path / "nowhere")


def test_directory_without_manifest_is_refused(index_dir):
    (index_dir / "manifest.json").unlink()

    with pytest.raises(
        IndexIntegrityError, match=r"manifest\.json: missing, .* version 1 is there: .*rollback"
    ):
        open_index(index_dir)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_refused_with_its_name(index_dir, folder, name):
    (folder / name).unlink()

    with pytest.raises(IndexIntegrityError, match=f"000001/{name}: missing"):
        open_index(index_dir, verify="sizes")


@pytest.mark.parametrize("verify", ["checksums", "sizes"])
@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_refused_with_its_name_and_both_sizes(index_dir, folder, name, verify):
    size = (folder / name).stat().st_size
    os.truncate(folder / name, size - 1)

    with pytest.raises(
        IndexIntegrityError, match=f"{name}: the manifest records {size} bytes, found {size - 1}"
    ):
        open_index(index_dir, verify=verify)


@pytest.mark.parametrize("where", [0, 0.5, 1])
@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_is_refused_with_the_file_and_both_checksums(index_dir, folder, name, where):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    path.write_bytes(content)

    with pytest.raises(IndexIntegrityError) as caught:
        open_index(index_dir)

    assert name in str(caught.value)
    assert read_manifest(index_dir).files[name].sha256 in str(caught.value)
    assert integrity.file_record(path).sha256 in str(caught.value)


@pytest.mark.parametrize("name", ["embeddings.npy", "products.arrow"])
def test_stored_products_are_checked_before_a_rebuild_reuses_them(index_dir, folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)

    with pytest.raises(IndexIntegrityError, match=f"{name}: altered"):
        open_stored(index_dir)


def test_stored_products_are_those_of_the_current_version(build, clustered, tmp_path):
    build(clustered(9))
    build(clustered(12, seed=1))

    stored = open_stored(tmp_path / "index")

    assert stored.manifest.version == 2
    assert stored.products.column("product_id").to_pylist() == [f"p{row:05d}" for row in range(12)]
    np.testing.assert_array_equal(stored.embeddings, clustered(12, seed=1))


# Compacting builds the graph again, and so repairs a damaged graph (test_graph_loading.py).
@pytest.mark.parametrize(
    ("change", "damaged"),
    [(delete_products, "graph.bin"), (retune_index, "graph.bin"), (compact_index, "embeddings.npy")],
)
def test_no_new_version_is_made_of_a_damaged_one(index_dir, folder, change, damaged):
    os.truncate(folder / damaged, 100)

    with pytest.raises(IndexIntegrityError, match=rf"{damaged}: the manifest records"):
        change(index_dir, **({"product_ids": ["p00001"]} if change is delete_products else {}))

    assert [path.name for path in folder.parent.iterdir()] == ["000001"]


def test_a_flipped_byte_never_changes_the_manifest_s_values(index_dir):
    path = index_dir / "manifest.json"
    true, content = read_manifest(index_dir), path.read_bytes()
    refused = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            assert read_manifest(index_dir) == true, content[max(0, at - 9) : at + 9]
        except IndexIntegrityError:
            refused += 1

    assert refused > 0.8 * len(content)  # the rest is white space


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"\xff\xfe", "must be JSON"),
        (b"[" * 100_000, "must be JSON"),
        (b"[]", "JSON object, found list"),
        (b"{}", "format_version must be a whole number, found None"),
        (b'{"format_version": "1"}', "format_version must be a whole number, found '1'"),
        (b'{"format_version": true}', "format_version must be a whole number, found True"),
        (f'{{"format_version": {FORMAT_VERSION}}}'.encode(), "manifest_sha256 is None"),
    ],
)
def test_manifest_of_another_program_is_refused(index_dir, content, message):
    (index_dir / "manifest.json").write_bytes(content)

    with pytest.raises(IndexIntegrityError, match=message):
        open_index(index_dir)


@pytest.mark.parametrize(
    ("version", "message"),
    [(FORMAT_VERSION + 1, "newer aisle: upgrade"), (FORMAT_VERSION - 2, "build the index again")],
)
def test_manifest_of_another_format_is_refused(index_dir, version, message):
    rewrite(index_dir, format_version=version)

    with pytest.raises(
        IndexIntegrityError, match=f"format {FORMAT_VERSION}, found format {version}.*{message}"
    ):
        open_index(index_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": "16"}, "dim: .*valid integer"),
        ({"dim": 16.0}, "dim: .*valid integer"),
        ({"backend": {"name": "hnsw", "parameters": {"M": 1}}}, "M must be at least 2, found 1"),
        ({"backend": {"name": "hnsw", "parameters": {"M": "16"}}}, "M must be int, found '16'"),
        ({"backend": {"name": "hnsw", "parameters": {"links": 4}}}, "links: backend 'hnsw' has no such"),
        ({"backend": {"name": "annoy", "parameters": {}}}, "must be one of hnsw, exact, found 'annoy'"),
        ({"backend": {"name": "exact", "parameters": {}}}, "the manifest must list"),
        ({"ef_search": True}, "ef_search: .*valid integer"),
        ({"metric": "l2"}, "metric: .*'cosine'"),
        ({"store_dtype": "int8"}, "store_dtype"),
        ({"ann_recall@10": 1.5}, "ann_recall@10"),
        ({"files": {"graph.bin": {"sha256": "0" * 64, "size": -1}}}, r"files\.graph\.bin\.size"),
        ({"files": {"graph.bin": {"sha256": "xyz", "size": 1}}}, r"files\.graph\.bin\.sha256"),
        ({"files": {}}, "the manifest must list"),
        ({"version": 0}, "version: .*greater than or equal to 1"),
        ({"recall_curve": [{"ef_search": 0, "recall": 1, "milliseconds": 1}]}, r"recall_curve\.0\.ef_search"),
        ({"target_recall": 2}, "target_recall"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_manifest_with_a_wrong_value_is_refused_with_the_key(index_dir, changes, message):
    rewrite(index_dir, **changes)

    with pytest.raises(IndexIntegrityError, match=message):
        open_index(index_dir)


@pytest.mark.parametrize(
    "name",
    [
        "../../secret",
        "/etc/passwd",
        "other.bin",
        "lexical/../../../secret",
        "lexical/..",
        "lexical/.hidden",
        "lexical/a/b",
        "lexical/",
        "lexical/rows.npy\n",
        "./graph.bin",
    ],
)
def test_unknown_file_names_are_refused_and_not_read(index_dir, monkeypatch, name):
    listed = json.loads((index_dir / "manifest.json").read_text())["files"]
    rewrite(index_dir, files=listed | {name: {"sha256": "0" * 64, "size": 1}})
    monkeypatch.setattr(integrity, "file_problem", lambda *_, **__: pytest.fail("a file was looked at"))

    with pytest.raises(IndexIntegrityError, match="the manifest must list"):
        open_index(index_dir)


@pytest.mark.parametrize("name", [name for name in FILES if "/" not in name])
def test_file_that_the_manifest_does_not_list_is_never_read(index_dir, name):
    listed = json.loads((index_dir / "manifest.json").read_text())["files"]
    del listed[name]
    rewrite(index_dir, files=listed)

    with pytest.raises(IndexIntegrityError, match="the manifest must list"):
        open_index(index_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 8}, r"embeddings\.npy: .*\(40, 8\), found float32 of shape \(40, 16\)"),
        ({"count": 41}, r"embeddings\.npy: .*\(41, 16\), found float32 of shape \(40, 16\)"),
        ({"store_dtype": "float16"}, r"embeddings\.npy: .*records float16"),
    ],
)
def test_embeddings_that_differ_from_the_manifest_are_refused(index_dir, changes, message):
    rewrite(index_dir, **changes)

    with pytest.raises(IndexIntegrityError, match=message):
        open_index(index_dir)


@pytest.mark.parametrize("name", ["embeddings.npy", "nodes.npy", "products.arrow"])
def test_file_of_another_format_is_refused_even_with_its_checksum(index_dir, folder, name):
    (folder / name).write_bytes(b"not the checked bytes " * 10)
    record = integrity.file_record(folder / name)
    files = json.loads((index_dir / "manifest.json").read_text())["files"]
    rewrite(index_dir, files=files | {name: {"sha256": record.sha256, "size": record.size}})

    with pytest.raises(IndexIntegrityError, match=f"{name}: must be"):
        open_index(index_dir)


def test_pickled_embeddings_are_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], object), allow_pickle=True)

    with pytest.raises(IndexIntegrityError, match="NumPy array file"):
        array_files.read_array(tmp_path / "x.npy", shape=(1,), dtype="float32")


@pytest.mark.parametrize(
    "content", [None, b"x" * 40, np.zeros((3, 16), np.float64), np.zeros((0, 16), np.float32)]
)
def test_queries_of_another_kind_are_refused_when_they_are_needed(
    build, clustered, current_folder, tmp_path, content
):
    build(clustered(40))
    path = current_folder(tmp_path / "index") / "queries.npy"
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content or b"")
    record = integrity.file_record(path)
    listed = json.loads((tmp_path / "index" / "manifest.json").read_text())["files"]
    rewrite(
        tmp_path / "index", files=listed | {"queries.npy": {"sha256": record.sha256, "size": record.size}}
    )

    with pytest.raises(IndexIntegrityError, match=r"queries\.npy: must"):
        retune_index(tmp_path / "index")


def test_graph_of_another_index_is_refused(build, clustered, current_folder, tmp_path):
    build(clustered(40), tmp_path / "a")
    build(clustered(30), tmp_path / "b")
    shutil.copy(current_folder(tmp_path / "b") / "graph.bin", current_folder(tmp_path / "a") / "graph.bin")
    rewrite(
        tmp_path / "a",
        files=json.loads((tmp_path / "a" / "manifest.json").read_text())["files"]
        | {"graph.bin": json.loads((tmp_path / "b" / "manifest.json").read_text())["files"]["graph.bin"]},
    )

    with pytest.raises(
        IndexIntegrityError, match=r"records 40 graph nodes, 40 of them in use; graph\.bin has 30"
    ):
        open_index(tmp_path / "a")


def test_another_encoder_is_refused_with_both_named(build, clustered, tmp_path):
    build(clustered(3), fingerprint="aaaa", encoder={"model": "intfloat/e5"})

    with pytest.raises(FingerprintMismatchError) as caught:
        open_index(tmp_path / "index", fingerprint="bbbb")

    for text in ("aaaa", "bbbb", "intfloat/e5", "build the index again", "query with the old one"):
        assert text in str(caught.value)


def test_the_encoder_that_made_the_index_is_accepted(build, clustered, tmp_path):
    build(clustered(3), fingerprint="aaaa")

    assert open_index(tmp_path / "index", fingerprint="aaaa").manifest.fingerprint == "aaaa"


def test_unreadable_file_is_an_index_store_error(build, clustered, tmp_path, monkeypatch):
    build(clustered(3))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(reader, "verify_files", refuse)

    with pytest.raises(IndexStoreError, match=r"could not be read: .*Permission denied"):
        open_index(tmp_path / "index")


def test_saving_and_loading_changes_no_answer(build, clustered, tmp_path):
    vectors, queries = clustered(400), clustered(30, seed=1)
    build(vectors, ef_search=128)
    opened = open_index(tmp_path / "index")
    groups = opened.graph.groups
    in_memory = build_graph(vectors, groups, backend="hnsw", parameters={}, threads=1)

    rows, scores = approximate_search(
        in_memory, vectors, queries, top_k=10, tie_ranks=opened.tie_ranks, effort=128
    )

    result = opened.search(queries, top_k=10)
    np.testing.assert_array_equal(result.rows, rows)
    np.testing.assert_array_equal(result.scores, scores)


def test_copied_index_is_the_same_index(build, clustered, tmp_path):
    build(clustered(100))
    shutil.copytree(tmp_path / "index", tmp_path / "copy")
    queries = clustered(5, seed=1)

    here, there = open_index(tmp_path / "index"), open_index(tmp_path / "copy")

    assert here.search(queries, top_k=9).rows.tolist() == there.search(queries, top_k=9).rows.tolist()
