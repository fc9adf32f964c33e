"""The original ESCI release: filters, the join, and missing products."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aisle.data.esci import ESCI_GAINS, iter_esci_rows
from aisle.data.pairs import PairColumns, read_pairs
from aisle.errors import DataError

EXAMPLES = "shopping_queries_dataset_examples.parquet"
PRODUCTS = "shopping_queries_dataset_products.parquet"
EXAMPLE_COLUMNS = (
    "example_id",
    "query",
    "query_id",
    "product_id",
    "product_locale",
    "esci_label",
    "small_version",
    "large_version",
    "split",
)


@pytest.fixture
def release(tmp_path):
    """Eight examples of three locales; product B1 is sold in two of them, B9 in none."""
    examples = [
        (0, "red shoe", 10, "B1", "us", "E", 1, 1, "train"),
        (1, "red shoe", 10, "B2", "us", "S", 0, 1, "train"),
        (2, "zapato", 11, "B1", "es", "E", 1, 1, "train"),
        (3, "hat", 12, "B2", "us", "I", 1, 1, "test"),
        (4, "red shoe", 10, "B9", "us", "C", 1, 1, "train"),
        (5, "帽子", 13, "B3", "jp", "E", 1, 1, "train"),
        (6, "belt", 14, "B1", "us", "I", 1, 1, "train"),
        (7, "coat", 15, "B9", "us", "I", 1, 1, "test"),
    ]
    columns = dict(zip(EXAMPLE_COLUMNS, map(list, zip(*examples, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / EXAMPLES, row_group_size=3)
    products = {
        "product_id": ["B2", "B1", "B1", "B3"],
        "product_title": ["Hat", "Zapato", "Shoe", "帽子"],
        "product_description": ["long"] * 4,
        "product_bullet_point": [None] * 4,
        "product_brand": [None, "Marca", "Brand", "印"],
        "product_color": ["red"] * 4,
        "product_locale": ["us", "es", "us", "jp"],
    }
    pq.write_table(pa.table(products), tmp_path / PRODUCTS, row_group_size=2)
    return tmp_path


def test_examples_are_joined_with_the_product_of_their_own_locale(release):
    (row,) = iter_esci_rows(release, split="train", locale="es", version="small")
    assert (row.number, row.problem) == (3, None)
    assert row.values == {
        "query": "zapato",
        "query_id": 11,
        "product_id": "B1",
        "esci_label": "E",
        "product_title": "Zapato",
        "product_brand": "Marca",
    }


@pytest.mark.parametrize(
    ("split", "locale", "version", "numbers"),
    [
        ("train", "us", "large", [1, 2, 5, 7]),
        ("train", "us", "small", [1, 5, 7]),
        ("test", "us", "large", [4, 8]),
        ("train", "jp", "large", [6]),
    ],
)
def test_split_locale_and_version_choose_the_examples(release, split, locale, version, numbers):
    rows = iter_esci_rows(release, split=split, locale=locale, version=version)
    assert [row.number for row in rows] == numbers


def test_the_pairs_need_no_column_names_and_a_missing_product_is_counted(release):
    rows = iter_esci_rows(release, split="train", locale="us", version="large")
    found = read_pairs(rows, columns=PairColumns(), label_map=ESCI_GAINS, on_bad_row="skip")
    assert found.pairs.products == ["Shoe", "Hat", "Shoe"]
    assert found.pairs.query_ids == ["10", "10", "14"]
    assert found.pairs.relevance.tolist() == pytest.approx([1.0, 0.1, 0.0])
    assert found.bad_rows.by_reason == {"product_id is not among the products of locale us": 1}
    assert (found.bad_rows.first[0].number, found.bad_rows.first[0].found) == (5, "'B9'")


def test_large_string_files_join_with_string_files(release):
    table = pq.read_table(release / PRODUCTS)
    fields = [field.with_type(pa.large_string()) for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), release / PRODUCTS)
    rows = list(iter_esci_rows(release, split="train", locale="us", version="small"))
    assert [row.values.get("product_title") for row in rows] == ["Shoe", None, "Shoe"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"locale": "de"}, "no locale 'de'; it is one of us, es, jp"),
        ({"version": "huge"}, "no version 'huge'; it is one of small, large"),
        ({"split": "dev"}, "no split 'dev'; it is one of train, test"),
    ],
)
def test_an_unknown_choice_lists_the_known_ones_before_anything_is_read(release, changed, message):
    with pytest.raises(DataError, match=message):
        iter_esci_rows(release, **{"split": "train", "locale": "us", "version": "small", **changed})


def test_a_missing_file_is_named(release):
    (release / PRODUCTS).unlink()
    with pytest.raises(DataError, match=f"there is no {PRODUCTS}"):
        iter_esci_rows(release, split="train", locale="us", version="small")


def test_a_damaged_file_is_an_error(release):
    (release / EXAMPLES).write_bytes(b"version https://git-lfs")
    with pytest.raises(DataError, match="a file is damaged"):
        list(iter_esci_rows(release, split="train", locale="us", version="small"))


def test_another_parquet_file_lists_its_columns(release):
    pq.write_table(pa.table({"query": ["a"]}), release / EXAMPLES)
    with pytest.raises(DataError, match=r"no column 'query_id', .*The columns are: query\."):
        list(iter_esci_rows(release, split="train", locale="us", version="small"))


def test_a_choice_without_examples_is_an_error(release):
    with pytest.raises(DataError, match="no example has split 'test', locale 'jp'"):
        list(iter_esci_rows(release, split="test", locale="jp", version="small"))
