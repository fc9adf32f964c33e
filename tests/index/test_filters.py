"""Rows that filters select, and messages about invalid filters."""

from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import SearchError
from aisle.index import parse_filter

DAYS = [date(2024, 1, 1), None, date(2025, 1, 1), date(2026, 1, 1)]
TIMES = [None if day is None else datetime(day.year, day.month, day.day) for day in DAYS]
PRODUCTS = pa.table(
    {
        "product_id": ["a", "b", "c", "d"],
        "__text__": ["w", "x", "y", "z"],
        "brand": ["Acme", "Zenith", None, "Ümlaut"],
        "price": [10.0, None, 50.0, 99.5],
        "stock": pa.array([1, 2**53 + 1, None, -3]),
        "new": [True, False, None, True],
        "list price": [1, 2, 30, None],
        "tags": [["x"], [], None, ["y"]],
        "day": pa.array(DAYS, pa.date32()),
        "seen": pa.array(TIMES, pa.timestamp("ns")),
        "zoned": pa.array(TIMES, pa.timestamp("s", "Europe/Paris")),
        "other": pa.array(TIMES, pa.timestamp("ms", "UTC")),
        "small": pa.array([49.99, 0.1, None, 1e30], pa.float32()),
        "tiny": pa.array([1, 127, None, -128], pa.int8()),
        "exact": pa.array([Decimal("49.99"), Decimal("0.10"), None, Decimal("7")]),
        "kind": pa.array(["x", None, "y", "x"]).dictionary_encode(),
        "huge": pa.array([1, 2, 3, 2**64 - 1], pa.uint64()),
        "nan": pa.array([1.0, float("nan"), None, 2.0]),
        "large": pa.array(["x", None, "y", "x"], pa.large_string()),
        "objects": [{"k": 1}, None, None, None],
        "never": pa.nulls(4),
        "sizes": pa.array([[38.5, 40], None, [], [41]], pa.large_list(pa.float32())),
        "dates": pa.array([[date(2026, 1, 31)], None, [None], []], pa.list_(pa.date32())),
        "pair": pa.array([["x", "y"], None, ["y", "y"], ["z", None]], pa.list_(pa.string(), 2)),
        "fine": pa.array([1, 2, None, 1_000_000_123], pa.timestamp("ns")),
        "money": ["$1,299.00", "5", None, "7"],
    }
)
NOTE = {b"aisle:note": b"column 'money' holds texts, for '$1,299.00' is not a number"}
NOTED = pa.field("money", pa.string(), metadata=NOTE)
PRODUCTS = PRODUCTS.cast(pa.schema([NOTED if field.name == "money" else field for field in PRODUCTS.schema]))


def selected(text, products=PRODUCTS):
    mask = parse_filter(text, products.schema).mask(products)
    assert mask.dtype == np.bool_
    return "".join(np.array(products["product_id"].to_pylist())[mask])


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("price <= 50", "ac"),
        ("price < 50", "a"),
        ("price >= 50", "cd"),
        ("price > 50", "d"),
        ("price == 99.5", "d"),
        ("price != 10", "cd"),
        ("50 >= price", "ac"),
        ("10 < price < 99.5", "c"),
        ("10 <= price <= 50", "ac"),
        ("price <= 50 and brand in ['Acme', 'Zenith']", "a"),
        ("brand in ('Acme', 'Zenith')", "ab"),
        ("brand not in ['Acme']", "bd"),
        ("brand in []", ""),
        ("brand not in []", "abd"),
        ("brand < 'M'", "a"),
        ('brand == "Ümlaut"', "d"),
        ("product_id in ['a', 'd']", "ad"),
        ("new", "ad"),
        ("not new", "b"),
        ("not (not new)", "ad"),
        ("new == False", "b"),
        ("new != False", "ad"),
        ("new in [True]", "ad"),
        ("col('list price') >= 2", "bc"),
        ('col("price") > -5', "acd"),
        ("stock >= -3", "abd"),
        ("stock > -3", "ab"),
        ("stock < +2", "ad"),
        ("price < 20 or stock < 0 and not new", "a"),
        ("(price < 20 or stock < 0) and new", "ad"),
        ("\n price > 5\n  and price < 60 \n", "ac"),
    ],
)
def test_grammar(text, ids):
    assert selected(text) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("brand is None", "c"),
        ("brand is not None", "abd"),
        ("tags is None", "c"),
        ("not brand == 'Acme'", "bd"),
        ("brand == 'Acme' or brand != 'Acme'", "abd"),
        ("price < 5 or new", "ad"),
        ("price > 5 or not new", "abcd"),
        ("not (price > 5 and new)", "b"),
        ("new in [False] or brand is None", "bc"),
        ("nan != 1", "bd"),
    ],
)
def test_a_comparison_with_a_missing_value_is_neither_true_nor_false(text, ids):
    assert selected(text) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("brand IS NOT NULL AND NOT price > 20", "a"),
        ("brand IN ('Acme', 'Zenith') OR brand is null", "abc"),
        ("new == TRUE or new == false", "abd"),
        ("brand == 'AND'", ""),
    ],
)
def test_words_of_sql_are_taken(text, ids):
    assert selected(text) == ids


def test_a_column_named_like_a_word_of_sql_is_a_column():
    assert selected("OR > 1", pa.table({"product_id": ["a", "b"], "OR": [1, 2]})) == "b"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("stock == 9007199254740993", "b"),
        ("stock == 9007199254740992", ""),
        ("stock == 9007199254740992.0", ""),
        ("stock < 1.5", "ad"),
        ("stock == 1.0", "a"),
        ("stock < 1e30", "abd"),
        ("stock in [1.0, 2.5, -3]", "ad"),
        ("stock not in [1.0, 2.5, -3]", "b"),
        ("stock in [9007199254740992]", ""),
        ("tiny < 300", "abd"),
        ("tiny in [127, 300]", "b"),
        ("small == 49.99", "a"),
        ("small in (49.99, 0.1)", "ab"),
        ("small < 1e300", "abd"),
        ("exact == 49.99", "a"),
        ("exact <= 0.1", "b"),
        ("price < 99999999999999999999999999", "acd"),
        ("price in [10, 99.5]", "ad"),
        ("price > stock", "ad"),
        ("col('list price') < price", "ac"),
        ("kind == 'x'", "ad"),
        ("kind in ['x', 'z']", "ad"),
        ("large == kind", "acd"),
    ],
)
def test_numbers_and_texts_of_any_width_are_compared_exactly(text, ids):
    assert selected(text) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("day >= '2025-01-01'", "cd"),
        ("day in ['2024-01-01', '2024-01-02']", "a"),
        ("seen < '2025-01-01T00:00:01'", "ac"),
        ("seen in ['2024-01-01']", "a"),
        ("zoned >= '2025-01-01T00:00:00Z'", "cd"),
        ("zoned < '2025-01-01T01:00:00+01:00'", "a"),
        ("zoned <= '2025-01-01'", "ac"),
        ("zoned in ['2025-01-01']", "c"),
        ("zoned == other", "acd"),
        ("seen is None", "b"),
    ],
)
def test_dates_and_times_are_iso_texts(text, ids):
    assert selected(text) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("contains(brand, 'e')", "ab"),
        ("brand.contains('cm')", "a"),
        ("'Zen' in brand", "b"),
        ("'zen' in brand", ""),
        ("'Acme' not in brand", "bd"),
        ("contains(brand, '.')", ""),
        ("startswith(brand, 'Z')", "b"),
        ("brand.startswith('Üm') or startswith(brand, 'A')", "ad"),
        ("not startswith(brand, 'A')", "bd"),
        ("contains(col('kind'), 'x')", "ad"),
        ("large.startswith('x')", "ad"),
    ],
)
def test_texts_have_texts_in_them_and_at_their_start(text, ids):
    assert selected(text) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("'x' in tags", "a"),
        ("'x' not in tags", "bd"),
        ("contains(tags, 'y')", "d"),
        ("38.5 in sizes or 41 in sizes", "ad"),
        ("40 not in sizes", "cd"),
        ("'2026-01-31' in dates", "a"),
        ("'y' in pair", "ac"),
        ("'y' not in pair", "d"),
        ("'x' in tags and 'y' in tags", ""),
    ],
)
def test_lists_have_items(text, ids):
    assert selected(text) == ids


def test_lists_of_a_part_of_a_table_have_their_own_items():
    assert selected("'y' in tags", PRODUCTS.slice(2)) == "d"
    assert selected("'z' in pair", PRODUCTS.slice(3)) == "d"


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("never <= 400", ""),
        ("never == 'x'", ""),
        ("never != 'x'", ""),
        ("not never == 5", ""),
        ("never", ""),
        ("not never", ""),
        ("never in ['x', 5]", ""),
        ("never not in ['x']", ""),
        ("'x' in never", ""),
        ("contains(never, 'x') or startswith(never, 'x')", ""),
        ("never < price", ""),
        ("never == never", ""),
        ("never is None and price > 60", "d"),
        ("never > 5 or price > 60", "d"),
        ("never is not None", ""),
    ],
)
def test_a_column_that_never_had_a_value_satisfies_no_comparison(text, ids):
    assert selected(text) == ids


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("fine == '1970-01-01T00:00:00.000000001'", "a"),
        ("fine > '1970-01-01T00:00:00.000000001'", "bd"),
        ("fine in ['1970-01-01T00:00:01.000000123']", "d"),
        ("fine <= '1970-01-01T00:00:00.000001'", "ab"),
    ],
)
def test_nanoseconds_are_compared_to_the_last(text, ids):
    assert selected(text) == ids


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["empty"]),
        (" \n ", ["empty"]),
        ("1 = 1", ["write == instead of =", "character 3"]),
        ("price = 5", ["write == instead of =", "character 7 of 'price = 5'"]),
        ("price <> 5", ["write != instead of <>"]),
        ("price > 5 && new", ["write and instead of &&"]),
        ("price > 5 || new", ["write or instead of ||"]),
        ("(price > 5) & new", ["write and instead"]),
        ("(price > 5) | new", ["write or instead"]),
        ("~new", ["write not instead"]),
        ("price == 'cheap'", ["'price' holds numbers (double)", "the text 'cheap'", "character 10"]),
        ("5 < brand", ["'brand' holds texts (string)", "the value 5", "character 1 "]),
        ("brand in ['a', 5]", ["holds texts", "the value 5", "character 16"]),
        ("price in ['a', 5]", ["holds numbers", "the text 'a'"]),
        ("stock == True", ["holds numbers", "the value True"]),
        ("new == 1", ["true or false", "the value 1"]),
        ("new > True", ["no order"]),
        ("price < brand", ["'price' holds numbers", "'brand' holds texts"]),
        ("tags == 'x'", ["'tags'", "list", "'red' in tags"]),
        ("tags in ['x']", ["'tags'", "'red' in tags"]),
        ("tags == tags", ["'tags'", "'red' in tags"]),
        ("5 in tags", ["'tags' holds texts", "the value 5"]),
        ("objects == 'x'", ["'objects'", "is None"]),
        ("'x' in objects", ["'objects'", "only lists and texts"]),
        ("'x' in price", ["holds numbers", "only lists and texts"]),
        ("5 in brand", ["holds texts", "found 5"]),
        ("contains(price, '1')", ["holds numbers"]),
        ("contains(brand, 5)", ["holds texts", "found 5"]),
        ("contains(brand)", ["contains(title, 'red')"]),
        ("contains('Acme', brand)", ["a column and a value"]),
        ("startswith(price, '1')", ["holds numbers", "startswith"]),
        ("startswith(brand, 5)", ["a quoted text"]),
        ("brand.endswith('e')", ["not understood", "startswith(title, 'red')"]),
        ("brand.lower().startswith('a')", ["not understood"]),
        ("day >= 2025-01-01", ["a date is written in quotes: '2025-01-01'", "character 8"]),
        ("seen == '2024-01-01T00:00:00.1234567891'", ["'2026-01-31T12:30:00'"]),
        ("other == '2024-01-01T00:00:00.123456789'", ["not that fine"]),
        ("money > 5", ["'money' holds texts", "'$1,299.00'", "the value 5"]),
        ("tags", ["'tags'", "not a condition"]),
        ("pricee == 1", ["no column 'pricee'", "did you mean 'price'?", "'pricee == 1'"]),
        ("col('list prices') > 1", ["did you mean 'list price'?"]),
        ("brand == Acme", ["no column 'Acme'", "quotes", "character 10"]),
        ("__text__ == 'x'", ["no column '__text__'"]),
        ("infinity > price", ["no column 'infinity'"]),
        ("1 == 1", ["one side must be a column"]),
        ("price == 5 == 5", ["one side must be a column"]),
        ("price", ["'price' holds numbers", "not a condition"]),
        ("True", ["a value alone is not a condition"]),
        ("brand in 'Acme'", ["must be a list"]),
        ("brand IN ('Acme')", ["must be a list, such as ['Acme', 'Zenith']"]),
        ("brand in ['a' 'b']", ["put a comma between"]),
        ("brand in [brand]", ["a list holds values"]),
        ("'Acme' in ['Acme']", ["one side of in must be a column"]),
        ("'Acme' in 'Acme'", ["one side of in must be a column"]),
        ("brand in ['a', None]", ["is None"]),
        ("brand == None", ["write is None"]),
        ("price is True", ["None only"]),
        ("1 is None", ["None only"]),
        ("price < 1e999", ["too large"]),
        ("stock < 99999999999999999999", ["2^63", "99999999999999999999"]),
        ("price < 1" + "0" * 400, ["1.8e308"]),
        ("huge > 2", ["cannot be answered", "'huge > 2'"]),
        ("seen < '9999-01-01'", ["cannot be answered"]),
        ("day > 'yesterday'", ["'2026-01-31'", "'yesterday'"]),
        ("day > '2024-01-01T10:00:00'", ["'2026-01-31'"]),
        ("seen > 5", ["holds times", "the value 5"]),
        ("seen > '2024-01-01T00:00:00Z'", ["without a time zone"]),
        ("-'a' == brand", ["a sign belongs to a number"]),
        ("-True == new", ["a sign belongs to a number"]),
        ("- -5 < price", ["a sign belongs to a number"]),
        ("price < 5 # cheap", ["#", "character 11"]),
        ("price <= ", ["invalid syntax", "col('list price')", "character 8"]),
        ("(price <= 5", ["no partner"]),
        ("'unterminated", ["where: "]),
        ("price < 5; import os", ["invalid syntax"]),
        ("brand == '\\ud800'", ["not valid Unicode", "character 10"]),
        ("price < 5 \udc80", ["not valid Unicode", "character 11"]),
        ("price < 5\x00", ["where: "]),
        ("price < " + "9" * 5000, ["where: "]),
        ("x" * 1_000_001, ["at most 1,000,000 characters", "1,000,001"]),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_part_quoted(text, parts):
    with pytest.raises(SearchError) as refused:
        parse_filter(text, PRODUCTS.schema).mask(PRODUCTS)

    message = str(refused.value)
    assert message.startswith("where: ")
    assert [part for part in parts if part not in message] == []
    assert len(message) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "price.real < 5",
        "price < 5 if new else 3",
        "lambda: 5",
        "[x for x in price]",
        "price + 1 < 5",
        "(p := 5) < price",
        "col(price) < 5",
        "col('price', 'brand') < 5",
        "col(name='price') < 5",
        "price == 1j",
        "price == ...",
        "brand == b'x'",
        "brand == f'{brand}'",
        "price[0] < 5",
        "price < [1]",
        "price < (1, 2)",
    ],
)
def test_python_beyond_the_grammar_is_refused(text):
    with pytest.raises(SearchError, match="where: "):
        parse_filter(text, PRODUCTS.schema)


@pytest.mark.parametrize(
    "text",
    [
        "not " * 60 + "new",
        "(new and " * 60 + "new" + ")" * 60,
        "not " * 100_000 + "new",
        "(" * 1000 + "new" + ")" * 1000,
        "-" * 100_000 + "price",
        "price" + "**price" * 20_000,
        "lambda:" * 20_000 + "1",
    ],
)
def test_deep_nesting_is_refused_not_a_crash(text):
    with pytest.raises(SearchError, match="where: ") as refused:
        parse_filter(text, PRODUCTS.schema)
    assert len(str(refused.value)) < 1000


def test_long_expressions_are_answered():
    assert selected(" or ".join(["price < 5"] * 1000 + ["price == 50"])) == "c"
    brands = [f"b{number}" for number in range(20_000)]
    assert selected(f"brand in {[*brands, 'Zenith']}") == "b"


def test_the_place_in_a_long_expression_is_shown():
    text = "price < 1 or " * 30 + "brnd == 'x'" + " or price > 7" * 30

    with pytest.raises(SearchError, match="did you mean 'brand'") as refused:
        parse_filter(text, PRODUCTS.schema)

    assert "character 391 of ..." in str(refused.value)
    assert "brnd == " in str(refused.value).split("character 391")[1]


def test_columns_are_those_that_the_filter_reads():
    assert parse_filter("col('list price') > 1 and not new", PRODUCTS.schema).columns == ("new", "list price")


def test_a_memory_mapped_table_of_many_chunks(tmp_path):
    rows = 300_000
    numbers = np.arange(rows) % 1000
    table = pa.table({"product_id": numbers.astype(str), "price": numbers, "title": ["long " * 20] * rows})
    with pa.OSFile(str(tmp_path / "p.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70_000)
    products = pa.ipc.open_file(pa.memory_map(str(tmp_path / "p.arrow"))).read_all()
    assert products["price"].num_chunks > 1

    mask = parse_filter("price < 10 and product_id != '3'", products.schema).mask(products)

    np.testing.assert_array_equal(mask, (numbers < 10) & (numbers != 3))


@pytest.mark.parametrize("value", [5, b"price < 5", ["price < 5"]])
def test_a_filter_must_be_text(value):
    with pytest.raises(SearchError, match="where: must be text"):
        parse_filter(value, PRODUCTS.schema)


def test_no_products_have_an_empty_mask():
    assert parse_filter("price < 5", PRODUCTS.schema).mask(PRODUCTS.slice(0, 0)).shape == (0,)
