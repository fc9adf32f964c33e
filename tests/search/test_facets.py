"""Facets and groups of candidate sets, by hand for each kind of column."""

import math
from dataclasses import replace
from datetime import date, datetime, timezone
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import SearchError
from aisle.index import open_index
from aisle.search import candidates
from aisle.search.facets import count_values, group_by_value
from aisle.search.searcher import Searcher
from tests.search.word_encoder import WordEncoder, write_shop

ENCODER = WordEncoder()
TITLES = ["red sofa", "blue sofa", "red lamp", "oak table", "red sofa bed"]
UTC = timezone.utc
COLUMNS = {
    "brand": pa.array(["Acme", "Zenith", "Acme", None, "acme"]),
    "brand_codes": pa.array(["Acme", "Zenith", "Acme", None, "acme"]).dictionary_encode(),
    "price": pa.array([5.0, math.nan, 5.0, None, 0.5]),
    "signed_zero": pa.array([0.0, -0.0, 1.0, 1.0, 1.0]),
    "stock": pa.array([3, 3, None, 3, 7], pa.int16()),
    "code": pa.array([2**64 - 1, 5, None, 2**64 - 1, 0], pa.uint64()),
    "codes": pa.array([[2**64 - 1, 5], [5], None, [5, None], []], pa.list_(pa.uint64())),
    "exact_price": pa.array([Decimal("1.10"), Decimal("1.10"), None, None, Decimal("2.00")]),
    "sold": pa.array([True, False, True, True, None]),
    "since": pa.array([date(2026, 1, 1), None, date(2025, 1, 1), date(2026, 1, 1), None]),
    "seen": pa.array([datetime(2026, 1, 1, tzinfo=UTC)] * 5, pa.timestamp("s", "Europe/Berlin")),
    "colours": pa.array([["red", "blue", "red"], ["blue"], [], None, [None, "red"]]),
    "sizes": pa.array([[1, 2], [2, 2], None, [3, None], [None, None]], pa.list_(pa.int32(), 2)),
    "ratings": pa.array([[math.nan], [0.0, -0.0], [1.0], [], [1.0]]),
    "unknown": pa.nulls(5),
    "unknown_items": pa.array([[], None, [None], [], []], pa.list_(pa.null())),
    "size": pa.array([{"width": 1}] * 5),
    "nested": pa.array([[[1]]] * 5),
    "boxes": pa.array([[{"width": 1}]] * 5),
    "image": pa.array([b"x"] * 5),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The set of "red sofa" in mode dense: all five products, p000 first."""
    index_dir = tmp_path_factory.mktemp("facets") / "index"
    write_shop(index_dir, titles=TITLES, payload=pa.table(COLUMNS))
    return Searcher(open_index(index_dir), ENCODER, exact=True).candidates(["red sofa"])[0]


@pytest.mark.parametrize(
    ("field", "values", "missing"),
    [
        ("brand", [("Acme", 2), ("Zenith", 1), ("acme", 1)], 1),
        ("brand_codes", [("Acme", 2), ("Zenith", 1), ("acme", 1)], 1),
        ("price", [(5.0, 2), (0.5, 1)], 2),
        ("signed_zero", [(1.0, 3), (0.0, 2)], 0),
        ("stock", [(3, 3), (7, 1)], 1),
        ("code", [(2**64 - 1, 2), (0, 1), (5, 1)], 1),
        ("codes", [(5, 3), (2**64 - 1, 1)], 2),
        ("exact_price", [(1.1, 2), (2.0, 1)], 2),
        ("sold", [(True, 3), (False, 1)], 1),
        ("since", [(date(2026, 1, 1), 2), (date(2025, 1, 1), 1)], 2),
        ("seen", [(datetime(2026, 1, 1, tzinfo=UTC), 5)], 0),
        ("colours", [("blue", 2), ("red", 2)], 2),
        ("sizes", [(2, 2), (1, 1), (3, 1)], 2),
        ("ratings", [(1.0, 2), (0.0, 1)], 2),
        ("unknown", [], 5),
        ("unknown_items", [], 5),
    ],
)
def test_values_are_counted_the_most_frequent_first(found, field, values, missing):
    facet = found.facets([field])[field]

    assert (facet.values, facet.missing, facet.other) == (values, missing, 0)
    assert [type(value) for value, _ in facet.values] == [type(value) for value, _ in values]


@pytest.mark.parametrize(("size", "shown", "other"), [(1, 1, 2), (2, 2, 1), (3, 3, 0), (9, 3, 0)])
def test_values_beyond_the_size_are_summed(found, size, shown, other):
    facet = found.facets(["brand"], size)["brand"]

    assert (facet.values, facet.other) == ([("Acme", 2), ("Zenith", 1), ("acme", 1)][:shown], other)
    assert sum(count for _, count in facet.values) + facet.missing + facet.other == found.total.value


def test_several_facets_are_counted_at_once(found):
    assert list(found.facets(["stock", "brand"])) == ["stock", "brand"]
    assert found.facets([]) == {}


@pytest.mark.parametrize("field", ["size", "nested", "boxes", "image"])
def test_columns_that_a_filter_cannot_compare_are_refused(found, field):
    for ask in (lambda: found.facets([field]), lambda: found.grouped(field)):
        with pytest.raises(SearchError, match=rf"(facets|group_by): column '{field}' holds"):
            ask()


@pytest.mark.parametrize(
    "values",
    [
        pa.array([0, 2**62], pa.timestamp("us")),
        pa.array([0, 86_400_001], pa.date64()),
    ],
)
def test_values_that_cannot_be_counted_are_refused(values):
    products, rows = pa.table({"seen": values}), np.arange(2)

    with pytest.raises(SearchError, match=r"^facets: column 'seen' holds .* a value cannot be counted"):
        count_values(products, rows, "seen", size=10)
    with pytest.raises(SearchError, match=r"^group_by: column 'seen' holds .* a value cannot be counted"):
        group_by_value(products, rows, "seen")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda found: found.facets(["brnd"]), "facets: there is no column 'brnd'; did you mean 'brand'"),
        (lambda found: found.facets("brand"), "facets must be a list of facets; found the text 'brand'"),
        (lambda found: found.facets(["product_id"]), "there is no column 'product_id'"),
        (lambda found: found.facets(["brand"], 0), "size: must be at least 1, found 0"),
        (lambda found: found.grouped("brnd"), "group_by: there is no column 'brnd'"),
        (lambda found: found.grouped("brand", 0), "group_size: must be at least 1, found 0"),
        (lambda found: found.grouped("colours"), "could be in several groups"),
    ],
)
def test_what_cannot_be_counted_is_named(found, ask, message):
    with pytest.raises(SearchError, match=message):
        ask(found)


def test_groups_are_in_the_order_of_their_best_products(found):
    groups = found.grouped("brand", group_size=2)

    order = found.product_ids.tolist()
    brand_of = dict(zip(["p000", "p001", "p002", "p003", "p004"], COLUMNS["brand"].to_pylist(), strict=True))
    expected = list(dict.fromkeys(brand_of[product] for product in order))
    assert groups.total == 4
    assert [group.value for group in groups.page()] == expected
    acme = next(group for group in groups.page() if group.value == "Acme")
    assert acme.count == 2
    assert [hit.product_id for hit in acme.hits] == [name for name in order if brand_of[name] == "Acme"]
    assert [hit.rank for hit in acme.hits] == [1 + order.index(hit.product_id) for hit in acme.hits]


def test_whole_numbers_from_2_63_on_are_groups(found):
    groups = found.grouped("code").page()

    assert {(group.value, group.count) for group in groups} == {(2**64 - 1, 2), (5, 1), (0, 1), (None, 1)}


def test_products_without_a_value_are_groups_alone(found):
    groups = found.grouped("price", group_size=3)

    assert groups.total == 4
    assert sorted((str(group.value), group.count) for group in groups.page()) == [
        ("0.5", 1),
        ("5.0", 2),
        ("None", 1),
        ("None", 1),
    ]


def test_pages_of_groups_join_to_all_groups(found):
    groups = found.grouped("brand")

    pages = [group.value for offset in range(5) for group in groups.page(offset, 1)]

    assert pages == [group.value for group in groups.page(0, 10)]


def test_a_group_counts_products_beyond_the_window_of_words(found):
    searcher = Searcher(found.index, ENCODER)

    (lexical,) = searcher.candidates(["red"], mode="lexical", window=1)

    assert (lexical.total.value, len(lexical.rows)) == (3, 1)
    groups = lexical.grouped("brand", group_size=5)
    assert groups.total == 2
    assert [(group.value, group.count, len(group.hits)) for group in groups.page(0, 1)] == [("Acme", 2, 1)]


def test_facets_count_products_of_several_record_batches(tmp_path):
    """Products are stored in batches; rows are taken from each."""
    rng = np.random.default_rng(0)
    brands = [f"brand {number}" for number in rng.integers(0, 9, 300)]
    write_shop(tmp_path / "index", count=300, payload=pa.table({"brand": brands}))
    index = open_index(tmp_path / "index")
    chunks = pa.concat_tables([index.products.slice(start, 70) for start in range(0, 300, 70)])
    (found,) = Searcher(replace(index, products=chunks), ENCODER).candidates(["sofa"], mode="lexical")

    expected = {}
    for row in [*found.rows.tolist(), *found.unranked.tolist()]:
        expected[brands[row]] = expected.get(brands[row], 0) + 1
    assert dict(found.facets(["brand"], 20)["brand"].values) == expected
    assert [hit.payload["brand"] for hit in found.page(0, 20)] == [brands[row] for row in found.rows[:20]]


def test_a_column_is_counted_once_and_the_products_of_all_groups_are_read_at_once(found, counted):
    facets, reads = counted(candidates, "count_values"), counted(candidates, "take_rows")

    assert list(found.facets(["brand", "stock", "brand"])) == ["brand", "stock"]
    assert [len(group.hits) for group in found.grouped("brand", 2).page()] == [2, 1, 1, 1]
    assert (len(facets), len(reads)) == (2, 1)
