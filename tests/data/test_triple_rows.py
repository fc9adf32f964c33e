"""Triples with columns of any names, and triples that lack something."""

import pytest

from aisle.data.pairs import PairColumns, read_pairs
from aisle.data.rows import Row
from aisle.data.triple_rows import find_triple_columns, triple_columns, triple_rows
from aisle.errors import DataError


def rows_of(*values, source="triples.csv"):
    return [Row(source, number, dict(one)) for number, one in enumerate(values, start=1)]


def read(*rows, on_bad_row="error", **columns):
    made = triple_rows(iter(rows), wanted=PairColumns(**columns))
    found = read_pairs(
        made, columns=triple_columns(PairColumns()), label_map=None, on_bad_row=on_bad_row
    ).pairs
    return list(zip(found.queries, found.products, found.hard_negatives, strict=True))


@pytest.mark.parametrize(
    "row",
    [
        {"anchor": "a", "positive": "b", "negative": "c"},
        {"query": "a", "pos": "b", "neg": ["c"], "label": 0},
        {"question": "a", "title": "b", "negative_1": "c", "negative_2": " "},
        {"anchor": "a", "positive": "b", "negatives": '["c"]'},
        {"premise": "a", "entailed": "b", "contradicted": "c"},
    ],
)
def test_usual_names_and_else_the_positions_tell_the_columns(row):
    assert read(*rows_of(row)) == [("a", "b", ["c"])]


def test_columns_of_any_name_are_read_if_they_are_named():
    row = {"id": 4, "text": "a", "good": "b", "bad": "c"}
    assert read(*rows_of(row), query="text", product="good", hard_negatives="bad") == [("a", "b", ["c"])]


def test_each_source_has_its_own_columns():
    first = rows_of({"anchor": "a", "positive": "b", "negative": "c"}, source="one.csv")
    second = rows_of({"x": "d", "y": "e", "z": "f", "w": "g"}, source="two.csv")
    assert read(*first, *second) == [("a", "b", ["c"]), ("d", "e", ["f", "g"])]


def test_a_triple_without_a_negative_is_a_bad_row():
    good = {"anchor": "a", "positive": "b", "negative": "c"}
    rows = rows_of(good, {**good, "negative": " "}, {**good, "negative": None}, {**good, "negative": "b"})
    with pytest.raises(DataError) as refused:
        read(*rows)
    assert "2 x negative is empty; a triple has a negative" in str(refused.value)
    assert "1 x negatives holds the row's own product" in str(refused.value)
    assert "triples.csv, row 2: negative is empty" in str(refused.value)
    assert read(*rows, on_bad_row="skip") == [("a", "b", ["c"])]


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ({"anchor": "a", "positive": "b"}, "negatives; its name is one of negative, negative_1"),
        (
            {"anchor": "a", "negative": "b", "other": "c"},
            "positives; its name is one of product, product_title",
        ),
        ({"text": "a", "positive": "b", "negative": "c"}, "anchors; its name is one of query, question"),
        ({"rank": 1, "x": "a", "y": "b", "z": "c"}, "anchors"),
        ({"id": "1", "x": "a", "y": "b"}, "anchors"),
    ],
)
def test_a_missing_column_is_one_message(row, missing):
    (one,) = rows_of(row)
    with pytest.raises(DataError) as refused:
        find_triple_columns(one, PairColumns())
    said = str(refused.value)
    assert said.startswith("triples.csv: --train_format triples needs a column of " + missing)
    assert f"The columns are: {', '.join(row)}." in said


@pytest.mark.parametrize("name", ["id", "ID", "pairID", "row_id", "", "Unnamed: 0", "uuid"])
@pytest.mark.parametrize("value", [7, "7"])
def test_ids_are_never_an_anchor(name, value):
    texts = {"premise": "a", "entailed": "b", "contradicted": "c"}
    assert read(*rows_of({name: value, **texts})) == [("a", "b", ["c"])]
    assert read(*rows_of({**texts, name: value})) == [("a", "b", ["c"])]


def test_a_column_without_words_is_not_taken_by_its_position():
    (row,) = rows_of({"code": "4-17", "x": "a", "y": "b", "z": "c"})
    with pytest.raises(DataError, match="'code' holds no words but '4-17', so the columns are not taken by"):
        find_triple_columns(row, PairColumns())
    assert read(row, query="x", product="y", hard_negatives="z") == [("a", "b", ["c"])]


def test_the_columns_in_use_are_logged_once_and_again_if_a_source_has_others():
    first = rows_of({"id": "1", "x": "a", "y": "b", "z": "c"}, {"id": "2", "x": "d", "y": "e", "z": "f"})
    second = rows_of({"anchor": "a", "positive": "b", "negative": "c"}, source="two.csv")
    lines = []
    list(triple_rows(iter([*first, *second]), wanted=PairColumns(), log=lines.append))
    assert lines == [
        "triples of triples.csv: anchor: x, positive: y, negatives: z; taken by position",
        "triples of two.csv: anchor: anchor, positive: positive, negatives: negative",
    ]
