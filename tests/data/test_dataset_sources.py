"""Rows from files, folders and the Hub: their exact values, and every kind of failure."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aisle.data.dataset_sources import (
    expand_files,
    iter_hub_rows,
    iter_rows,
    iter_split,
    resolve_dataset,
    splits_of,
)
from aisle.data.rows import BadRowLog, Problem, Row
from aisle.errors import DataError
from tests.hub_server import TOKEN, HubServer


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path) -> list[dict]:
    rows = list(iter_rows([path]))
    assert [row.problem for row in rows] == [None] * len(rows)
    return [row.values for row in rows]


def problems(path: Path) -> list[tuple[int, int | None, str]]:
    return [(row.number, row.line, row.problem.reason) for row in iter_rows([path]) if row.problem]


PRODUCTS = [{"id": "1", "title": 'Café, 15" black'}, {"id": "2", "title": "حذاء 👟"}]
CSV = 'id,title\r\n1,"Café, 15"" black"\r\n\r\n2,حذاء 👟\r\n'
TSV = 'id\ttitle\n1\t"Café, 15"" black"\n2\tحذاء 👟\n'  # noqa: RUF001
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in PRODUCTS)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", CSV.encode()),
        ("p.CSV", b"\xef\xbb\xbf" + CSV.encode()),
        ("p.tsv", TSV.encode()),
        ("p.jsonl", JSONL.encode()),
        ("p.json", json.dumps(PRODUCTS).encode()),
        ("p2.json", json.dumps({"data": PRODUCTS}).encode()),
        ("p.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("p.tsv.gz", gzip.compress(TSV.encode(), mtime=0)),
        ("p.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)),
        ("p.json.gz", gzip.compress(json.dumps(PRODUCTS).encode(), mtime=0)),
    ],
)
def test_every_text_format_gives_the_same_rows(tmp_path, name, content):
    assert values(write(tmp_path / name, content)) == PRODUCTS


def test_parquet_rows_keep_their_types_and_lose_the_index_of_pandas(tmp_path):
    table = pa.table({"id": [1, None], "price": [1.5, 2.0], "__index_level_0__": [7, 8]})
    pq.write_table(table, tmp_path / "p.parquet")
    assert values(tmp_path / "p.parquet") == [{"id": 1, "price": 1.5}, {"id": None, "price": 2.0}]


def test_rows_know_their_number_and_line(tmp_path):
    path = write(tmp_path / "p.csv", 'a,b\n1,"x\ny"\n\n2,z\n')
    assert [(row.number, row.line) for row in iter_rows([path])] == [(1, 2), (2, 5)]
    path = write(tmp_path / "p.jsonl", '{"a": 1}\n\n{"a": 2}\n')
    assert [(row.source, row.number, row.line) for row in iter_rows([path])] == [
        (str(path), 1, 1),
        (str(path), 2, 3),
    ]


def test_titles_that_look_like_nulls_and_numbers_stay_texts_in_csv(tmp_path):
    path = write(tmp_path / "p.csv", "title\nNA\nnull\n1984\nNaN\nTrue\n")
    assert [row["title"] for row in values(path)] == ["NA", "null", "1984", "NaN", "True"]


def test_a_title_of_a_megabyte_is_read(tmp_path):
    title = "x" * 1_000_000
    assert values(write(tmp_path / "p.csv", f"title\n{title}\n")) == [{"title": title}]


def test_a_key_that_some_json_objects_leave_out_is_null(tmp_path):
    path = write(tmp_path / "p.jsonl", '{"a": 1}\n{"a": 2, "b": 3}\n')
    assert values(path) == [{"a": 1, "b": None}, {"a": 2, "b": 3}]


def test_bad_csv_rows_are_yielded_with_their_reason_and_the_good_ones_around_them(tmp_path):
    path = write(tmp_path / "p.csv", b'a,b\n1,2\n1,2,3\n1\n"x"y,2\n\xff,2\n3,4\n')
    other = "the header has 2 fields and the row another number"
    assert problems(path) == [
        (2, 3, other),
        (3, 4, other),
        (4, 5, "is not valid csv"),
        (5, 6, "is not valid UTF-8"),
    ]
    assert [row.values for row in iter_rows([path]) if not row.problem] == [
        {"a": "1", "b": "2"},
        {"a": "3", "b": "4"},
    ]


def test_bad_jsonl_rows_are_yielded_with_their_reason(tmp_path):
    path = write(tmp_path / "p.jsonl", b'{"a": 1}\n[1]\n{"a": \n{"a": "\xe9"}\n' + b"[" * 100_000 + b"\n")
    assert problems(path) == [
        (2, 2, "is not a JSON object"),
        (3, 3, "is not JSON"),
        (4, 4, "is not valid UTF-8"),
        (5, 5, "is not JSON"),
    ]


def test_a_json_array_with_something_else_in_it_has_a_bad_row(tmp_path):
    assert problems(write(tmp_path / "p.json", '[{"a": 1}, "b"]')) == [(2, None, "is not a JSON object")]


def test_an_invalid_utf8_string_in_parquet_is_a_bad_row(tmp_path):
    raw = pa.array([b"good", b"\xff\xfe", b"also"], pa.binary())
    broken = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    pq.write_table(pa.table({"title": broken}), tmp_path / "p.parquet")
    assert problems(tmp_path / "p.parquet") == [(2, None, "is not valid UTF-8")]
    good = [row.values["title"] for row in iter_rows([tmp_path / "p.parquet"]) if not row.problem]
    assert good == ["good", "also"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", b"", "the file is empty"),
        ("p.parquet", b"", "the file is empty"),
        ("p.csv.gz", gzip.compress(b"", mtime=0), "there is no header"),
        ("p.csv", b"\n\n", "there is no header"),
        ("p.csv", b"a,b,a\n1,2,3\n", "names 'a' more than once"),
        (
            "p.csv",
            b'a,b\n1,"x\ny"\n1,"open\n2,z\n3,w\n',
            "line 4: a quote opens a field here and is never closed",
        ),
        ("p.csv", b'a,b\n"one\ntwo","open\n2,z\n', "line 3: a quote opens a field"),
        ("p.csv", b'a,b\n1,"', "line 2: a quote opens a field"),
        ("p.csv", b'"a,b\n1,2\n', "line 1: a quote opens a field"),
        ("p.csv", "a,b\n1,2\n".encode("utf-16"), "the header is not UTF-8"),
        ("p.csv.gz", gzip.compress(CSV.encode() * 100, mtime=0)[:-20], "damaged or truncated"),
        ("p.jsonl.gz", b"not gzip at all", "damaged or truncated"),
        ("p.parquet", b"PAR1 is not enough", "not a parquet file"),
        ("p.json", b'{"rows": []}', "must hold an array of objects"),
        ("p.json", b'[{"a": 1},\n{"a": }]', "line 2: the file is not JSON"),
        ("p.json", b'{"a": 1}\n{"a": 2}\n', "name it .jsonl"),
        ("p.json", b'[{"a": 1},\n{"a": "\xff"}]', "line 2: the text is not UTF-8"),
        ("p.xlsx", b"x", "csv, tsv, jsonl, json, parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        list(iter_rows([path]))
    assert str(path) in str(error.value)
    assert message in str(error.value)
    assert error.value.__cause__ is None


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: there is no such file"):
        list(iter_rows([tmp_path / "gone.csv"]))


def test_files_globs_and_folders_expand_sorted_and_once(tmp_path):
    for name in ("b.csv", "a.csv", "deep/c.jsonl", "deep/README.md", ".git/x.json", "odd[1].csv"):
        write(tmp_path / name, "x\n")
    found = expand_files([str(tmp_path / "*.csv"), str(tmp_path), str(tmp_path / "odd[1].csv")])
    assert [str(path.relative_to(tmp_path)) for path in found] == [
        "a.csv",
        "b.csv",
        "deep/c.jsonl",
        "odd[1].csv",
    ]


def test_a_pattern_that_matches_nothing_is_named(tmp_path):
    write(tmp_path / "a.csv", "x\n")
    with pytest.raises(DataError, match=r"b\*\.csv: no file matches"):
        expand_files([str(tmp_path / "a.csv"), str(tmp_path / "b*.csv")])


def test_a_file_of_an_unknown_kind_lists_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"csv, tsv, jsonl, json, parquet, csv\.gz"):
        expand_files([str(write(tmp_path / "a.xlsx", "x"))])


def test_file_and_sub_folder_names_name_the_splits(tmp_path):
    for name in ("shoes_train.csv", "dev-0001.csv", "test/part.csv", "latest.csv", "trainers.csv"):
        write(tmp_path / name, "x\n")
    source = resolve_dataset(str(tmp_path))
    names = {split: [path.name for path in files] for split, files in source.splits.items()}
    assert names == {"train": ["shoes_train.csv"], "validation": ["dev-0001.csv"], "test": ["part.csv"]}
    assert [path.name for path in source.ignored] == ["latest.csv", "trainers.csv"]
    assert splits_of(source) == {split: split for split in source.splits}


def test_a_file_is_the_train_split_and_so_is_a_folder_without_split_names(tmp_path):
    path = write(tmp_path / "offers.csv", "x\n1\n")
    assert resolve_dataset(str(path)).splits == {"train": (path,)}
    source = resolve_dataset(str(tmp_path))
    assert source.splits == {"train": (path,)}
    assert [row.values for row in iter_split(source, "train")] == [{"x": "1"}]
    with pytest.raises(DataError, match="no split 'test'; the splits are: train"):
        iter_split(source, "test")


def test_a_file_that_names_two_splits_is_refused(tmp_path):
    write(tmp_path / "train_test.csv", "x\n")
    with pytest.raises(DataError, match="train and test"):
        resolve_dataset(str(tmp_path))


def test_a_name_with_an_owner_is_a_hub_data_set_and_a_missing_file_is_not():
    assert resolve_dataset("smangrul/amazon_esci").splits is None
    for name in ("gone.csv", "./gone", "some/where/gone"):
        with pytest.raises(DataError, match="no file matches"):
            resolve_dataset(name)


def saved(folder, **splits):
    """Save a data set with `datasets`; a single split named rows is saved without a DatasetDict."""
    import datasets

    made = {split: datasets.Dataset.from_list(rows) for split, rows in splits.items()}
    (made["rows"] if "rows" in made else datasets.DatasetDict(made)).save_to_disk(folder)
    return folder


def test_a_saved_data_set_has_its_splits_and_dev_is_validation(tmp_path):
    rows = [{"query": "a", "product": "b", "neg": ["c", "d"]}]
    folder = saved(tmp_path / "saved", train=rows * 2, dev=rows)
    source = resolve_dataset(str(folder))
    splits = splits_of(source)
    assert splits == {"train": "train", "validation": "dev"}
    assert [row.values for row in iter_split(source, splits["validation"])] == rows
    assert [(row.source, row.number) for row in iter_split(source, "train")] == [
        (str(folder), 1),
        (str(folder), 2),
    ]


def test_a_single_saved_split_is_the_train_split(tmp_path):
    source = resolve_dataset(str(saved(tmp_path / "saved", rows=[{"query": "a"}])))
    assert splits_of(source) == {"train": "train"}
    assert [row.values for row in iter_split(source, "train")] == [{"query": "a"}]


def test_a_damaged_saved_data_set_is_one_message(tmp_path):
    folder = saved(tmp_path / "saved", rows=[{"query": "a"}])
    next(folder.glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="the saved data set cannot be read"):
        list(iter_split(resolve_dataset(str(folder)), "train"))


def test_a_saved_data_set_is_not_read_file_by_file(tmp_path):
    folder = saved(tmp_path / "saved", train=[{"query": "a"}])
    with pytest.raises(
        DataError, match=r"save_to_disk wrote; its files are not rows\. Give the folder: with --d"
    ):
        expand_files([str(folder)])


def test_local_files_have_no_configurations(tmp_path):
    path = write(tmp_path / "offers.csv", "x\n1\n")
    with pytest.raises(DataError, match="leave out --dataset_config_name shoes"):
        resolve_dataset(str(path), config="shoes")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "dev"), {"train": "train", "validation": "dev"}),
        (("train", "valid", "test"), {"train": "train", "validation": "valid", "test": "test"}),
        (("train", "validation", "dev"), {"train": "train", "validation": "validation", "dev": "dev"}),
        (("train", "dev_a", "dev_b"), {"train": "train", "dev_a": "dev_a", "dev_b": "dev_b"}),
        (("training", "latest"), {"train": "training", "latest": "latest"}),
    ],
)
def test_splits_of_the_hub_are_named_as_those_of_folders_are(monkeypatch, names, expected):
    import datasets

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *_, **__: list(names))
    assert splits_of(resolve_dataset("owner/name")) == expected


CONFIGURED = """---
configs:
- config_name: shoes
  data_files:
  - split: train
    path: shoes.csv
  - split: dev
    path: shoes_held_out.csv
- config_name: hats
  data_files:
  - split: train
    path: hats.csv
---
"""
READ = """
from aisle.data.dataset_sources import iter_split, resolve_dataset, splits_of
from aisle.errors import DataError
from tests.hub_server import TOKEN, HubServer
for config in (None, "coats", "shoes"):
    try:
        source = resolve_dataset("acme/clothes", config=config)
        splits = splits_of(source)
        print(splits, [row.values["query"] for split in splits.values() for row in iter_split(source, split)])
    except DataError as error:
        print(error)
"""


def test_configurations_of_the_hub_are_listed_and_chosen(tmp_path):
    folder = tmp_path / "clothes"
    write(folder / "README.md", CONFIGURED)
    for name, query in (("shoes", "boot"), ("shoes_held_out", "sandal"), ("hats", "cap")):
        write(folder / f"{name}.csv", f"query,product\n{query},b\n")
    with HubServer() as hub:
        hub.add_dataset("acme/clothes", folder)
        done = subprocess.run(
            [sys.executable, "-c", READ], env=hub.environment(tmp_path / "home", HF_TOKEN=TOKEN), text=True,
            capture_output=True, check=True, timeout=120,
        )  # fmt: skip
    missing, unknown, chosen = done.stdout.splitlines()
    listed = "Name one with --dataset_config_name: shoes, hats."
    assert missing == f"acme/clothes: the data set has several configurations. {listed}"
    assert unknown == f"acme/clothes: the data set has no configuration 'coats'. {listed}"
    assert chosen == "{'train': 'train', 'validation': 'dev'} ['boot', 'sandal']"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set that `datasets` loads from a folder, with its cache beside it."""
    import datasets

    write(tmp_path / "set" / "train.csv", "query,product\nred shoe,Shoe\nblue hat,Hat\n")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return str(tmp_path / "set")


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_rows_are_the_rows_of_the_split(hub, streaming):
    rows = list(iter_hub_rows(hub, split="train", streaming=streaming))
    assert [(row.source, row.number) for row in rows] == [(hub, 1), (hub, 2)]
    assert [row.values for row in rows] == [
        {"query": "red shoe", "product": "Shoe"},
        {"query": "blue hat", "product": "Hat"},
    ]


def test_a_missing_split_of_a_hub_data_set_is_one_message(hub):
    with pytest.raises(DataError, match='Unknown split "nope"') as error:
        list(iter_hub_rows(hub, split="nope"))
    assert "\n" not in str(error.value)


def test_offline_mode_is_one_clear_message(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError, match=r"owner/nothing: .*offline mode \(HF_HUB_OFFLINE\)") as error:
        list(iter_hub_rows("owner/nothing", split="train"))
    assert "\n" not in str(error.value)
    assert error.value.__suppress_context__


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("Dataset 'a/b' is a gated dataset on the Hub.", "gated. Request access"),
        ("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed.", "doesn't exist on the Hub"),
    ],
)
def test_a_gated_and_a_missing_hub_data_set_have_different_messages(monkeypatch, raised, message):
    import datasets

    def load(*_, **__):
        raise datasets.exceptions.DatasetNotFoundError(raised)

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(DataError, match=message):
        list(iter_hub_rows("a/b", split="train"))


def test_the_report_counts_by_reason_and_shows_the_first_ten():
    log = BadRowLog()
    for number in range(1, 13):
        log.add(Row("p.csv", number, {}, number + 1), Problem("title is blank", " "))
    log.add(Row("p.csv", 99, {}), Problem("title is null", "x" * 1000))
    report = log.report(good=1_000)
    assert (report.total, report.read, dict(report.by_reason)) == (
        13,
        1013,
        {"title is blank": 12, "title is null": 1},
    )
    assert [bad.number for bad in report.first] == list(range(1, 11))
    assert "13 of 1,013 rows are bad:\n  12 x title is blank\n  1 x title is null" in str(report)
    assert "p.csv, row 1 (line 2): title is blank: ' '" in str(report)


def test_a_long_value_is_shortened_in_the_report():
    log = BadRowLog()
    log.add(Row("p.csv", 1, {}), Problem("is odd", "x" * 1_000_000))
    assert log.report(good=0).first[0].found == f"'{'x' * 80}'... (1,000,000 characters)"
