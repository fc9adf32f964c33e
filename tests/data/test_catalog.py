"""The catalogue: ids, templates, the payload's types, and each kind of bad row."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pyarrow as pa
import pytest

from aisle.data.catalog import distinct_products, read_catalog
from aisle.data.pairs import PairColumns
from aisle.data.payload import PayloadBuilder
from aisle.data.rows import Row
from aisle.data.sources import iter_rows
from aisle.data.templates import parse_template
from aisle.errors import ConfigError, DataError

DATA = Path(os.environ.get("AISLE_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data is not here; set AISLE_BENCH_DATA")


def rows_of(*values, source="products.jsonl"):
    return [Row(source, number, row, number + 1) for number, row in enumerate(values, start=1)]


def read_csv(tmp_path, text, **options):
    path = tmp_path / "products.csv"
    path.write_text(text, encoding="utf-8")
    return read_catalog(iter_rows([path]), **{"on_bad_row": "error", **options}).catalog


def test_ids_texts_and_payload_are_those_of_the_rows(tmp_path):
    text = "product_id,title,price,stock\nB1,NA,9.50,3\n007,1984,10,\n"
    catalog = read_csv(tmp_path, text)
    assert catalog.product_ids == ["B1", "007"]
    assert catalog.texts == ["NA", "1984"]
    assert len(catalog) == 2
    assert catalog.payload.to_pydict() == {"title": ["NA", "1984"], "price": [9.5, 10.0], "stock": [3, None]}
    assert catalog.payload.schema.field("stock").type == pa.int64()


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("price", ["1", "-2"], [1, -2]),
        ("price", ["1", "2.5", "1e3"], [1.0, 2.5, 1000.0]),
        ("price", ["1", "two"], ["1", "two"]),
        ("price", ["1", "nan"], ["1", "nan"]),
        ("size", ["007", "12"], ["007", "12"]),
        ("size", ["1", "99999999999999999999"], ["1", "99999999999999999999"]),
        ("size", ["", ""], ["", ""]),
        ("parent_id", ["1", "2"], ["1", "2"]),
        ("EAN", ["4006381333931", "2"], ["4006381333931", "2"]),
    ],
)
def test_csv_numbers_become_numbers_when_all_are_and_codes_never(tmp_path, column, values, expected):
    lines = [f"product_id,title,{column}", *(f"B{at},shoe,{value}" for at, value in enumerate(values))]
    column_read = read_csv(tmp_path, "\n".join(lines)).payload[column].to_pylist()
    assert column_read == expected
    assert [type(value) for value in column_read] == [type(value) for value in expected]


def test_a_column_that_the_template_uses_stays_text(tmp_path):
    catalog = read_csv(tmp_path, "product_id,title,year\nB1,a,1984\n", text_template="{title} {year}")
    assert catalog.texts == ["a 1984"]
    assert catalog.payload["year"].to_pylist() == ["1984"]


def test_typed_rows_keep_their_types_and_mixed_ones_become_texts():
    rows = rows_of(
        {
            "product_id": 1,
            "title": "a",
            "price": 1,
            "tags": ["x"],
            "mixed": 1,
            "more": {"a": 1},
            "code": "12",
        },
        {"product_id": 2, "title": "b", "price": 2.5, "tags": [], "mixed": "one", "more": None, "code": "13"},
    )
    catalog = read_catalog(rows, on_bad_row="error").catalog
    assert catalog.product_ids == ["1", "2"]
    assert catalog.payload.to_pydict() == {
        "title": ["a", "b"],
        "price": [1.0, 2.5],
        "tags": [["x"], []],
        "mixed": ["1", "one"],
        "more": ['{"a": 1}', None],
        "code": ["12", "13"],
    }


def test_types_that_change_between_chunks_are_united():
    builder = PayloadBuilder(texts=())
    count = 20_001
    for at in range(count):
        last = at == count - 1
        builder.add({"price": 0.5 if last else 1, "name": 7 if last else "x"}, untyped=False)
    table = builder.table()
    assert table.num_rows == count
    assert table["price"].to_pylist()[-2:] == [1.0, 0.5]
    assert table["name"].to_pylist()[-2:] == ["x", "7"]


def test_csv_and_jsonl_rows_of_one_catalogue_share_their_number_columns():
    rows = rows_of({"product_id": "a", "title": "t", "price": "1.5"}, source="a.csv")
    rows += rows_of({"product_id": "b", "title": "t", "price": 2.5, "new": True})
    payload = read_catalog(rows, on_bad_row="error").catalog.payload
    assert payload["price"].to_pylist() == [1.5, 2.5]
    assert payload["new"].to_pylist() == [None, True]


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{title}", {"title": " two  spaces "}, " two  spaces "),
        ("{title} {brand}", {"title": "a", "brand": "b"}, "a b"),
        ("{title} {brand}", {"title": "a", "brand": None}, "a"),
        ("{title} {brand}", {"title": " ", "brand": "b"}, "b"),
        ("{title} {brand} {color}", {"title": "a", "brand": "", "color": "c"}, "a c"),
        ("{title} {brand} {color}", {"title": "a", "brand": math.nan, "color": None}, "a"),
        ("{brand}: {title} {{x}}", {"title": "a", "brand": "b"}, "b: a {x}"),
        ("{title} {price}", {"title": "a", "price": 9.5}, "a 9.5"),
        ("{title} {title}", {"title": "a"}, "a a"),
    ],
)
def test_a_template_gives_the_text_and_leaves_blank_fields_out(template, values, text):
    assert parse_template(template).render(values) == text


@pytest.mark.parametrize(
    "template",
    [
        "",
        "title",
        "{}",
        "{title.__class__}",
        "{title[0]}",
        "{title!r}",
        "{title:>9}",
        "{title",
        "title}",
        "{ }",
        "{{title}}",
    ],
)
def test_a_template_with_more_than_names_is_refused(template):
    with pytest.raises(ConfigError, match="--text_template"):
        parse_template(template)


def test_a_field_that_is_no_column_is_named_with_the_nearest_one():
    with pytest.raises(DataError, match=r"no column 'titel'\. Did you mean 'title'\?"):
        read_catalog(rows_of({"product_id": 1, "title": "a"}), text_template="{titel}", on_bad_row="error")


def test_a_missing_id_column_is_named_with_the_columns():
    with pytest.raises(DataError, match=r"no column 'product_id'\..*The columns are: sku, title"):
        read_catalog(rows_of({"sku": 1, "title": "a"}), on_bad_row="error")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"product_id": None}, "product_id is null"),
        ({"product_id": " "}, "product_id is blank"),
        ({"product_id": 1.5}, "product_id is neither text nor an integer"),
        ({"product_id": "\udc80"}, "product_id is not valid Unicode"),
        ({"title": None}, "title is blank"),
        ({"title": " \t"}, "title is blank"),
        ({"title": ["a"]}, "title is not text"),
        ({"title": "\ud800"}, "title is not valid Unicode"),
        ({"brand": "\ud800"}, "brand is not valid Unicode"),
        ({"product_id": "B1"}, "product_id is a duplicate"),
    ],
)
def test_a_bad_product_is_counted_by_its_reason_and_left_out(bad, reason):
    rows = rows_of(
        {"product_id": "B1", "title": "a", "brand": "x"},
        {"product_id": "B2", "title": "b", "brand": "y", **bad},
    )
    found = read_catalog(rows, on_bad_row="skip")
    assert found.bad_rows.by_reason == {reason: 1}
    assert (found.catalog.product_ids, found.catalog.payload["brand"].to_pylist()) == (["B1"], ["x"])


def test_a_duplicate_id_names_the_first_row_that_had_it():
    rows = rows_of(
        {"product_id": "7", "title": "a"}, {"product_id": "8", "title": "b"}, {"product_id": 7, "title": "c"}
    )
    with pytest.raises(DataError) as error:
        read_catalog(rows, on_bad_row="error")
    first = "products.jsonl, row 1 (line 2)"
    assert f"products.jsonl, row 3 (line 4): product_id is a duplicate: '7', first in {first}" in str(
        error.value
    )


def test_rows_that_the_file_could_not_give_are_counted(tmp_path):
    (tmp_path / "p.csv").write_bytes(b"product_id,title\nB1\nB2,hat\n")
    found = read_catalog(iter_rows([tmp_path / "p.csv"]), on_bad_row="skip")
    assert (found.catalog.product_ids, found.bad_rows.total) == (["B2"], 1)


def test_distinct_products_are_distinct_by_id_and_the_first_text_is_kept():
    rows = rows_of(
        {"product_id": "B1", "product_title": "Shoe", "query": "x"},
        {"product_id": "B2", "product_title": "Shoe", "query": None},
        {"product_id": "B1", "product_title": "Shoes", "query": "y"},
        {"product_id": "B1", "product_title": "Shoe", "query": "z"},
    )
    found = distinct_products(rows, columns=PairColumns(), on_bad_row="error")
    assert (found.catalog.product_ids, found.catalog.texts) == (["B1", "B2"], ["Shoe", "Shoe"])
    assert found.conflicting_texts == 1
    assert found.catalog.payload.to_pydict() == {"product_title": ["Shoe", "Shoe"]}


def test_distinct_products_without_ids_are_distinct_by_text():
    rows = rows_of(
        {"query": "x", "product": "b"}, {"query": "y", "product": "a"}, {"query": "z", "product": "b"}
    )
    catalog = distinct_products(rows, columns=PairColumns(), on_bad_row="error").catalog
    assert (catalog.product_ids, catalog.texts) == (["p0", "p1"], ["b", "a"])


def test_pairs_without_a_product_are_bad_rows_of_the_catalogue():
    rows = rows_of(
        {"product": "a", "product_id": 1},
        {"product": " ", "product_id": 2},
        {"product": "c", "product_id": ""},
    )
    found = distinct_products(rows, columns=PairColumns(), on_bad_row="skip")
    assert found.catalog.product_ids == ["1"]
    assert found.bad_rows.by_reason == {"product is blank": 1, "product_id is blank": 1}


@needs_data
@pytest.mark.data
def test_the_real_catalogues_are_counted_as_the_data_page_says():
    titles = read_catalog(iter_rows([DATA / "esci" / "distractor_titles.csv"]), on_bad_row="error").catalog
    assert len(titles) == 450
    rows = iter_rows([DATA / "scifact" / "corpus.jsonl"])
    corpus = read_catalog(rows, id_column="_id", text_template="{title} {text}", on_bad_row="error").catalog
    assert len(corpus) == 5183
