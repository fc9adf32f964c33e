"""--delimiter and --encoding in every command that reads csv."""

import pytest

from aisle.cli import index_main, train_main
from aisle.index import open_index
from tests.commands.array_index import ask

FLAGS = ["--delimiter", ";", "--encoding", "cp1252"]


@pytest.fixture
def write(tmp_path):
    def run(name, text):
        (tmp_path / name).write_bytes(text.encode("cp1252"))
        return tmp_path / name

    return run


@pytest.fixture
def index_dir(tiny_bert, tmp_path, write):
    write("queries.csv", "query_id;query\nq1;Sofá rot\n")
    write("qrels.csv", "query_id;product_id;relevance\nq1;ä1;1\n")
    catalog = write("shop.csv", "product_id;title;price\nä1;Sofá rot;49.99\nä2;Stühle blau;20\n")
    given = ["--model", tiny_bert, "--catalog", catalog, "--index_dir", tmp_path / "index", "--threads", 1]
    given += ["--tune_queries", tmp_path / "queries.csv", "--tune_qrels", tmp_path / "qrels.csv"]
    assert index_main(["build", *map(str, given), *FLAGS]) == 0
    return tmp_path / "index"


def test_build_upsert_and_evaluate_read_files_so_written(index_dir, write, tmp_path, capfd):
    assert open_index(index_dir).products["title"].to_pylist() == ["Sofá rot", "Stühle blau"]

    prices = write("prices.csv", "product_id;price\nä1;9.5\n")
    flags = ["--index_dir", index_dir, "--catalog", prices, "--partial", *FLAGS]
    assert ask(capfd, "upsert", *flags)[1]["replaced"] == 1
    assert open_index(index_dir).products["price"].to_pylist() == [9.5, 20.0]

    pairs = write("test.csv", "query;product;relevance\nSofá;Sofá rot;1\nSofá;Stühle;0\n")
    flags = ["--queries", tmp_path / "queries.csv", "--qrels", tmp_path / "qrels.csv", "--pairs", pairs]
    code, document, said = ask(capfd, "evaluate", "--index_dir", index_dir, *flags, "--rows", "tuned", *FLAGS)
    assert code == 0, said
    assert document is not None


def test_a_build_of_another_delimiter_names_the_flag(tiny_bert, write, tmp_path, capfd):
    catalog = write("shop.csv", "product_id;title;price\n1;sofa;49,99\n")

    code, _, said = ask(
        capfd, "build", "--model", tiny_bert, "--catalog", catalog, "--index_dir", tmp_path / "index"
    )

    assert code == 2
    assert "--delimiter ';'" in said
    assert "'49.99'" in said


def test_training_reads_files_so_written(tiny_bert, write, tmp_path, capfd):
    rows = "".join(f"Sofá {at};Stühle {at}\n" for at in range(20))
    train = write("train.csv", "query;product\n" + rows)
    given = ["--model_name_or_path", tiny_bert, "--train_file", train, "--output_dir", tmp_path / "run"]
    given += ["--max_train_steps", 1, "--per_device_train_batch_size", 8]

    assert train_main([*map(str, given), *FLAGS]) == 0, capfd.readouterr().err
