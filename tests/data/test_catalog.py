"""The catalogue: ids, templates, the payload's types, and each kind of bad row."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from aisle.data.catalog_file import write_catalog, write_distinct_products
from aisle.data.pairs import PairColumns
from aisle.data.rows import Row
from aisle.data.sources import iter_rows
from aisle.data.templates import parse_template
from aisle.errors import ConfigError, DataError
from tests.real_data import DATA, needs_data


def rows_of(*values, source="products.jsonl"):
    return [Row(source, number, row, number + 1) for number, row in enumerate(values, start=1)]


@pytest.fixture
def write(tmp_path):
    """Returns what was written for rows, and the table that it is."""

    def run(rows, writer=write_catalog, **options):
        written = writer(rows, tmp_path / "catalog.arrow", **{"on_bad_row": "error", **options})
        table = pa.Table.from_batches(list(written.batches()))
        assert len(written) == table.num_rows
        return written, table

    return run


@pytest.fixture
def write_csv(tmp_path, write):
    def run(text, **options):
        path = tmp_path / "products.csv"
        path.write_text(text, encoding="utf-8")
        return write(iter_rows([path]), **options)[1]

    return run


def test_ids_texts_and_payload_are_those_of_the_rows(write_csv):
    table = write_csv("product_id,title,price,stock\nB1,NA,9.50,3\n007,1984,10,\n")
    assert table.to_pydict() == {
        "product_id": ["B1", "007"],
        "__text__": ["NA", "1984"],
        "title": ["NA", "1984"],
        "price": [9.5, 10.0],
        "stock": [3, None],
    }
    assert table.schema.field("stock").type == pa.int64()
    assert [table.schema.field(name).type for name in ("product_id", "__text__")] == [pa.string()] * 2


def test_the_id_column_may_have_another_name(write_csv):
    table = write_csv("title,sku\na,1\n", id_column="sku")
    assert table.to_pydict() == {"product_id": ["1"], "__text__": ["a"], "title": ["a"]}


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
def test_csv_numbers_become_numbers_when_all_are_and_codes_never(write_csv, column, values, expected):
    lines = [f"product_id,title,{column}", *(f"B{at},shoe,{value}" for at, value in enumerate(values))]
    column_read = write_csv("\n".join(lines))[column].to_pylist()
    assert column_read == expected
    assert [type(value) for value in column_read] == [type(value) for value in expected]


def test_a_column_that_the_template_uses_stays_text(write_csv):
    table = write_csv("product_id,title,year\nB1,a,1984\n", text_template="{title} {year}")
    assert table["__text__"].to_pylist() == ["a 1984"]
    assert table["year"].to_pylist() == ["1984"]


def test_typed_rows_keep_their_types_and_mixed_ones_become_texts(write):
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
    table = write(rows)[1]
    assert table["product_id"].to_pylist() == ["1", "2"]
    assert table.drop_columns(["product_id", "__text__"]).to_pydict() == {
        "title": ["a", "b"],
        "price": [1.0, 2.5],
        "tags": [["x"], []],
        "mixed": ["1", "one"],
        "more": ['{"a": 1}', None],
        "code": ["12", "13"],
    }


def test_types_that_change_between_chunks_are_united(write):
    count = 20_001
    rows = rows_of(
        *({"product_id": at, "title": "a", "price": 1, "name": "x"} for at in range(1, count)),
        {"product_id": 0, "title": "a", "price": 0.5, "name": 7},
    )
    table = write(rows)[1]
    assert table.num_rows == count
    assert table["price"].to_pylist()[-2:] == [1.0, 0.5]
    assert table["name"].to_pylist()[-2:] == ["x", "7"]


def test_csv_and_jsonl_rows_of_one_catalogue_share_their_number_columns(write):
    rows = rows_of({"product_id": "a", "title": "t", "price": "1.5"}, source="a.csv")
    rows += rows_of({"product_id": "b", "title": "t", "price": 2.5, "new": True})
    table = write(rows)[1]
    assert table["price"].to_pylist() == [1.5, 2.5]
    assert table["new"].to_pylist() == [None, True]


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


def test_a_field_that_is_no_column_is_named_with_the_nearest_one(write):
    with pytest.raises(DataError, match=r"no column 'titel'\. Did you mean 'title'\?"):
        write(rows_of({"product_id": 1, "title": "a"}), text_template="{titel}")


def test_a_missing_id_column_is_named_with_the_columns(write):
    with pytest.raises(DataError, match=r"no column 'product_id'\..*The columns are: sku, title"):
        write(rows_of({"sku": 1, "title": "a"}))


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
def test_a_bad_product_is_counted_by_its_reason_and_left_out(write, bad, reason):
    rows = rows_of(
        {"product_id": "B1", "title": "a", "brand": "x"},
        {"product_id": "B2", "title": "b", "brand": "y", **bad},
    )
    found, table = write(rows, on_bad_row="skip")
    assert found.bad_rows.by_reason == {reason: 1}
    assert table.to_pydict() == {"product_id": ["B1"], "__text__": ["a"], "title": ["a"], "brand": ["x"]}


def test_a_duplicate_id_names_the_first_row_that_had_it(write):
    rows = rows_of(
        {"product_id": "7", "title": "a"}, {"product_id": "8", "title": "b"}, {"product_id": 7, "title": "c"}
    )
    with pytest.raises(DataError) as error:
        write(rows)
    first = "products.jsonl, row 1 (line 2)"
    assert f"products.jsonl, row 3 (line 4): product_id is a duplicate: '7', first in {first}" in str(
        error.value
    )


def test_rows_that_the_file_could_not_give_are_counted(tmp_path, write):
    (tmp_path / "p.csv").write_bytes(b"product_id,title\nB1\nB2,hat\n")
    found, table = write(iter_rows([tmp_path / "p.csv"]), on_bad_row="skip")
    assert (table["product_id"].to_pylist(), found.bad_rows.total, found.bad_rows.read) == (["B2"], 1, 2)


@pytest.fixture
def write_pairs(write):
    def run(*values, **options):
        return write(rows_of(*values), write_distinct_products, columns=PairColumns(), **options)

    return run


def test_distinct_products_are_distinct_by_id_and_the_first_text_is_kept(write_pairs):
    found, table = write_pairs(
        {"product_id": "B1", "product_title": "Shoe", "query": "x"},
        {"product_id": "B2", "product_title": "Shoe", "query": None},
        {"product_id": "B1", "product_title": "Shoes", "query": "y"},
        {"product_id": "B1", "product_title": "Shoe", "query": "z"},
    )
    assert table.to_pydict() == {
        "product_id": ["B1", "B2"],
        "__text__": ["Shoe", "Shoe"],
        "product_title": ["Shoe", "Shoe"],
    }
    assert (found.conflicting_texts, found.bad_rows.read) == (1, 4)


def test_distinct_products_without_ids_are_distinct_by_text(write_pairs):
    found, table = write_pairs(
        {"query": "x", "product": "b"}, {"query": "y", "product": "a"}, {"query": "z", "product": "b"}
    )
    assert table.to_pydict() == {"product_id": ["p0", "p1"], "__text__": ["b", "a"], "product": ["b", "a"]}
    assert found.conflicting_texts == 0


def test_pairs_without_a_product_are_bad_rows_of_the_catalogue(write_pairs):
    found, table = write_pairs(
        {"product": "a", "product_id": 1},
        {"product": " ", "product_id": 2},
        {"product": "c", "product_id": ""},
        on_bad_row="skip",
    )
    assert table["product_id"].to_pylist() == ["1"]
    assert found.bad_rows.by_reason == {"product is blank": 1, "product_id is blank": 1}
    with pytest.raises(DataError, match="2 of 3 rows are bad"):
        write_pairs({"product": "a"}, {"product": " "}, {"product": None})


def test_a_file_of_pairs_without_the_product_column_is_named(write):
    rows = [*rows_of({"product": "a"}), *rows_of({"title": "a"}, source="second.csv")]
    with pytest.raises(DataError, match=r"second\.csv: there is no column 'product'"):
        write(rows, write_distinct_products, columns=PairColumns())


@needs_data
def test_the_real_catalogues_are_counted_as_the_data_page_says(write):
    titles, _ = write(iter_rows([DATA / "esci" / "distractor_titles.csv"]))
    assert len(titles) == 450
    rows = iter_rows([DATA / "scifact" / "corpus.jsonl"])
    corpus, _ = write(rows, id_column="_id", text_template="{title} {text}")
    assert len(corpus) == 5183
