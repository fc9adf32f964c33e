"""Counts of texts that are cut off or unknown: made by a build, kept by every change, logged and reported."""

import json

import pytest

from aisle.cli import main
from aisle.commands.build import run as build_pipeline
from aisle.commands.indexing import embedding, marks
from aisle.errors import AisleError
from aisle.index import read_manifest
from tests.commands.conftest import write_rows

SHORT = [f"{colour} {noun}" for colour in ("red", "blue") for noun in ("sofa", "lamp", "bed")]
LONG = ["small oak table for the garden " * n for n in (2, 3, 4)]
UNKNOWN = ["\u2603", "\u2603\u2604"]
TITLES = [*SHORT, *LONG, *UNKNOWN, LONG[0]]  # one long text twice: products are counted
EXPECTED = (4, 2)


@pytest.fixture
def shop(tiny_bert, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(embedding, "SHARD_TEXTS", 4)
    monkeypatch.setattr(marks, "SHARD_TEXTS", 4)

    class Shop:
        index = tmp_path / "index"

        def write(self, titles, ids=None, name="catalog.csv"):
            ids = [f"p{row}" for row in range(len(titles))] if ids is None else ids
            return write_rows(tmp_path / name, ["product_id", "title"], list(zip(ids, titles, strict=True)))

        def run(self, command, *flags, code=0):
            assert main([command, "--index_dir", str(self.index), *map(str, flags)]) == code
            return capfd.readouterr()

        def build(self, titles=TITLES, *flags, code=0):
            given = ["--model", tiny_bert, "--catalog", self.write(titles), "--max_length", 10]
            return self.run("build", *given, *flags, code=code)

        @property
        def counts(self):
            manifest = read_manifest(self.index)
            return manifest.truncated_texts, manifest.unknown_texts

    return Shop()


def test_a_build_counts_prints_and_records_both(shop):
    said = shop.build(TITLES, "--json")

    assert shop.counts == EXPECTED
    document = json.loads(said.out)
    assert (document["truncated_texts"], document["unknown_texts"]) == EXPECTED
    assert "4 of 12 texts of the catalogue are longer than the encoder's maximum length" in said.err
    assert "warning: 2 of 12 texts of the catalogue have no token in the model's vocabulary" in said.err
    assert "4 cut off at the maximum length, 2 unknown" in shop.run("info").out
    assert json.loads(shop.run("info", "--json").out)["truncated_texts"] == 4


def test_nothing_is_logged_if_all_texts_are_read(shop):
    said = shop.build(SHORT)

    assert shop.counts == (0, 0)
    assert "maximum length" not in said.out + said.err


def test_shards_of_a_killed_build_are_counted(shop, monkeypatch):
    def fail(*_, **__):
        raise AisleError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(build_pipeline, "write_embeddings", fail)
        shop.build(code=2)
    assert list(shop.index.glob(".building/shards/*.npy"))
    with monkeypatch.context() as patched:
        patched.setattr(embedding, "_write_shard", fail)
        shop.build()

    assert shop.counts == EXPECTED


@pytest.mark.parametrize("recorded", [True, False])
def test_reused_texts_of_the_version_before_are_counted(shop, monkeypatch, recorded):
    shop.build()
    if not recorded:  # in an index that was built without an encoder
        monkeypatch.setattr(marks, "read_marks", lambda folder, count: None)

    said = shop.build([*TITLES[1:], LONG[2] + "new"])

    assert "11 products are as in version 1" in said.out
    assert shop.counts == (5, 2)


def test_every_change_keeps_the_counts_right(shop):
    shop.build()
    more = shop.write([LONG[1], "red sofa", UNKNOWN[0]], ["new", "p6", "p0"], name="more.csv")
    shop.run("upsert", "--catalog", more)
    assert shop.counts == (4, 3)  # one more long, one long became short, one short became unknown
    shop.run("delete", "new", "p9", "p10")
    assert shop.counts == (3, 1)
    shop.run("compact")
    assert shop.counts == (3, 1)
    shop.run("tune", "--ef_search", 20)
    assert shop.counts == (3, 1)
    shop.run("verify")


def test_an_evaluation_notes_queries_and_texts_that_were_cut_off(shop, tmp_path):
    shop.build()
    queries = write_rows(
        tmp_path / "queries.csv", ["query_id", "query"], [("q1", "red sofa"), ("q2", LONG[2])]
    )
    rows = [("q1", "p0", 1), ("q2", "p8", 1)]
    qrels = write_rows(tmp_path / "qrels.csv", ["query_id", "product_id", "relevance"], rows)

    document = json.loads(shop.run("evaluate", "--queries", queries, "--qrels", qrels, "--json").out)

    assert [note for note in document["notes"] if "maximum length" in note] == [
        "4 of 12 texts of the catalogue are longer than the encoder's maximum length: the ends were cut off",
        "1 of 2 queries are longer than the encoder's maximum length: the ends were cut off",
    ]


def test_training_logs_how_many_texts_were_cut_off(tiny_bert, tmp_path, capfd):
    rows = [(query, title, row % 2) for query in SHORT for row, title in enumerate([*SHORT[:3], LONG[2]])]
    pairs = write_rows(tmp_path / "pairs.csv", ["query", "product", "relevance"], rows)
    flags = [
        "--max_train_steps",
        "1",
        "--max_length",
        "10",
        "--use_peft",
        "--output_dir",
        str(tmp_path / "run"),
    ]

    files = ["--train_file", str(pairs), "--validation_file", str(pairs)]
    assert main(["train", "--model_name_or_path", str(tiny_bert), *files, *flags]) == 0

    said = capfd.readouterr()
    assert "1 of 7 distinct training texts are longer than" in " ".join((said.out + said.err).split())
