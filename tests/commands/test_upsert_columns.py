"""upsert: blank values, columns that differ from the index, and --partial."""

import json
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aisle.cli import index_main
from aisle.index import open_index, read_manifest
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN
from tests.commands.array_index import ask, write_index

SHOP = "product_id,title,price,qty\n1,red sofa,49.99,3\n2,blue sofa,20,4\n"


@pytest.fixture
def build(tiny_bert, tmp_path, capfd):
    """Build an index of a file of text, or of a table, and return its folder."""

    def run(content, *flags, name="build.csv"):
        catalog = tmp_path / name
        if isinstance(content, pa.Table):
            pq.write_table(content, catalog)
        else:
            catalog.write_text(content, encoding="utf-8")
        given = ["--model", tiny_bert, "--catalog", catalog, "--index_dir", tmp_path / "index"]
        given += ["--threads", 1, "--precision", "fp32"]
        assert index_main(["build", *map(str, given), *flags]) == 0, capfd.readouterr().err
        return tmp_path / "index"

    return run


@pytest.fixture
def upsert(tmp_path, capfd):
    """Upsert a file of text; return the exit code, the JSON document and the log."""

    def run(index_dir, content, *flags, name="upsert.csv"):
        (tmp_path / name).write_text(content, encoding="utf-8")
        given = ["--index_dir", index_dir, "--catalog", tmp_path / name, "--threads", 1]
        return ask(capfd, "upsert", *given, *flags)

    return run


@pytest.fixture
def no_encoder(monkeypatch):
    monkeypatch.setattr("aisle.commands.upsert.run.encoder_of_index", lambda *_, **__: pytest.fail("loaded"))


def rows_of(index_dir):
    """Return {id: payload} of the current version."""
    index = open_index(index_dir)
    ids = index.products.column(ID_COLUMN).to_pylist()
    return dict(zip(ids, index.payload(np.arange(len(index))), strict=True))


def types_of(index_dir):
    schema = open_index(index_dir).products.schema
    return {field.name: field.type for field in schema if field.name not in {ID_COLUMN, TEXT_COLUMN}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("blank.csv", "product_id,title,price,qty\n1,red sofa,,\n"),
        ("spaces.csv", "product_id,title,price,qty\n1,red sofa,  , \n"),
        ("null.jsonl", '{"product_id": "1", "title": "red sofa", "price": null, "qty": null}\n'),
        ("blank.jsonl", '{"product_id": "1", "title": "red sofa", "price": "", "qty": " "}\n'),
    ],
)
def test_blank_and_null_are_missing_values_whatever_else_is_in_the_file(build, upsert, name, content):
    index_dir = build(SHOP)
    before = types_of(index_dir)

    code, document, _ = upsert(index_dir, content, name=name)

    assert code == 0
    assert document["replaced"] == 1
    assert rows_of(index_dir)["1"] == {"title": "red sofa", "price": None, "qty": None}
    assert types_of(index_dir) == before


TYPED = pa.table(
    {
        "product_id": ["1", "2"],
        "title": ["red sofa", "blue sofa"],
        "new": [True, False],
        "day": [date(2026, 1, 31), date(2026, 2, 1)],
        "tags": [["a"], ["b", "c"]],
        "qty": [1, 2],
    }
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "product_id,title,new,day,tags,qty\n1,red sofa,,,,\n"),
        (
            "a.jsonl",
            '{"product_id": "1", "title": "red sofa", "new": null, "day": "", "tags": null, "qty": ""}',
        ),
    ],
)
def test_blank_values_keep_the_types_of_true_or_false_dates_and_lists(build, upsert, name, content):
    index_dir = build(TYPED, name="typed.parquet")
    before = types_of(index_dir)

    assert upsert(index_dir, content, name=name)[0] == 0
    assert rows_of(index_dir)["1"] == {"title": "red sofa", **dict.fromkeys(["new", "day", "tags", "qty"])}
    assert types_of(index_dir) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'product_id,title,new,day,tags,qty\n1,sofa,TRUE,2026-03-01,"[""x"", ""y""]",+7\n'),
        (
            "a.jsonl",
            '{"product_id": "1", "title": "sofa", "new": true, "day": "2026-03-01", "tags": ["x", "y"],'
            ' "qty": 7}',
        ),
    ],
)
def test_values_are_read_as_the_types_of_the_index(build, upsert, name, content):
    index_dir = build(TYPED, name="typed.parquet")
    before = types_of(index_dir)

    assert upsert(index_dir, content, name=name)[0] == 0
    expected = {"title": "sofa", "new": True, "day": date(2026, 3, 1), "tags": ["x", "y"], "qty": 7}
    assert rows_of(index_dir)["1"] == expected
    assert types_of(index_dir) == before


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("new", "yes", "new is neither true nor false"),
        ("day", "31.01.2026", "day is not a date such as 2026-01-31"),
        ("tags", "x", "tags is not a list"),
        ("qty", "many", "qty is not a number"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_row_or_left_out(build, upsert, column, value, rule):
    index_dir = build(TYPED, name="typed.parquet")
    good = {"new": "true", "day": "2026-03-01", "tags": "[]", "qty": "1"}
    lines = [",".join(["product_id", "title", *good])]
    lines += [
        ",".join(["3", "chair", *good.values()]),
        ",".join(["4", "desk", *(good | {column: value}).values()]),
    ]

    code, document, said = upsert(index_dir, "\n".join(lines))
    assert (code, document) == (2, None)
    assert f"{rule}, as the column is in the index" in said.replace("\n", " ") or rule in said
    assert "row 2 (line 3)" in said
    assert repr(value) in said

    code, document, _ = upsert(index_dir, "\n".join(lines), "--on_bad_row", "skip")
    assert (code, document["added"], document["bad_rows"]) == (0, 1, 1)
    assert rows_of(index_dir).keys() == {"1", "2", "3"}


def test_a_whole_column_becomes_one_of_decimals_with_the_first_of_them(build, upsert):
    index_dir = build(SHOP)

    assert upsert(index_dir, "product_id,title,price,qty\n1,red sofa,49.99,2.5\n")[0] == 0
    assert [row["qty"] for row in rows_of(index_dir).values()] == [2.5, 4.0]


@pytest.mark.parametrize("flags", [[], ["--partial"]])
def test_an_unknown_column_is_refused_with_the_nearest_name(build, upsert, flags):
    index_dir = build(SHOP)

    code, document, said = upsert(index_dir, "product_id,title,prcie\n1,red sofa,9\n", *flags)

    assert (code, document) == (2, None)
    assert "'prcie' is not a column of the index (did you mean 'price'?)" in said
    assert rows_of(index_dir)["1"]["price"] == 49.99


def test_missing_columns_are_all_named_and_refused_with_the_flag_to_give(build, upsert):
    index_dir = build(SHOP)

    code, _, said = upsert(index_dir, "product_id,price\n1,45.00\n")

    assert code == 2
    assert "'title', 'qty'" in said
    assert "--partial" in said


def test_an_unknown_column_far_down_a_jsonl_file_is_refused(build, upsert):
    index_dir = build(SHOP)
    row = {"product_id": "1", "title": "red sofa", "price": 1, "qty": 1}
    lines = [row | {"product_id": str(number)} for number in range(1100)] + [row | {"colour": "red"}]

    code, _, said = upsert(index_dir, "\n".join(map(json.dumps, lines)), name="u.jsonl")

    assert code == 2
    assert "'colour' is not a column of the index" in said


def test_partial_changes_the_given_columns_alone_without_an_encoder(build, upsert, no_encoder, capfd):
    index_dir = build(SHOP)
    before = open_index(index_dir)

    code, document, _ = upsert(index_dir, "product_id,price\n1,45.00\n", "--partial")

    assert code == 0
    assert (document["added"], document["replaced"], document["version"]) == (0, 1, 2)
    assert rows_of(index_dir) == {
        "1": {"title": "red sofa", "price": 45.0, "qty": 3},
        "2": {"title": "blue sofa", "price": 20.0, "qty": 4},
    }
    after = open_index(index_dir)
    np.testing.assert_array_equal(np.asarray(after.embeddings), np.asarray(before.embeddings))
    assert after.products[TEXT_COLUMN].to_pylist() == ["red sofa", "blue sofa"]


def test_the_changed_price_is_what_filters_and_words_find(build, upsert, capfd):
    index_dir = build(SHOP)
    upsert(index_dir, "product_id,price\n1,45.00\n", "--partial")

    flags = ["--index_dir", index_dir, "--mode", "lexical", "--where", "20 < price <= 46", "sofa"]
    _, answers, _ = ask(capfd, "query", "--top_k", 2, *flags)

    assert [result["product_id"] for result in answers[0]["results"]] == ["1"]


def test_partial_embeds_a_text_again_where_a_column_of_the_template_changes_it(
    build, upsert, embedded, capfd
):
    index_dir = build(SHOP, "--text_template", "{title} {qty}")
    embedded.clear()

    rows = "product_id,title\n1,green rug\n2,blue sofa\n"
    code, document, _ = upsert(index_dir, rows, "--partial")

    assert code == 0
    assert embedded == ["green rug 3"]
    assert (document["replaced"], document["unchanged"]) == (1, 1)
    _, answers, _ = ask(capfd, "query", "--index_dir", index_dir, "--mode", "lexical", "--top_k", 1, "rug")
    assert [result["product_id"] for result in answers[0]["results"]] == ["1"]
    _, answers, _ = ask(capfd, "query", "--index_dir", index_dir, "--top_k", 1, "green rug 3")
    assert answers[0]["results"][0]["score"] == pytest.approx(1.0, abs=1e-5)


def test_a_json_object_changes_the_columns_that_it_has_and_null_is_a_missing_value(build, upsert):
    index_dir = build(SHOP)

    lines = '{"product_id": "1", "price": 45}\n{"product_id": "2", "qty": null}\n'
    code, _, _ = upsert(index_dir, lines, "--partial", name="u.jsonl")

    assert code == 0
    assert rows_of(index_dir) == {
        "1": {"title": "red sofa", "price": 45.0, "qty": 3},
        "2": {"title": "blue sofa", "price": 20.0, "qty": None},
    }


def test_partial_keeps_lists_dates_and_wider_numbers(build, upsert):
    index_dir = build(TYPED, name="typed.parquet")

    content = 'product_id,tags,qty\n2,"[""z""]",1.5\n'
    assert upsert(index_dir, content, "--partial")[0] == 0

    rows = rows_of(index_dir)
    assert (rows["1"]["tags"], rows["1"]["day"], rows["1"]["qty"]) == (["a"], date(2026, 1, 31), 1.0)
    assert (rows["2"]["tags"], rows["2"]["day"], rows["2"]["qty"]) == (["z"], date(2026, 2, 1), 1.5)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("product_id,price\n1,5\n9,5\n", "product_id is not in the index"),
        ("product_id,price\n1,5\n1,6\n", "product_id is a duplicate"),
        ("product_id,price\n1,5\n2,cheap\n", "price is not a number"),
        ("product_id,price\n1,5\n,6\n", "product_id is blank"),
    ],
)
def test_rows_that_cannot_be_merged_are_named_or_left_out(build, upsert, content, part):
    index_dir = build(SHOP)

    code, document, said = upsert(index_dir, content, "--partial")
    assert (code, document) == (2, None)
    assert part in said
    assert "row 2 (line 3)" in said
    assert read_manifest(index_dir).version == 1

    code, document, _ = upsert(index_dir, content, "--partial", "--on_bad_row", "skip")
    assert (code, document["bad_rows"]) == (0, 1)
    assert [row["price"] for row in rows_of(index_dir).values()] == [5.0, 20.0]


def test_a_partial_change_that_leaves_no_text_is_refused(build, upsert):
    index_dir = build(SHOP)

    code, _, said = upsert(index_dir, "product_id,title\n2,\n", "--partial")

    assert code == 2
    assert "product '2'" in said
    assert "title is blank" in said


def test_a_partial_change_of_nothing_is_refused(build, upsert):
    code, _, said = upsert(build(SHOP), "product_id\n1\n", "--partial")

    assert code == 2
    assert "no column to change" in said


def test_partial_needs_no_texts_in_the_index(tmp_path, upsert, no_encoder):
    write_index(tmp_path / "index", count=3, texts=None)
    before = np.array(open_index(tmp_path / "index").embeddings)
    flags = ["--id_column", "product_id"]

    code, _, _ = upsert(tmp_path / "index", "product_id,price\np001,99\n", "--partial", *flags)

    assert code == 0
    after = open_index(tmp_path / "index")
    assert rows_of(tmp_path / "index")["p001"] == {"title": "chair 1", "price": 99}
    np.testing.assert_array_equal(np.asarray(after.embeddings), before)


def test_ids_stay_texts_to_the_letter(build, upsert):
    index_dir = build("product_id,title\n007,a\n1E5,b\n+5,c\n1.10,d\n")
    assert rows_of(index_dir).keys() == {"007", "1E5", "+5", "1.10"}

    code, document, _ = upsert(index_dir, "product_id,title\n007,x\n1E5,y\n7,z\n")
    assert (code, document["added"], document["replaced"]) == (0, 1, 2)
    code, document, _ = upsert(index_dir, "product_id,title\n1E5,w\n007,v\n", "--partial")
    assert (code, document["replaced"]) == (0, 2)
    found = {name: row["title"] for name, row in rows_of(index_dir).items()}
    assert found == {"007": "v", "1E5": "w", "+5": "c", "1.10": "d", "7": "z"}
