"""infer_index.py build on a tiny model: shards, reused embeddings, versions, several processes."""

import filecmp
import json
import os

import numpy as np
import pytest

from aisle.cli import index_main
from aisle.commands.indexing import embedding
from aisle.index import index_writer, open_index, read_manifest
from aisle.models.encoder import TorchEncoder
from aisle.system.processors import available_processors
from aisle.types.columns import TEXT_COLUMN
from tests.commands.conftest import write_rows
from tests.commands.launch import start_ranks

TITLES = [
    f"{colour} {noun}" for colour in ("red", "blue", "green") for noun in ("sofa", "lamp", "bed", "rug")
]


@pytest.fixture
def catalog(tmp_path):
    """Write a catalogue of these titles and return its path."""

    def write(titles=TITLES, name="catalog.csv", ids=None):
        ids = [f"p{row}" for row in range(len(titles))] if ids is None else ids
        rows = [(key, title, row) for row, (key, title) in enumerate(zip(ids, titles, strict=True))]
        return write_rows(tmp_path / name, ["product_id", "title", "price"], rows)

    return write


@pytest.fixture
def build(tiny_bert, tmp_path):
    """Run the command and return its exit code."""

    def run(catalog, *flags, index="index"):
        given = ["--model", tiny_bert, "--catalog", catalog, "--index_dir", tmp_path / index]
        return index_main(["build", *map(str, given), "--deterministic", *map(str, flags)])

    return run


@pytest.fixture
def embedded(monkeypatch):
    """Number of texts in each part of a catalogue that is embedded."""
    calls = []
    real = TorchEncoder.tokenize_products

    def counted(self, texts, **options):
        calls.append(len(texts))
        return real(self, texts, **options)

    monkeypatch.setattr(TorchEncoder, "tokenize_products", counted)
    return calls


def files_of(folder):
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    )


def assert_same_files(one, other):
    assert files_of(one) == files_of(other)
    assert filecmp.cmpfiles(one, other, files_of(one), shallow=False)[0] == files_of(one)


def test_a_rebuild_embeds_only_texts_that_are_new(build, catalog, embedded, tmp_path, capfd):
    assert build(catalog()) == 0
    assert sum(embedded) == len(TITLES)
    embedded.clear()
    changed = ["oak table" if title == "red lamp" else title for title in TITLES]
    assert build(catalog(changed, "next.csv")) == 0
    assert embedded == [1]
    assert "11 products are as in version 1" in capfd.readouterr().out
    assert build(catalog(changed, "next.csv"), index="fresh") == 0
    np.testing.assert_allclose(
        open_index(tmp_path / "index").embeddings, open_index(tmp_path / "fresh").embeddings, atol=1e-6
    )


def test_products_that_moved_or_went_take_their_embeddings_along(build, catalog, embedded, tmp_path):
    build(catalog())
    before = open_index(tmp_path / "index")
    embedded.clear()
    order = [7, 3, 0, 11]
    build(catalog([TITLES[row] for row in order], "next.csv"))
    assert embedded == []
    assert np.array_equal(open_index(tmp_path / "index").embeddings, before.embeddings[order])


@pytest.mark.parametrize(
    "flags", [["--embed_all"], ["--max_length", 6], ["--dimensions", 8], ["--precision", "bf16"]]
)
def test_another_encoder_or_other_settings_embed_all(build, catalog, embedded, flags):
    build(catalog(), "--precision", "fp32")
    embedded.clear()
    assert build(catalog(), *(flags if "--precision" in flags else ["--precision", "fp32", *flags])) == 0
    assert sum(embedded) == len(TITLES)


@pytest.mark.parametrize(
    ("first", "then", "why"),
    [
        ([], ["--max_length", 6], "those of version 1 are of another encoder or other settings"),
        ([], ["--product_prompt", "passage: "], "those of version 1 are of another encoder"),
        ([], ["--dimensions", 8], "those of version 1 have 32 components, this build has 8"),
        (
            [],
            ["--precision", "bf16"],
            "those of version 1 were computed in fp32, this build computes in bf16",
        ),
        (
            ["--store_dtype", "float16"],
            [],
            "those of version 1 are rounded to float16, this build stores float32",
        ),
        ([], ["--embed_all"], "--embed_all is set"),
    ],
)
def test_the_reason_for_embedding_everything_is_logged_and_recorded(
    build, catalog, embedded, capfd, first, then, why
):
    build(catalog(), "--precision", "fp32", *first)
    embedded.clear()
    capfd.readouterr()

    assert (
        build(catalog(), *(then if "--precision" in then else ["--precision", "fp32", *then]), "--json") == 0
    )

    written = capfd.readouterr()
    document = json.loads(written.out)
    assert f"all products are embedded again: {why}" in written.err
    assert document["embedded_anew_because"].startswith(why)
    assert (document["texts_embedded"], document["products_reused"]) == (len(TITLES), 0)
    assert sum(embedded) == len(TITLES)


def test_float16_embeddings_are_not_reused_for_a_float32_store(build, catalog, tmp_path):
    build(catalog(), "--precision", "fp32", "--store_dtype", "float16")
    build(catalog(), "--precision", "fp32")
    build(catalog(), "--precision", "fp32", index="fresh")

    rebuilt, fresh = (open_index(tmp_path / name).embeddings for name in ("index", "fresh"))
    assert rebuilt.dtype == np.float32
    np.testing.assert_array_equal(rebuilt, fresh)


def test_reused_float32_embeddings_are_rounded_like_new_ones(build, catalog, embedded, tmp_path):
    build(catalog(), "--precision", "fp32")
    embedded.clear()
    build(catalog(), "--store_dtype", "float16")
    assert embedded == []
    build(catalog(), "--precision", "fp32", "--store_dtype", "float16", index="fresh")

    np.testing.assert_array_equal(
        open_index(tmp_path / "index").embeddings, open_index(tmp_path / "fresh").embeddings
    )


def test_without_a_precision_that_of_the_version_before_is_kept(build, catalog, embedded, tmp_path):
    build(catalog(), "--precision", "bf16")
    embedded.clear()
    build(catalog())
    assert embedded == []
    assert read_manifest(tmp_path / "index").encoder["precision"] == "bf16"


def test_a_damaged_version_is_logged_and_everything_is_embedded_again(
    build, catalog, embedded, tmp_path, capfd
):
    build(catalog())
    (tmp_path / "index/versions/000001/embeddings.npy").write_bytes(b"gone")
    embedded.clear()
    assert build(catalog()) == 0
    assert sum(embedded) == len(TITLES)
    said = capfd.readouterr().out
    assert "the version before cannot be used" in said
    assert "embeddings.npy" in said
    assert open_index(tmp_path / "index").manifest.version == 2


def test_a_repeated_text_is_embedded_once_and_is_one_node(build, catalog, embedded, tmp_path):
    assert build(catalog(["red sofa"] * 1000 + TITLES)) == 0
    assert sum(embedded) == len(TITLES)
    index = open_index(tmp_path / "index")
    assert index.manifest.graph_nodes == len(TITLES)
    found = index.search(index.embeddings[:1], top_k=1001)
    assert set(found.scores[0]) == {found.scores[0][0]}


def test_a_killed_build_resumes_from_its_shards_to_the_same_index(
    build, catalog, embedded, tiny_bert, tmp_path, monkeypatch
):
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 5)
    path = catalog()
    build(path, index="whole")
    script = tmp_path / "killed.py"
    script.write_text(KILLED_IN_THE_SECOND_SHARD)
    died = start_ranks(None, script, tiny_bert, path, tmp_path / "index", check=False)
    assert died.returncode == 9
    assert len(list((tmp_path / "index/.building/shards").glob("*.npy"))) == 1
    embedded.clear()
    assert build(path) == 0
    assert embedded == [5, 2]
    assert_same_files(tmp_path / "whole/versions/000001", tmp_path / "index/versions/000001")
    assert not (tmp_path / "index/.building").exists()


KILLED_IN_THE_SECOND_SHARD = """
import os, sys
from aisle.cli import index_main
from aisle.commands.indexing import embedding

embedding.SHARD_TEXTS = 5
shards = []
def write(path, embeddings, marks, real=embedding._write_shard):
    if shards:
        os._exit(9)
    shards.append(path)
    real(path, embeddings, marks)

embedding._write_shard = write
model, catalog, index = sys.argv[1:]
index_main(["build", "--model", model, "--catalog", catalog, "--index_dir", index, "--deterministic"])
"""


@pytest.mark.parametrize("damage", ["cut", "altered", "no checksum"])
def test_a_damaged_shard_is_embedded_again(build, catalog, embedded, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 5)
    build(catalog(), index="whole")
    monkeypatch.setattr("aisle.commands.build.run.finish_version", stop)
    with pytest.raises(KeyboardInterrupt):
        raise_interrupt(build, catalog())
    shard = sorted((tmp_path / "index/.building/shards").glob("*.npy"))[0]
    if damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-4])
    elif damage == "altered":
        shard.write_bytes(shard.read_bytes()[:-4] + b"\0\0\0\1")
    else:
        shard.with_suffix(".sha256").unlink()
    monkeypatch.undo()
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 5)
    assert build(catalog()) == 0
    assert_same_files(tmp_path / "whole/versions/000001", tmp_path / "index/versions/000001")


def stop(*_, **__):
    raise KeyboardInterrupt


def raise_interrupt(build, path):
    assert build(path) == 130
    raise KeyboardInterrupt


def test_two_processes_share_the_shards_and_build_the_same_index(
    build, catalog, tiny_bert, tmp_path, monkeypatch
):
    path = catalog()
    # Half of the processors, as each of the two processes has: with another number of threads, the stored
    # queries round differently on some processors.
    half = max(1, available_processors() // 2)
    monkeypatch.setattr("aisle.training.cpu_threads.available_processors", lambda: half)
    build(path, index="one")
    flags = ["--model", tiny_bert, "--catalog", path, "--index_dir", tmp_path / "two", "--deterministic"]
    done = start_ranks(2, "infer_index.py", "build", *flags)
    assert done.stdout.count("catalogue: 12 products") == 1
    np.testing.assert_array_equal(
        open_index(tmp_path / "two").embeddings, open_index(tmp_path / "one").embeddings
    )
    assert_same_files(tmp_path / "one/versions/000001", tmp_path / "two/versions/000001")


def test_dimensions_are_cut_and_of_unit_norm_for_products_and_queries(build, catalog, tmp_path, capfd):
    assert build(catalog(), "--dimensions", 8, "--precision", "fp32") == 0
    index = open_index(tmp_path / "index")
    assert index.dim == 8
    np.testing.assert_allclose(np.linalg.norm(index.embeddings, axis=1), 1, atol=1e-6)
    capfd.readouterr()
    assert index_main(["query", "--index_dir", str(tmp_path / "index"), "green rug", "--top_k", "1"]) == 0
    shown = capfd.readouterr().out
    assert "p11" in shown
    assert "1.0000" in shown


def test_the_recall_asked_for_decides_ef_search(build, catalog, tmp_path):
    assert build(catalog(), "--target_recall", 1.0) == 0
    manifest = read_manifest(tmp_path / "index")
    assert (manifest.target_recall, manifest.ann_recall_at_10) == (1.0, 1.0)
    assert manifest.ef_search in [point.ef_search for point in manifest.recall_curve]
    assert build(catalog(), "--ef_search", 77) == 0
    manifest = read_manifest(tmp_path / "index")
    assert (manifest.target_recall, manifest.ef_search) == (None, 77)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--ef_search", 5, "--target_recall", 0.9], "--target_recall"),
        (["--dimensions", 1000], "--dimensions 1000"),
        (["--tune_queries", "q.csv"], "--tune_qrels"),
        (["--target_recall", 1.5], "target_recall"),
        (["--keep_versions", 0], "keep_versions"),
    ],
)
def test_flags_that_make_no_sense_leave_no_index(build, catalog, tmp_path, capfd, flags, named):
    assert build(catalog(), *flags) == 2
    assert named in capfd.readouterr().err
    assert not (tmp_path / "index").exists()


def test_a_bad_catalogue_leaves_the_current_version(build, catalog, tmp_path, capfd):
    build(catalog())
    assert build(catalog(["", "red sofa"], "bad.csv")) == 2
    assert "bad.csv" in capfd.readouterr().err
    assert open_index(tmp_path / "index").manifest.version == 1


def test_a_second_writer_is_refused_with_the_name_of_the_first(build, catalog, tmp_path, capfd):
    build(catalog())
    with index_writer(tmp_path / "index", command="compact"):
        assert build(catalog()) == 2
    assert f"compact, process {os.getpid()}" in capfd.readouterr().err


def test_old_versions_go_and_the_newest_stay(build, catalog, tmp_path):
    for number in range(4):
        assert build(catalog([*TITLES, f"bed {number}"]), "--keep_versions", 2) == 0
    assert sorted(path.name for path in (tmp_path / "index/versions").iterdir()) == ["000003", "000004"]


def test_the_reason_for_padded_texts_is_printed_once(build, catalog, capfd, monkeypatch):
    monkeypatch.setattr("aisle.models.tower.why_padded", lambda *_, **__: "bert cannot be packed")

    assert build(catalog()) == 0
    assert build(catalog()) == 0  # embeds nothing

    printed = " ".join("".join(capfd.readouterr()).split())
    assert printed.count("which is slower: bert cannot be packed") == 1


def test_the_passages_of_dpr_are_indexed_and_its_pairs_evaluated(tiny_bert, tmp_path, capfd):
    titled = {"title": "Sofa", "text": "It is red."}
    questions = [
        {"question": "which sofa?", "positive_ctxs": [titled, {"text": "Oak."}], "hard_negative_ctxs": []},
        {
            "question": "which desk?",
            "positive_ctxs": [{"text": "Oak."}],
            "negative_ctxs": [{"text": "Pine."}],
        },
    ]
    (tmp_path / "dpr.json").write_text(json.dumps(questions))
    flags = ["--pairs", tmp_path / "dpr.json", "--index_dir", tmp_path / "index", "--split", "train"]
    assert index_main(["build", "--model", str(tiny_bert), *map(str, flags)]) == 0
    assert open_index(tmp_path / "index").products.column(TEXT_COLUMN).to_pylist() == [
        "Sofa [SEP] It is red.",
        "Oak.",
    ]
    assert "pairs: DPR's json; each positive passage is a pair" in capfd.readouterr().out

    flags = ["--model", tiny_bert, "--pairs", tmp_path / "dpr.json", "--protocol", "joint_pool"]
    assert index_main(["evaluate", *map(str, flags)]) == 0
    assert "pairs: 3; query: question, product: positive_ctxs" in " ".join(capfd.readouterr().out.split())
