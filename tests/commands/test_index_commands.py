"""build, query and evaluate from the command line, on a tiny model."""

import io
import json
import os
import pty
import select
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from aisle.cli import index_main, train_main
from aisle.index import open_index
from aisle.models.loading import load_encoder
from tests.commands.conftest import write_rows


@pytest.fixture
def build(tiny_bert, catalog_csv, tmp_path):
    """Run `infer_index.py build` and return its exit code and the index's folder."""

    def run(*flags, model=tiny_bert, catalog=catalog_csv, output="index"):
        index_dir = tmp_path / output
        given = ["--model", str(model), "--index_dir", str(index_dir), "--threads", "1"]
        given += ["--catalog", str(catalog)] if catalog else []
        return index_main(["build", *given, *map(str, flags)]), index_dir

    return run


def answers(capfd, *flags):
    capfd.readouterr()
    code = index_main(["query", *map(str, flags), "--json"])
    return code, json.loads(capfd.readouterr().out) if code == 0 else None


def test_the_nearest_product_is_the_one_with_the_query_s_own_text(build, capfd):
    _, index_dir = build("--text_template", "{title} {brand}", "--precision", "fp32")
    title = open_index(index_dir).payload(np.array([3]))[0]["title"]
    code, found = answers(capfd, "--index_dir", index_dir, f"{title} Acme")
    assert code == 0
    assert found[0]["results"][0]["payload"]["title"] == title
    assert found[0]["results"][0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert [result["rank"] for result in found[0]["results"]] == list(range(1, 11))


def test_answers_carry_id_and_payload_with_their_types(build, capfd):
    _, index_dir = build()
    _, found = answers(capfd, "--index_dir", index_dir, "sofa", "--top_k", 3)
    result = found[0]["results"][0]
    assert len(found[0]["results"]) == 3
    assert result["product_id"].startswith("p")
    assert result["payload"]["brand"] == "Acme"
    assert isinstance(result["payload"]["price"], int)


def test_answers_are_those_of_exact_search_with_the_python_api(build, catalog_csv, capfd, tiny_bert):
    _, index_dir = build("--precision", "fp32")
    encoder = load_encoder(tiny_bert, device="cpu")
    index = open_index(index_dir, fingerprint=encoder.fingerprint)
    expected = index.search(encoder.encode_queries(["oak table"]), top_k=5, exact=True)
    _, found = answers(capfd, "--index_dir", index_dir, "oak table", "--top_k", 5)
    assert [r["product_id"] for r in found[0]["results"]] == expected.product_ids[0].tolist()


def test_a_minimum_score_leaves_products_out(build, capfd):
    _, index_dir = build()
    _, found = answers(capfd, "--index_dir", index_dir, "sofa", "--min_score", 1.01)
    assert found == [{"query": "sofa", "results": []}]


def test_a_queries_file_is_answered_line_by_line(build, capfd, tmp_path):
    _, index_dir = build()
    file = tmp_path / "queries.txt"
    file.write_text("red sofa\n\nأريكة\n沙发 🛋\n", encoding="utf-8")
    _, found = answers(capfd, "--index_dir", index_dir, "--queries_file", file)
    assert [answer["query"] for answer in found] == ["red sofa", "أريكة", "沙发 🛋"]


def test_without_a_query_they_are_read_from_standard_input(build, capfd, monkeypatch):
    _, index_dir = build()
    monkeypatch.setattr("sys.stdin", io.StringIO("red sofa\n\nblue lamp\n"))
    code, found = answers(capfd, "--index_dir", index_dir, "--top_k", 2)
    assert code == 0
    assert [answer["query"] for answer in found] == ["red sofa", "blue lamp"]


def test_ef_search_of_the_build_is_in_force_when_querying(build):
    _, index_dir = build("--ef_search", 7, "--M", 4, "--ef_construction", 9)
    manifest = open_index(index_dir).manifest
    assert (manifest.ef_search, manifest.backend.parameters) == (7, {"M": 4, "ef_construction": 9})


def test_distinct_products_of_pairs_become_the_catalogue(build, judged_csv):
    code, index_dir = build("--pairs", judged_csv, catalog=None)
    titles = {line.split(",")[1] for line in judged_csv.read_text().splitlines()[1:]}
    index = open_index(index_dir)
    assert code == 0
    assert {payload["product"] for payload in index.payload(np.arange(len(index)))} == titles


def test_evaluate_reports_the_metrics_of_the_ranking(build, tmp_path, capfd):
    catalog = write_rows(
        tmp_path / "few.csv",
        ["product_id", "title"],
        [("a", "red sofa"), ("b", "blue lamp"), ("c", "oak table")],
    )
    _, index_dir = build(catalog=catalog)
    queries = write_rows(tmp_path / "q.csv", ["query_id", "query"], [(1, "red sofa"), (2, "blue lamp")])
    qrels = tmp_path / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t1\n")
    run_file = tmp_path / "run.trec"
    capfd.readouterr()
    code = index_main(
        ["evaluate", "--index_dir", str(index_dir), "--queries", str(queries), "--qrels", str(qrels),
         "--run_file", str(run_file), "--json"]
    )  # fmt: skip
    document = json.loads(capfd.readouterr().out)
    assert code == 0
    # Each query is the text of a product, so that product comes first.
    assert document["precision@1"] == 1.0
    assert document["mrr@10"] == 1.0
    assert document["ann_recall@10"] == 1.0
    assert run_file.read_text().split()[:4] == ["1", "Q0", "a", "1"]


def test_an_index_of_another_encoder_is_refused_with_both_named(
    build, tiny_bert, tmp_path, capfd, judged_csv
):
    _, index_dir = build()
    other = tmp_path / "other"
    train_main(
        ["--use_peft", "--model_name_or_path", str(tiny_bert), "--train_file", str(judged_csv),
         "--output_dir", str(other), "--max_train_steps", "1", "--learning_rate", "0.1"]
    )  # fmt: skip
    capfd.readouterr()
    assert index_main(["query", "--index_dir", str(index_dir), "--model", str(other), "sofa"]) == 2
    message = capfd.readouterr().err
    assert str(tiny_bert) in message
    assert str(other) in message
    assert "Traceback" not in message


def test_a_second_build_is_the_next_version(build):
    build()
    code, index_dir = build("--M", 5)
    assert code == 0
    assert open_index(index_dir).manifest.backend.parameters["M"] == 5
    assert open_index(index_dir, version=1).manifest.backend.parameters["M"] == 16


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json"),
        (lambda folder: (folder / "versions/000001/graph.bin").write_bytes(b"x"), "graph.bin"),
        (lambda folder: (folder / "versions/000001/embeddings.npy").unlink(), "embeddings.npy"),
    ],
)
def test_a_damaged_index_is_refused_with_the_file_named(build, capfd, damage, named):
    _, index_dir = build()
    damage(index_dir)
    assert index_main(["query", "--index_dir", str(index_dir), "sofa"]) == 2
    message = capfd.readouterr().err
    assert named in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    "flags", [[], ["--exact"], ["--where", "title != 'x'"], ["--mode", "lexical"], ["--mode", "hybrid"]]
)
def test_top_k_above_the_number_of_products_gives_all_of_them(build, capfd, flags):
    _, index_dir = build()
    index = open_index(index_dir)
    every_word = " ".join(" ".join(payload["title"] for payload in index.payload(range(len(index)))).split())
    capfd.readouterr()

    given = ["query", "--index_dir", str(index_dir), "--top_k", "100000", *flags, every_word, "--json"]
    assert index_main(given) == 0

    (answer,) = json.loads(capfd.readouterr().out)
    ids = [result["product_id"] for result in answer["results"]]
    assert sorted(ids) == sorted(index.products.column("product_id").to_pylist())


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--top_k", "0", "sofa"], "--top_k"),
        ([" "], "blank"),
        (["--queries_file", "absent.txt"], "absent.txt"),
        (["--ef_search", "0", "sofa"], "--ef_search"),
    ],
)
def test_a_query_that_cannot_be_answered_says_why(build, capfd, flags, part):
    _, index_dir = build()
    capfd.readouterr()
    assert index_main(["query", "--index_dir", str(index_dir), *flags]) == 2
    message = capfd.readouterr().err
    assert part in message
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("rows", "flags", "part"),
    [
        ([("a", "sofa"), ("a", "lamp")], [], "duplicate"),
        ([("a", "sofa"), ("", "lamp")], [], "product_id"),
        ([("a", " ")], [], "blank"),
        ([], [], "no"),
        ([("a", "sofa")], ["--text_template", "{titel}"], "title"),
        ([("a", "sofa")], ["--id_column", "sku"], "sku"),
    ],
)
def test_a_catalogue_that_cannot_be_indexed_leaves_nothing_behind(build, tmp_path, capfd, rows, flags, part):
    catalog = write_rows(tmp_path / "bad.csv", ["product_id", "title"], rows)
    code, index_dir = build(*flags, catalog=catalog)
    message = capfd.readouterr().err
    assert code == 2
    assert part in message
    assert "Traceback" not in message
    assert not index_dir.exists()


def test_a_megabyte_title_is_cut_off_not_refused(build, tmp_path, capfd):
    catalog = write_rows(
        tmp_path / "long.csv", ["product_id", "title"], [("a", "sofa " * 200_000), ("b", "lamp")]
    )
    code, index_dir = build(catalog=catalog)
    assert code == 0
    _, found = answers(capfd, "--index_dir", index_dir, "sofa", "--top_k", 2)
    assert {result["product_id"] for result in found[0]["results"]} == {"a", "b"}


def test_payload_of_every_type_becomes_json(build, tmp_path, capfd):
    import datetime
    import decimal

    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "product_id": ["a"],
            "title": ["red sofa"],
            "since": [datetime.datetime(2026, 1, 2, 3, 4)],
            "price": [float("nan")],
            "cost": [decimal.Decimal("1.50")],
            "tags": [["new", "sale"]],
        }
    )
    pq.write_table(table, tmp_path / "typed.parquet")
    _, index_dir = build(catalog=tmp_path / "typed.parquet")
    _, found = answers(capfd, "--index_dir", index_dir, "sofa", "--top_k", 1)
    payload = found[0]["results"][0]["payload"]
    assert payload["since"].startswith("2026-01-02")
    assert payload["price"] is None
    assert payload["cost"] == "1.50"


def test_a_reader_that_exits_early_is_not_an_error(build, tmp_path):
    import subprocess
    import sys
    from pathlib import Path

    _, index_dir = build()
    script = Path(__file__).resolve().parents[2] / "infer_index.py"
    queries = tmp_path / "queries.txt"
    queries.write_text("red sofa\n" * 400)  # a pipe holds 64 KB
    command = f"'{sys.executable}' '{script}' query --index_dir '{index_dir}' --queries_file '{queries}'"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "red sofa" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.fixture
def shop(build, tmp_path, capfd):
    """An index of three products, the second of which has a hostile title."""
    rows = [
        {"product_id": "p1", "title": "red sofa", "brand": "Acme", "price": 1.5, "note": "x " * 200},
        {
            "product_id": "p2",
            "title": "\x1b[2J red\u202e lamp\r\nfree",
            "brand": None,
            "price": 2.0,
            "note": "y",
        },
        {"product_id": "p3", "title": "red bed", "brand": "[bold]Zenith", "price": 3.0, "note": "z"},
    ]
    catalog = tmp_path / "shop.jsonl"
    catalog.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, index_dir = build(catalog=catalog)
    assert code == 0
    capfd.readouterr()
    return index_dir


def shown(capfd, *flags):
    assert index_main(["query", *map(str, flags), "--mode", "lexical"]) == 0
    return [line.split() for line in capfd.readouterr().out.splitlines() if line.split()[1:2]]


def test_a_hit_is_one_line_by_its_title(shop, capfd):
    lines = shown(capfd, "--index_dir", shop, "red")

    assert sorted(line[2:] for line in lines if line[0].isdigit()) == [
        ["p1", "red", "sofa"], ["p2", "red", "lamp", "free"], ["p3", "red", "bed"],
    ]  # fmt: skip


def test_fields_choose_the_columns_that_are_shown_a_line_a_hit(shop, capfd):
    lines = shown(capfd, "--index_dir", shop, "--fields", "brand, price,note", "red", "--top_k", 3)

    assert ["rank", "score", "id", "brand", "price", "note"] in lines
    hits = {line[2]: line[3:] for line in lines if line[0].isdigit()}
    assert hits["p1"] == ["Acme", "1.5", *["x"] * 59, "x…"]
    assert hits["p2"] == ["2.0", "y"]
    assert hits["p3"] == ["[bold]Zenith", "3.0", "z"]


def test_fields_choose_the_payload_of_json_too(shop, capfd):
    _, found = answers(capfd, "--index_dir", shop, "--mode", "lexical", "--fields", "price", "sofa")
    assert [result["payload"] for result in found[0]["results"]] == [{"price": 1.5}]

    _, found = answers(capfd, "--index_dir", shop, "--mode", "lexical", "lamp")
    assert found[0]["results"][0]["payload"] == {
        "title": "\x1b[2J red\u202e lamp\r\nfree", "brand": None, "price": 2.0, "note": "y",
    }  # fmt: skip


def test_an_unknown_field_is_refused_with_the_columns_there_are(shop, capfd):
    assert index_main(["query", "--index_dir", str(shop), "--fields", "title,prcie", "red"]) == 2

    message = capfd.readouterr().err
    assert (
        "--fields title,prcie: the index has no column 'prcie'; it has title, brand, price, note" in message
    )


@pytest.mark.skipif(find_spec("readline") is None, reason="this Python has no readline")
def test_the_prompt_has_the_queries_before_under_the_arrow_key(shop):
    program = "import sys; from aisle.cli import index_main; sys.exit(index_main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "query", "--index_dir", str(shop), "--mode", "lexical"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True) as process:
        os.close(theirs)
        written = read_until(ours, b"query> ")
        os.write(ours, b"sofa\n")
        written += read_until(ours, b"query> ")
        assert b"red sofa" in written
        os.write(ours, b"\x1b[A\n")  # the arrow up, and return
        again = read_until(ours, b"query> ")
        os.write(ours, b"\n")
        assert process.wait() == 0
    os.close(ours)
    assert b"red sofa" in again


def read_until(descriptor, end):
    """Return the output of a terminal up to a text."""
    written = b""
    while end not in written:
        assert select.select([descriptor], [], [], 120)[0], f"nothing more came after {written!r}"
        written += os.read(descriptor, 4096)
    return written
