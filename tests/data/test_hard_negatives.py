"""Hard negatives of a row: the same from every format, unchanged, invalid lists refused."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aisle.commands.train.data_settings import DataSettings
from aisle.commands.train.read_data import read_training_data
from aisle.data.files import iter_rows
from aisle.data.pairs import PairColumns, read_pairs, split_by_query
from aisle.data.rows import Row
from aisle.errors import DataError

LISTS = [["p1", 'a "quoted", text'], None, [], ["  靴 kept  ", "p1", "p1"]]
READ = [["p1", 'a "quoted", text'], [], [], ["  靴 kept  ", "p1", "p1"]]


def row(hard_negatives, **others):
    return {"query": "q", "product": "p0", "hard_negatives": hard_negatives, **others}


def read(*values, columns=None, on_bad_row="error", label_map=None):
    rows = [Row("pairs.jsonl", number, each) for number, each in enumerate(values, start=1)]
    return read_pairs(rows, columns=columns or PairColumns(), label_map=label_map, on_bad_row=on_bad_row)


def write_json(path):
    path.write_text(json.dumps([row(each) for each in LISTS]))


def write_jsonl(path):
    path.write_text("\n".join(json.dumps(row(each)) for each in LISTS))


def write_parquet(path):
    pq.write_table(pa.Table.from_pylist([row(each) for each in LISTS]), path)


def write_table(path):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writerow(["query", "product", "hard_negatives"])
        writer.writerows(["q", "p0", "" if each is None else json.dumps(each)] for each in LISTS)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("p.json", write_json),
        ("p.jsonl", write_jsonl),
        ("p.parquet", write_parquet),
        ("p.csv", write_table),
        ("p.tsv", write_table),
    ],
)
def test_every_format_gives_the_same_hard_negatives(tmp_path, name, write):
    write(tmp_path / name)
    found = read_pairs(
        iter_rows([tmp_path / name]), columns=PairColumns(), label_map=None, on_bad_row="error"
    )
    assert found.columns.hard_negatives == "hard_negatives"
    assert found.pairs.hard_negatives == READ
    assert (found.pairs.queries, found.pairs.products) == (["q"] * 4, ["p0"] * 4)


def test_the_table_stores_lists_of_strings():
    values = [row(each, relevance=0.25 * at, query_id=at) for at, each in enumerate(LISTS)]
    pairs = read(*values).pairs
    table = pairs.table.with_format("arrow")[:]
    assert table.column_names == ["query", "product", "query_id", "relevance", "hard_negatives"]
    assert table.schema.field("hard_negatives").type == pa.list_(pa.string())
    assert table.schema.field("relevance").type == pa.float32()
    assert pairs.table.cache_files
    assert pairs.relevance.tolist() == [0, 0.25, 0.5, 0.75]
    assert pairs.query_ids == ["0", "1", "2", "3"]
    assert pairs.hard_negatives == READ


def test_pairs_without_the_column_have_no_hard_negatives():
    pairs = read({"query": "q", "product": "p"}).pairs
    assert pairs.hard_negatives is None
    assert pairs.table.column_names == ["query", "product"]


def test_a_column_in_which_all_lists_are_empty_is_there():
    assert read(row(None), row([]), row("")).pairs.hard_negatives == [[], [], []]


@pytest.mark.parametrize(
    ("wanted", "expected"), [(None, ["found"]), ("wrong", ["named"]), ("negatives", ["found"])]
)
def test_the_column_is_found_by_name_or_named(wanted, expected):
    values = {"query": "q", "product": "p", "negatives": ["found"], "wrong": ["named"]}
    found = read(values, columns=PairColumns(hard_negatives=wanted))
    assert found.pairs.hard_negatives == [expected]
    assert f"hard_negatives <- {wanted or 'negatives'}" in str(found.columns)


def test_hard_negatives_is_found_before_negatives():
    assert read(row(["a"], negatives=["b"])).pairs.hard_negatives == [["a"]]


def test_a_named_column_that_is_missing_is_named_with_the_nearest_one():
    with pytest.raises(DataError, match=r"no column 'hard_negative'\. Did you mean 'hard_negatives'\?"):
        read(row([]), columns=PairColumns(hard_negatives="hard_negative"))


def test_a_second_file_without_the_column_is_named():
    rows = [Row("first.jsonl", 1, row(["a"])), Row("second.csv", 1, {"query": "q", "product": "p"})]
    with pytest.raises(DataError, match=r"second\.csv: there is no column 'hard_negatives'"):
        read_pairs(rows, columns=PairColumns(), label_map=None, on_bad_row="error")


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("red shoe", "is not a JSON list of texts"),
        ('["a",', "is not a JSON list of texts"),
        ("[" * 100_000, "is not a JSON list of texts"),
        ('{"a": "b"}', "is not a list of texts"),
        ('"a"', "is not a list of texts"),
        ("null", "is not a list of texts"),
        (3, "is not a list of texts"),
        ({"a": "b"}, "is not a list of texts"),
        (["a", None], "holds an entry that is null"),
        (["a", 3], "holds an entry that is not text"),
        ("[NaN]", "holds an entry that is not text"),
        ([["a"]], "holds an entry that is not text"),
        (["a", ""], "holds an entry that is blank"),
        ('["a", " \\t"]', "holds an entry that is blank"),
        (["\ud83d"], "holds an entry that is not valid Unicode"),
        ('["\\ud83d"]', "holds an entry that is not valid Unicode"),
        (["a", "p0"], "holds the row's own product"),
        ('["p0"]', "holds the row's own product"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_cell_without_a_list_of_other_texts_is_a_bad_row(cell, reason):
    found = read(row(["a"]), row(cell), row(["b"]), on_bad_row="skip")
    assert found.bad_rows.by_reason == {f"hard_negatives {reason}": 1}
    assert found.bad_rows.first[0].number == 2
    assert found.pairs.hard_negatives == [["a"], ["b"]]


def test_a_bad_cell_stops_the_reading_with_file_and_row_named(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text('query,product,hard_negatives\nq,p,\nq,p,"[""a"", """"]"\n')
    with pytest.raises(
        DataError, match=r"bad\.csv, row 2 \(line 3\): hard_negatives holds an entry .* blank"
    ):
        read_pairs(iter_rows([path]), columns=PairColumns(), label_map=None, on_bad_row="error")


def test_a_bad_label_is_the_reason_of_a_row_with_hard_negatives():
    found = read(row(["a"], label="X"), row(["b"], label="E"), label_map={"E": 1.0}, on_bad_row="skip")
    assert list(found.bad_rows.by_reason) == ["label is not in the label map (E)"]
    assert found.pairs.hard_negatives == [["b"]]


def test_irrelevant_rows_may_have_hard_negatives():
    pairs = read(row(["a"], relevance=0.0), row(["b"], relevance=0.5), row(["c"], relevance=1)).pairs
    assert pairs.hard_negatives == [["a"], ["b"], ["c"]]


def test_select_and_split_keep_each_row_with_its_hard_negatives():
    pairs = read(
        *({"query": f"q{at}", "product": "p", "negatives": [f"n{at}"] * at} for at in range(9))
    ).pairs
    parts = [pairs.select([3, 0, 3]), *split_by_query(pairs, validation_share=0.3, seed=1)]
    for part in parts:
        assert part.hard_negatives == [[f"n{query[1:]}"] * int(query[1:]) for query in part.queries]
    assert parts[0].queries == ["q3", "q0", "q3"]


def test_more_rows_than_a_batch_come_back_in_order():
    pairs = read(
        *({"query": f"q{at}", "product": "p", "negatives": [f"n{at}"] * (at % 3)} for at in range(10_050))
    ).pairs
    assert pairs.hard_negatives == [[f"n{at}"] * (at % 3) for at in range(10_050)]


def test_training_reads_the_named_column_and_logs_it(tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps({"query": "q", "product": "p", "wrong": ["a", "b"]}))
    (tmp_path / "held.jsonl").write_text(json.dumps({"query": "other", "product": "p"}))
    settings = DataSettings(
        train_file=(str(tmp_path / "train.jsonl"),),
        validation_file=(str(tmp_path / "held.jsonl"),),
        hard_negatives_column="wrong",
    )
    said: list[str] = []
    data = read_training_data(settings, seed=0, token=None, log=said.append)
    assert data.train.hard_negatives == [["a", "b"]]
    assert data.validation.hard_negatives is None
    assert said[0].endswith("hard negatives: wrong")
    assert "hard negatives" not in said[1]
