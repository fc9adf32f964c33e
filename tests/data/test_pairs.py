"""Pairs: columns found, labels read, bad rows counted, and splits that share no query."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from aisle.data.dataset_sources import iter_rows, iter_split, resolve_dataset
from aisle.data.pairs import PairColumns, Pairs, check_disjoint, read_pairs, split_by_query
from aisle.data.rows import Row
from aisle.errors import DataError
from tests.real_data import DATA, needs_data

ESCI = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}


def rows_of(*values, source="pairs.jsonl"):
    return [Row(source, number, row) for number, row in enumerate(values, start=1)]


def read(rows, *, columns=None, label_map=None, on_bad_row="error", cache_dir=None):
    columns = columns or PairColumns()
    return read_pairs(rows, columns=columns, label_map=label_map, on_bad_row=on_bad_row, cache_dir=cache_dir)


def pairs_of(queries, ids=None) -> Pairs:
    rows = [{"query": query, "product": f"p{at}"} for at, query in enumerate(queries)]
    if ids is not None:
        rows = [{**row, "query_id": identity} for row, identity in zip(rows, ids, strict=True)]
    return read(rows_of(*rows)).pairs


def test_the_columns_of_pefts_example_data_set_need_no_flags():
    found = read(rows_of({"query": "q", "product_title": "p", "relevance_label": 1}))
    assert found.columns == PairColumns(query="query", product="product_title", label="relevance_label")
    assert (found.pairs.queries, found.pairs.products) == (["q"], ["p"])
    assert "product <- product_title" in str(found.columns)


def test_named_columns_win_over_found_ones():
    columns = PairColumns(query="question", product="answer")
    found = read(rows_of({"question": "q", "answer": "a", "query": "no"}), columns=columns)
    assert (found.pairs.queries, found.pairs.products) == (["q"], ["a"])


def test_pairs_without_labels_are_positives_without_a_relevance_column():
    pairs = pairs_of(["a", "b"])
    assert not pairs.labelled
    assert not pairs.graded
    assert pairs.relevance is None
    assert pairs.table.column_names == ["query", "product"]
    assert pairs.positive_share() == 1.0


def test_labels_are_mapped_exactly_and_ids_become_texts():
    values = [
        {"query": "q", "product": "p", "label": f" {label} ", "query_id": 7, "product_id": "B1"}
        for label in ESCI
    ]
    pairs = read(rows_of(*values), label_map=ESCI).pairs
    assert pairs.relevance.dtype == np.float32
    np.testing.assert_array_equal(pairs.relevance, np.float32([1, 0.1, 0.01, 0]))
    assert (pairs.query_ids, pairs.product_ids) == (["7"] * 4, ["B1"] * 4)
    assert pairs.graded
    assert pairs.positive_share() == 0.25
    assert pairs.positive_share(above=0.05) == 0.5
    assert pairs.positive_share(above=0.1) == 0.25


def test_a_label_map_matches_whole_numbers_of_any_type():
    values = [{"query": "q", "product": "p", "label": label} for label in (1, 1.0, "1", 0)]
    pairs = read(rows_of(*values), label_map={"1": 0.75, "0": 0.25}).pairs
    assert pairs.relevance.tolist() == [0.75, 0.75, 0.75, 0.25]


def test_numbers_booleans_and_numeric_texts_are_labels():
    values = [
        {"query": "q", "product": "p", "label": label} for label in (True, 0, 0.5, "1", " 0.25 ", "1e-1")
    ]
    expected = np.float32([1, 0, 0.5, 1, 0.25, 0.1])
    np.testing.assert_array_equal(read(rows_of(*values)).pairs.relevance, expected)


def test_labels_of_zero_and_one_are_not_graded():
    values = [{"query": "q", "product": "p", "label": label} for label in (0, 1, 1)]
    pairs = read(rows_of(*values)).pairs
    assert pairs.labelled
    assert not pairs.graded


@pytest.mark.parametrize("label", [math.nan, math.inf, -0.1, 1.5, "nan", "2", None, "", "best", [1], 10**400])
def test_an_invalid_label_is_a_bad_row(label):
    good = {"query": "q", "product": "p", "label": 1}
    found = read(rows_of(good, {**good, "label": label}, good), on_bad_row="skip")
    assert (len(found.pairs), found.bad_rows.total) == (2, 1)
    assert found.bad_rows.first[0].number == 2
    assert next(iter(found.bad_rows.by_reason)).startswith("label is ")


def test_a_label_outside_the_map_is_a_bad_row_that_lists_the_map():
    values = [{"query": "q", "product": "p", "label": label} for label in ("E", "X", None)]
    found = read(rows_of(*values), label_map=ESCI, on_bad_row="skip")
    assert found.bad_rows.by_reason == {"label is not in the label map (E, S, C, I)": 1, "label is null": 1}


def test_labels_that_are_words_need_a_label_map_and_are_listed():
    values = [{"query": "q", "product": "p", "esci_label": label} for label in "EESI"]
    with pytest.raises(DataError, match=r"'E', 'I', 'S'.*--label_map \"E=1,S=0.1,C=0.01,I=0\""):
        read(rows_of(*values), on_bad_row="skip")


@pytest.mark.parametrize("label_map", [{}, {"E": 2.0}, {"E": -1.0}, {"E": math.nan}])
def test_a_label_map_out_of_range_is_refused(label_map):
    with pytest.raises(DataError, match="--label_map"):
        read(rows_of({"query": "q", "product": "p", "label": "E"}), label_map=label_map)


def test_a_label_map_without_a_label_column_is_refused():
    with pytest.raises(DataError, match="no label column"):
        read(rows_of({"query": "q", "product": "p"}), label_map=ESCI)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "is null"),
        ("", "is blank"),
        (" \t\n ", "is blank"),
        ("\u3000\xa0", "is blank"),
        (3, "is not text"),
        (math.nan, "is not text"),
        (["a"], "is not text"),
        ("\ud83d", "is not valid Unicode"),
    ],
)
@pytest.mark.parametrize("column", ["query", "product"])
def test_an_unusable_text_is_a_bad_row(column, text, reason):
    good = {"query": "q", "product": "p"}
    found = read(rows_of(good, {**good, column: text}), on_bad_row="skip")
    assert found.bad_rows.by_reason == {f"{column} {reason}": 1}
    assert found.pairs.queries == ["q"]


@pytest.mark.parametrize(
    ("identity", "reason"),
    [
        (None, "is null"),
        (" ", "is blank"),
        (1.5, "is neither text nor an integer"),
        (True, "is neither text nor an integer"),
    ],
)
def test_a_missing_id_is_a_bad_row_where_there_are_ids(identity, reason):
    good = {"query": "q", "product": "p", "product_id": "B1"}
    found = read(rows_of(good, {**good, "product_id": identity}), on_bad_row="skip")
    assert found.bad_rows.by_reason == {f"product_id {reason}": 1}


def test_texts_are_kept_exactly():
    texts = ["  two  spaces ", "👟 حذاء 靴", "e\u0301", "line\nbreak", "NA", "\ufeffmark"]
    pairs = read(rows_of(*({"query": text, "product": text} for text in texts))).pairs
    assert pairs.queries == texts
    assert pairs.products == texts


def test_all_bad_rows_are_counted_before_the_error():
    good = {"query": "q", "product": "p"}
    with pytest.raises(DataError) as error:
        read(rows_of(good, {**good, "query": None}, good, {**good, "product": " "}))
    assert "2 of 4 rows are bad:\n  1 x query is null\n  1 x product is blank" in str(error.value)
    assert "pairs.jsonl, row 4: product is blank: ' '" in str(error.value)
    assert "--on_bad_row skip" in str(error.value)


@pytest.mark.parametrize("rows", [[], rows_of({"query": None, "product": "p"})])
def test_no_good_row_is_an_error_even_when_skipping(rows):
    with pytest.raises(DataError, match=r"no rows|No good row"):
        read(rows, on_bad_row="skip")


def test_rows_that_the_file_could_not_give_are_in_the_report(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(b"query,product\nshort\nq,p\nq,\xff\n")
    found = read(iter_rows([path]), on_bad_row="skip")
    assert len(found.pairs) == 1
    assert [(bad.number, bad.line) for bad in found.bad_rows.first] == [(1, 2), (3, 4)]


def test_a_missing_column_is_named_with_the_nearest_one():
    with pytest.raises(
        DataError, match=r"no column 'titel'\. Did you mean 'title'\? The columns are: query, title"
    ):
        read(rows_of({"query": "q", "title": "p"}), columns=PairColumns(product="titel"))


def test_no_query_column_lists_the_usual_names_and_the_columns():
    with pytest.raises(
        DataError, match=r"no query column; .*query, question.*--query_column.*title_a, title_b"
    ):
        read(rows_of({"title_a": "q", "title_b": "p"}))


def test_a_second_file_without_the_column_is_named():
    rows = [
        *rows_of({"query": "q", "product": "p"}),
        *rows_of({"query": "q", "title": "p"}, source="second.csv"),
    ]
    with pytest.raises(DataError, match=r"second\.csv: there is no column 'product'"):
        read(rows)


def test_pairs_are_in_one_arrow_file_that_an_error_removes(tmp_path):
    pairs = read(rows_of({"query": "q", "product": "p"}), cache_dir=tmp_path / "new").pairs
    (file,) = (tmp_path / "new").iterdir()
    assert [Path(entry["filename"]) for entry in pairs.table.cache_files] == [file]
    with pytest.raises(DataError, match="rows are bad"):
        read(
            rows_of({"query": "q", "product": "p"}, {"query": "", "product": ""}), cache_dir=tmp_path / "new"
        )
    assert list((tmp_path / "new").iterdir()) == [file]


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="file/cache: the cache folder cannot be written to"):
        read(rows_of({"query": "q", "product": "p"}), cache_dir=tmp_path / "file" / "cache")


def test_more_pairs_than_a_batch_come_back_in_order():
    values = ({"query": f"q{at}", "product": "p", "label": at % 2} for at in range(25_001))
    pairs = read(rows_of(*values)).pairs
    assert pairs.queries == [f"q{at}" for at in range(25_001)]
    assert pairs.relevance.sum() == 12_500


def test_select_returns_pairs_in_the_given_order():
    pairs = pairs_of(["a", "b", "c", "d"], ids=[1, 2, 3, 4]).select([3, 0, 3])
    assert (len(pairs), pairs.queries, pairs.query_ids) == (3, ["d", "a", "d"], ["4", "1", "4"])


def test_a_split_shares_no_query_by_text_and_keeps_every_pair():
    pairs = pairs_of([f"  Query {at % 20} ".upper() if at % 3 else f"query  {at % 20}" for at in range(200)])
    train, validation = split_by_query(pairs, validation_share=0.25, seed=1)
    assert check_disjoint(train, validation) == 0
    assert sorted(train.products + validation.products) == sorted(pairs.products)
    assert len({query.casefold().split()[1] for query in validation.queries}) == 5


def test_a_split_keeps_queries_with_shared_ids_or_texts_together():
    # a-1, b-1 and b-2, c-2 are a group through b; d and e are separate.
    pairs = pairs_of(["a", "b", "b", "c", "d", "e"], ids=["1", "1", "2", "2", "3", "4"])
    for seed in range(20):
        train, validation = split_by_query(pairs, validation_share=0.4, seed=seed)
        assert set(validation.queries) in ({"a", "b", "c"}, {"d"}, {"e"})
        assert not set(train.query_ids) & set(validation.query_ids)


def test_a_split_depends_on_the_seed_and_not_on_the_order_of_rows():
    queries = [f"query {at}" for at in range(50)]
    chosen = [
        set(split_by_query(pairs_of(queries), validation_share=0.2, seed=seed)[1].queries)
        for seed in (0, 0, 1)
    ]
    backwards = set(split_by_query(pairs_of(queries[::-1]), validation_share=0.2, seed=0)[1].queries)
    assert chosen[0] == chosen[1] == backwards
    assert chosen[0] != chosen[2]
    assert len(chosen[0]) == 10


def test_a_split_of_one_query_is_refused():
    with pytest.raises(DataError, match="single distinct query"):
        split_by_query(pairs_of(["Red shoe", "red  shoe "]), validation_share=0.5, seed=0)


@pytest.mark.parametrize("share", [0, 1, -0.1, math.nan])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(DataError, match="--validation_share"):
        split_by_query(pairs_of(["a", "b"]), validation_share=share, seed=0)


def test_shared_queries_are_counted_once_and_by_text():
    assert (
        check_disjoint(
            pairs_of(["Red Shoe", "hat", "hat"]), pairs_of([" red shoe", "red  shoe", "belt", "hat"])
        )
        == 2
    )


@needs_data
def test_the_real_faq_pairs_have_the_documented_counts():
    source, columns = (
        resolve_dataset(str(DATA / "cloud_faq")),
        PairColumns(query="question", product="answer"),
    )
    counts = {split: len(read(iter_split(source, split), columns=columns).pairs) for split in source.splits}
    assert counts == {"train": 6373, "validation": 2125}


@needs_data
@pytest.mark.parametrize(
    ("name", "counts", "share"),
    [("walmart_amazon", (6144, 2049, 2049), 0.094), ("wdc_all_small", (7230, 1808, 4398), 0.26)],
)
def test_the_real_product_pairs_have_the_documented_counts(name, counts, share):
    columns = PairColumns(query="title_a", product="title_b", label="match")
    files = [DATA / "product_pairs" / f"{name}_{split}.csv" for split in ("train", "validation", "test")]
    found = [read(iter_rows([file]), columns=columns, on_bad_row="skip") for file in files]
    assert tuple(result.bad_rows.read for result in found) == counts
    assert found[0].pairs.positive_share() == pytest.approx(share, abs=0.005)


@needs_data
def test_the_real_esci_pairs_have_the_documented_counts():
    rows = list(iter_rows([DATA / "esci" / "examples.csv"]))
    pairs = {
        split: read([row for row in rows if row.values["split"] == split], label_map=ESCI).pairs
        for split in ("train", "test")
    }
    assert {split: len(found) for split, found in pairs.items()} == {"train": 700, "test": 499}
    assert check_disjoint(pairs["train"], pairs["test"]) == 0
