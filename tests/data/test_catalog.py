"""The catalogue: ids, templates, the payload's types, and each kind of bad row."""

from __future__ import annotations

import math
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aisle.data.catalog_file import write_catalog, write_distinct_products
from aisle.data.dataset_sources import iter_rows
from aisle.data.pairs import PairColumns
from aisle.data.payload import KnownColumns
from aisle.data.rows import Row
from aisle.data.templates import parse_template
from aisle.errors import ConfigError, DataError
from tests.real_data import DATA, needs_data


def rows_of(*values, source="products.jsonl"):
    return [Row(source, number, row, number + 1) for number, row in enumerate(values, start=1)]


@pytest.fixture
def write(tmp_path):
    """Return the catalogue file written for rows, and its table."""

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
        ("price", ["1", "2.5", "1e-05"], [1.0, 2.5, 0.00001]),
        ("price", ["1", "two"], ["1", "two"]),
        ("price", ["1", "nan"], ["1", "nan"]),
        ("size", ["007", "12"], ["007", "12"]),
        ("size", ["1", "99999999999999999999"], ["1", "99999999999999999999"]),
        ("size", ["", " "], [None, None]),
        ("parent_id", ["1", "2"], ["1", "2"]),
        ("EAN", ["4006381333931", "2"], ["4006381333931", "2"]),
        ("weight", [".5", "1.5", "2", ".8", "12.", "+5"], [0.5, 1.5, 2.0, 0.8, 12.0, 5.0]),
        ("qty", ["+5", "-3"], [5, -3]),
        ("part", ["1E10", "2E15", "3E20"], ["1E10", "2E15", "3E20"]),
        ("version", ["1.10", "1.9", "2.0"], ["1.10", "1.9", "2.0"]),
        ("price", ["1.10", "12.50", "3"], [1.1, 12.5, 3.0]),
        ("rating", ["4.0", "3.75", "20.0"], [4.0, 3.75, 20.0]),
        ("ratio", ["0.30000000000000004", "1e-07"], [0.30000000000000004, 1e-07]),
        ("exact", ["0.1234567890123456789", "1"], ["0.1234567890123456789", "1"]),
        ("phone", ["+4915112345678", "+441632960"], ["+4915112345678", "+441632960"]),
        ("new", ["True", "false", ""], [True, False, None]),
        ("new", ["TRUE", "0"], ["TRUE", "0"]),
        ("new", ["yes", "no"], ["yes", "no"]),
        ("day", ["2026-01-31", "", "2024-02-29"], [date(2026, 1, 31), None, date(2024, 2, 29)]),
        ("day", ["2026-01-31", "2026-02-30"], ["2026-01-31", "2026-02-30"]),
        ("day", ["31.01.2026", "2026-01-31"], ["31.01.2026", "2026-01-31"]),
        ("mixed", ["true", "1"], ["true", "1"]),
        ("colour", ["red", "", " "], ["red", None, None]),
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


def test_csv_and_jsonl_rows_of_a_catalogue_share_number_columns(write):
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
        ("{Title} {attr.size}", {"Title": "Sofa", "attr.size": "L"}, "Sofa L"),
        ("{Colour (meta.color-pattern)}!", {"Colour (meta.color-pattern)": "blue"}, "blue!"),
        ("{a:b} {c[0]!r}", {"a:b": "x", "c[0]!r": "y"}, "x y"),
        ("{title.__class__}", {"title": "a", "title.__class__": "b"}, "b"),
        ("{title} in {colours}", {"title": "a", "colours": ["red", "", None, "blue"]}, "a in red, blue"),
        ("{title} {sizes}", {"title": "a", "sizes": [38, 40.5]}, "a 38, 40.5"),
        ("{title} {colours}", {"title": "a", "colours": []}, "a"),
        ("{title} {day} {new}", {"title": "a", "day": date(2026, 1, 31), "new": True}, "a 2026-01-31 true"),
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
        "{title {brand}}",
        "a } {title}",
        "{title",
        "title}",
        "{ }",
        "{{title}}",
    ],
)
def test_a_template_with_more_than_names_is_refused(template):
    with pytest.raises(ConfigError, match="--text_template"):
        parse_template(template)


def test_braces_hold_names_to_the_letter_and_never_reach_into_values(write):
    with pytest.raises(DataError, match=r"no column 'title\.__class__'.*--text_template"):
        write(rows_of({"product_id": 1, "title": "a"}), text_template="{title.__class__}")


def test_an_unknown_field_is_named_with_the_nearest_column(write):
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
        ({"title": [["a"]]}, "title is a list with items other than texts and numbers"),
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
def test_the_real_catalogues_have_the_documented_counts(write):
    titles, _ = write(iter_rows([DATA / "esci" / "distractor_titles.csv"]))
    assert len(titles) == 450
    rows = iter_rows([DATA / "scifact" / "corpus.jsonl"])
    corpus, _ = write(rows, id_column="_id", text_template="{title} {text}")
    assert len(corpus) == 5183


def test_columns_set_to_text_stay_text_and_a_misspelt_name_is_reported(write_csv):
    lines = "product_id,title,part,new\nB1,a,1,true\n"
    assert write_csv(lines, text_columns=["part", "new"])["part"].to_pylist() == ["1"]
    with pytest.raises(DataError, match=r"--text_columns: there is no column 'prat'\. Did you mean 'part'\?"):
        write_csv(lines, text_columns=["prat"])


def test_a_missing_id_column_names_the_flag(write):
    with pytest.raises(DataError, match=r"no column 'product_id'.*--id_column"):
        write(rows_of({"sku": 1, "title": "a"}))


def test_blank_texts_among_numbers_of_json_are_missing_values(write):
    rows = rows_of(
        {"product_id": 1, "title": "a", "price": 9.5, "new": True, "tags": ["x"]},
        {"product_id": 2, "title": "b", "price": "", "new": " ", "tags": ""},
    )
    table = write(rows)[1]
    assert table.select(["price", "new", "tags"]).to_pydict() == {
        "price": [9.5, None],
        "new": [True, None],
        "tags": [["x"], None],
    }


def test_a_column_without_a_value_has_no_type(write, write_csv):
    rows = rows_of({"product_id": 1, "title": "a", "sale": None}, {"product_id": 2, "title": "b", "sale": ""})
    assert write(rows)[1].schema.field("sale").type == pa.null()
    assert write_csv("product_id,title,sale\n1,a,\n").schema.field("sale").type == pa.null()


DECLARED = {
    "price": pa.float64(),
    "stock": pa.int32(),
    "ends": pa.date32(),
    "seen": pa.timestamp("ns", "UTC"),
    "tags": pa.list_(pa.string()),
    "new": pa.bool_(),
    "cost": pa.decimal128(10, 2),
    "note": pa.string(),
}


@pytest.mark.parametrize("rows", [0, 1, 20_001])
def test_types_that_parquet_declares_are_kept_without_a_value(tmp_path, write, rows):
    count = 2 + rows
    columns = {name: pa.nulls(count, kind) for name, kind in DECLARED.items()}
    ids = [f"B{number}" for number in range(count)]
    pq.write_table(pa.table({"product_id": ids, "title": ids, **columns}), tmp_path / "p.parquet")

    schema = write(iter_rows([tmp_path / "p.parquet"]))[1].schema

    assert {name: schema.field(name).type for name in DECLARED} == DECLARED


def test_numbers_in_single_precision_are_those_that_people_read(tmp_path, write):
    prices = pa.array([49.99, 19.9, None, 1e-7], pa.float32())
    table = pa.table({"product_id": list("abcd"), "title": prices, "price": prices})
    table = table.set_column(1, "title", pa.array([49.99, 19.9, 0.1, 2], pa.float32()))
    pq.write_table(table, tmp_path / "p.parquet")

    read = write(iter_rows([tmp_path / "p.parquet"]))[1]

    assert read["price"].to_pylist() == [49.99, 19.9, None, 1e-07]
    assert read["__text__"].to_pylist() == ["49.99", "19.9", "0.1", "2.0"]


def test_nanoseconds_are_kept(tmp_path, write):
    times = pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns"))
    table = pa.table({"product_id": ["a", "b"], "title": ["a", "b"], "seen": times})
    pq.write_table(table, tmp_path / "p.parquet")

    read = write(iter_rows([tmp_path / "p.parquet"]))[1]["seen"]

    assert read.cast(pa.int64()).to_pylist() == [1_700_000_000_123_456_789, None]


PRICES = [f"{number}.50" for number in range(1, 20)]


def csv_of(prices):
    return "product_id,title,price\n" + "".join(f'{at},a,"{price}"\n' for at, price in enumerate(prices))


def numbers_before(binding=False):
    return KnownColumns({"title": pa.string(), "price": pa.float64()}, version=3, binding=binding)


def test_the_first_value_that_turns_numbers_into_texts_is_named(tmp_path, write):
    (tmp_path / "p.csv").write_text(csv_of([*PRICES, "TBD", "n/a"]))

    written, table = write(iter_rows([tmp_path / "p.csv"]), known=numbers_before())

    assert table["price"].to_pylist()[-2:] == ["TBD", "n/a"]
    (change,) = written.type_changes
    assert (change.before, change.now, change.others, change.values) == ("numbers", "texts", 2, 21)
    assert str(change) == (
        "column 'price' holds texts, it held numbers in version 3: 2 of 21 values are of another kind, "
        f"first 'TBD' ({tmp_path}/p.csv, row 20 (line 21)); --on_bad_row skip leaves such rows out"
    )


def test_few_rows_with_values_of_another_kind_are_left_out_as_asked(tmp_path, write):
    (tmp_path / "p.csv").write_text(csv_of([*PRICES, "TBD"]))

    written, table = write(iter_rows([tmp_path / "p.csv"]), known=numbers_before(), on_bad_row="skip")

    assert table["price"].to_pylist() == [float(price) for price in PRICES]
    assert written.bad_rows.by_reason == {"price is not a number, as in version 3 (double)": 1}
    assert written.bad_rows.first[0].number == 20
    assert [change.left_out for change in written.type_changes] == [True]


def test_a_column_that_holds_other_values_altogether_is_not_left_out(tmp_path, write):
    (tmp_path / "p.csv").write_text(csv_of(["cheap", "dear", "5"]))

    written, table = write(iter_rows([tmp_path / "p.csv"]), known=numbers_before(), on_bad_row="skip")

    assert table["price"].to_pylist() == ["cheap", "dear", "5"]
    assert [change.left_out for change in written.type_changes] == [False]


def test_decimal_commas_in_a_column_of_numbers_are_reported_with_advice(tmp_path, write):
    (tmp_path / "p.csv").write_text(csv_of(["12,50", "7,00"]))

    written, _ = write(iter_rows([tmp_path / "p.csv"]), known=numbers_before())

    assert "2 of 2 values are of another kind, first '12,50'" in str(written.type_changes[0])
    assert "a point for decimals" in written.notes[0]


def test_a_text_among_numbers_of_json_is_named_too(write):
    rows = [{"product_id": at, "title": "a", "price": 1.5} for at in range(9)]
    rows = rows_of(*rows, {"product_id": 9, "title": "a", "price": "TBD"})

    written, table = write(rows, known=numbers_before())

    assert table["price"].to_pylist() == ["1.5"] * 9 + ["TBD"]
    assert written.type_changes[0].first.value == "TBD"
    assert written.type_changes[0].first.place == "products.jsonl, row 10 (line 11)"


def test_a_type_that_stays_is_not_reported(tmp_path, write):
    (tmp_path / "p.csv").write_text(csv_of(["1", "", "2"]))
    written, _ = write(iter_rows([tmp_path / "p.csv"]), known=numbers_before())
    assert (written.type_changes, written.notes) == ((), ())


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        (["$1,299.00", "$5.00"], ["'$1,299.00'", "row 1 (line 2)", "1299.50"]),
        (["12", "1.299,00 €"], ["'1.299,00 €'", "row 2 (line 3)"]),
        (["12,50", "7,00"], ["'12,50'", "a point for decimals"]),
        (["5 %", "7 %"], ["'5 %'"]),
        ([*PRICES, "TBD"], ["'TBD'", "row 20 (line 21)", "19 of 20", "blank"]),
        (["1.10", "1.9"], ["'1.10'", "would not come back"]),
        (["1E10", "2"], ["'1E10'", "would not come back"]),
    ],
)
def test_texts_that_look_like_numbers_are_reported_with_advice(tmp_path, write, values, parts):
    (tmp_path / "p.csv").write_text(csv_of(values))

    written, table = write(iter_rows([tmp_path / "p.csv"]))

    (note,) = written.notes
    assert note.startswith("column 'price' holds texts")
    assert [part for part in parts if part not in note] == []
    assert table.schema.field("price").metadata[b"aisle:note"].decode() == note


@pytest.mark.parametrize("values", [["M", "42", "XL"], ["007", "12"], ["red", "blue"], ["", ""]])
def test_columns_of_texts_are_not_remarked_on(tmp_path, write, values):
    (tmp_path / "p.csv").write_text(csv_of(values))
    assert write(iter_rows([tmp_path / "p.csv"]))[0].notes == ()
