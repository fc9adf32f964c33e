"""Builds: accepted arguments, written files, recorded settings."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import ConfigError, DataError, IndexStoreError, ModelError
from aisle.index import list_versions, open_index, read_manifest
from aisle.index.manifest import FORMAT_VERSION


def timeless(manifest):
    """Return the manifest without the times that differ from run to run."""
    curve = tuple(replace(point, milliseconds=0.0) for point in manifest.recall_curve)
    return replace(manifest, created="", recall_curve=curve)


def test_returned_manifest_equals_the_one_on_disk(build, clustered, current_folder, files_under, tmp_path):
    manifest = build(
        clustered(30),
        encoder={"path": "runs/é", "seed": 1},
        text_template="{title} {brand}",
        M=5,
        ef_construction=17,
        ef_search=9,
        store_dtype="float16",
    )

    assert read_manifest(tmp_path / "index") == manifest
    written = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert written["ann_recall@10"] == manifest.ann_recall_at_10
    assert written["format_version"] == FORMAT_VERSION
    chosen = {
        "encoder": {"path": "runs/é", "seed": 1},
        "text_template": "{title} {brand}",
        "backend": {"name": "hnsw", "parameters": {"M": 5, "ef_construction": 17}},
        "ef_search": 9,
        "store_dtype": "float16",
        "metric": "cosine",
        "count": 30,
        "dim": 16,
        "version": 1,
        "command": "build",
        "graph_nodes": 30,
        "deleted_nodes": 0,
        "target_recall": None,
        "built_recall": manifest.ann_recall_at_10,
    }
    assert {key: written[key] for key in chosen} == chosen
    files = files_under(current_folder(tmp_path / "index"))
    assert set(written["files"]) | {"manifest.json"} == set(files)
    assert files["manifest.json"] == (tmp_path / "index" / "manifest.json").read_bytes()


def test_texts_are_indexed_and_listed(build, clustered, tmp_path):
    manifest = build(clustered(3), texts=["red shoe", "blue shoe", "green hat"])

    index = open_index(tmp_path / "index")

    assert any(name.startswith("lexical/") for name in manifest.files)
    rows, _ = index.lexical.rank(["shoe blue"], top_k=3)
    assert rows[0].tolist() == [1, 0]
    assert index.payload(np.arange(3)) == [{}, {}, {}]  # texts are not payload


def test_recall_is_measured_at_the_ef_search_of_the_manifest(build, clustered, tmp_path):
    vectors, graph = clustered(1000, dim=32), {"M": 4, "ef_construction": 8}

    careless = build(vectors, tmp_path / "careless", ef_search=1, **graph)
    careful = build(vectors, tmp_path / "careful", ef_search=500, **graph)

    assert careless.ann_recall_at_10 < 0.95 < careful.ann_recall_at_10


def test_embeddings_file_is_a_plain_numpy_file_whatever_the_chunks(
    build, clustered, current_folder, tmp_path
):
    vectors = clustered(50)

    build(vectors, embeddings=(vectors[at : at + 7] for at in range(0, 50, 7)))

    np.testing.assert_array_equal(np.load(current_folder(tmp_path / "index") / "embeddings.npy"), vectors)


def test_opened_index_reads_the_disk_instead_of_memory(build, clustered, tmp_path):
    vectors = clustered(50)
    build(vectors)

    index = open_index(tmp_path / "index")

    assert not index.embeddings.flags.owndata
    assert not index.embeddings.flags.writeable
    np.testing.assert_array_equal(index.embeddings, vectors)


def test_one_thread_writes_the_same_bytes_every_time(build, clustered, current_folder, files_under, tmp_path):
    vectors = clustered(500)
    vectors[100:200] = vectors[7]
    more = {
        "texts": [f"word{row % 9} thing" for row in range(500)],
        "payload": pa.table({"price": range(500)}),
    }

    one = build(vectors, tmp_path / "a", **more)
    other = build(vectors, tmp_path / "b", embeddings=np.array_split(vectors, 9), **more)

    files = [files_under(current_folder(tmp_path / name)) for name in "ab"]
    for written in files:
        del written["manifest.json"]
    assert len(files[0]) > 6
    assert files[0] == files[1]
    assert timeless(one) == timeless(other)


def test_progress_adds_up_to_the_products(build, clustered):
    vectors, placed = clustered(5000, dim=4), []
    vectors[10:20] = vectors[10]

    build(vectors, M=4, ef_construction=8, on_progress=placed.append)

    assert len(placed) == 2
    assert sum(placed) == 5000


def test_payload_is_stored_without_foreign_metadata(build, clustered, tmp_path):
    payload = pa.table({"brand": pa.chunked_array([["x"], ["y", "z"]])}).replace_schema_metadata({"a": "b"})

    build(clustered(3), payload=payload)

    table = open_index(tmp_path / "index").products
    assert table.schema.metadata is None
    assert table.to_pydict() == {"product_id": ["p00000", "p00001", "p00002"], "brand": ["x", "y", "z"]}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "a"], r"'a': ids must be unique, found it in rows 0 and 2"),
        (["a", " ", "c"], r"' ' of row 1"),
        (["a", 7, "c"], r"7 of row 1"),
        (["a", None, "c"], r"None of row 1"),
        (["a", "b\ud800", "c"], r"b\\ud800.*not valid Unicode"),
    ],
)
def test_bad_product_ids_are_refused_and_named(build, clustered, ids, message):
    with pytest.raises(DataError, match=message):
        build(clustered(3), product_ids=ids)


def test_no_products_are_refused(build):
    with pytest.raises(DataError, match="at least one product"):
        build(np.empty((0, 4), np.float32))


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (pa.table({"a": [1, 2]}), "found 2 rows for 3 products"),
        (pa.table({"product_id": ["x", "y", "z"]}), "product_id"),
        (pa.table({"__text__": ["x", "y", "z"]}), "__text__"),
        (pa.table([[1, 2, 3], [4, 5, 6]], names=["a", "a"]), "'a', 'a'"),
    ],
)
def test_payload_that_does_not_fit_is_refused(build, clustered, payload, message):
    with pytest.raises(DataError, match=message):
        build(clustered(3), payload=payload)


def test_texts_that_do_not_fit_are_refused(build, clustered):
    with pytest.raises(DataError, match="texts: one per product is needed, found 2 for 3"):
        build(clustered(3), texts=["a", "b"])


@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0])
def test_embedding_that_is_not_a_finite_unit_vector_is_refused_with_its_product(build, clustered, value):
    vectors = clustered(6)
    vectors[4, 0] = value

    with pytest.raises(ModelError, match=r"product_id 'p00004' \(row 4\)"):
        build(vectors, embeddings=[vectors[:3], vectors[3:]])


def test_zero_embedding_is_refused_with_its_product(build, clustered):
    vectors = clustered(3)
    vectors[2] = 0

    with pytest.raises(ModelError, match=r"'p00002'.* found norm 0"):
        build(vectors)


def test_norms_within_the_tolerance_are_kept_as_they_are(build, clustered, tmp_path):
    vectors = clustered(3) * np.float32(1.0009)

    build(vectors)

    np.testing.assert_array_equal(open_index(tmp_path / "index").embeddings, vectors)


@pytest.mark.parametrize(
    "chunk", [np.ones((2, 15), np.float32), np.ones(16, np.float32), np.ones((2, 16), int)]
)
def test_chunk_of_another_shape_or_type_is_refused_with_its_product(build, clustered, chunk):
    vectors = clustered(3)

    with pytest.raises(ModelError, match=r"'p00001': chunks must be \(n, 16\) float32, found"):
        build(vectors, embeddings=[vectors[:1], chunk])


def test_too_few_embeddings_are_refused_with_the_first_product_without_one(build, clustered):
    vectors = clustered(5)

    with pytest.raises(DataError, match=r"found 3 for 5 products.*'p00003'"):
        build(vectors, embeddings=[vectors[:3]])


def test_too_many_embeddings_are_refused(build, clustered):
    vectors = clustered(5)

    with pytest.raises(DataError, match="found 6 or more for 5"):
        build(vectors, embeddings=[vectors, vectors[:1]])


def test_every_setting_out_of_range_is_named_before_anything_is_embedded(build, clustered):
    def embed():
        pytest.fail("embedded before the settings were checked")
        yield

    with pytest.raises(ConfigError) as caught:
        build(clustered(3), embeddings=embed(), M=1, ef_construction=0, ef_search=0, threads=0)

    for text in (
        "M must be at least 2, found 1",
        "ef_construction must be at least 1",
        "ef_search",
        "threads",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize("encoder", [{"path": object()}, {"dropout": float("nan")}])
def test_encoder_must_be_json(build, clustered, encoder):
    with pytest.raises(ConfigError, match="encoder: must be JSON"):
        build(clustered(3), encoder=encoder)


def test_building_again_makes_another_version(build, clustered, tmp_path):
    build(clustered(3))

    manifest = build(clustered(4))

    assert (manifest.version, len(open_index(tmp_path / "index"))) == (2, 4)
    assert [version.number for version in list_versions(tmp_path / "index")] == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_directory_that_is_not_an_index_is_never_written_to(build, clustered, files_under, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "thesis.txt").write_text("years of work")

    with pytest.raises(
        IndexStoreError, match=r"holds 'thesis\.txt', which is not part of an index.*choose another"
    ):
        build(clustered(3))

    assert files_under(tmp_path) == {"index/thesis.txt": b"years of work"}


def test_index_with_a_file_of_someone_else_in_it_is_not_written_to(build, clustered, files_under, tmp_path):
    build(clustered(3))
    (tmp_path / "index" / "notes.txt").write_text("mine")
    before = files_under(tmp_path)

    with pytest.raises(IndexStoreError, match=r"notes\.txt"):
        build(clustered(4))

    assert files_under(tmp_path) == before


def test_index_of_the_first_format_is_not_written_to(build, clustered, files_under, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text('{"format_version": 1}')
    (tmp_path / "index" / "embeddings.npy").write_bytes(b"old")
    before = files_under(tmp_path)

    with pytest.raises(
        IndexStoreError, match=r"holds 'embeddings\.npy', which is not part of an index of this format"
    ):
        build(clustered(3))

    assert files_under(tmp_path) == before


def test_manifest_of_another_program_is_not_replaced(build, clustered, files_under, tmp_path):
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "manifest.json").write_text('{"name": "a web page"}')

    with pytest.raises(IndexStoreError, match=r"manifest\.json"):
        build(clustered(3))

    assert files_under(tmp_path) == {"index/manifest.json": b'{"name": "a web page"}'}


def test_file_in_place_of_the_directory_is_refused(build, clustered, tmp_path):
    (tmp_path / "index").write_text("a file")

    with pytest.raises(IndexStoreError, match="found a file"):
        build(clustered(3))


def test_empty_directory_and_missing_parents_are_fine(build, clustered, tmp_path):
    (tmp_path / "empty").mkdir()

    build(clustered(3), tmp_path / "empty")
    build(clustered(3), tmp_path / "a" / "b" / "index")

    assert len(open_index(tmp_path / "empty")) == len(open_index(tmp_path / "a" / "b" / "index")) == 3


def test_link_to_an_index_stays_a_link(build, clustered, tmp_path):
    build(clustered(3), tmp_path / "v1")
    (tmp_path / "current").symlink_to(tmp_path / "v1")

    build(clustered(4), tmp_path / "current")

    assert (tmp_path / "current").is_symlink()
    assert len(open_index(tmp_path / "v1")) == len(open_index(tmp_path / "current")) == 4


def test_payload_in_chunks_comes_back(build, clustered, tmp_path):
    build(clustered(5), payload=pa.table({"brand": pa.chunked_array([["x", "y"], ["z"], [], ["y", "w"]])}))

    found = open_index(tmp_path / "index").payload(np.array([4, 0, 2]))
    assert found == [{"brand": "w"}, {"brand": "x"}, {"brand": "z"}]
