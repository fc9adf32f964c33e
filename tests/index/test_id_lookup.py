import pyarrow as pa
import pytest

from aisle.index import id_lookup
from aisle.index.id_lookup import IdLookup

IDS = ["GS-00105", "gs00105", "b", "A_1", "---", "B07ÄX", "12", "1-2", "\U0001f600"]


@pytest.fixture
def lookup():
    return IdLookup.build(pa.chunked_array([IDS[:4], IDS[4:]]))


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("GS-00105", ["GS-00105"]),
        ("gs00105", ["gs00105"]),
        (" GS 00105 ", ["GS-00105", "gs00105"]),
        ("a1", ["A_1"]),
        ("b07äx", ["B07ÄX"]),
        ("12", ["12"]),
        ("1-2", ["1-2"]),
        ("b07", []),
        ("---", []),
        ("", []),
        ("zeppelin", []),
    ],
)
def test_the_exact_id_is_found_and_else_those_of_the_same_letters_and_digits(lookup, query, ids):
    assert sorted(IDS[row] for row in lookup.rows(query)) == sorted(ids)


def test_there_may_be_no_ids():
    assert IdLookup.build(None).rows("x").tolist() == []
    assert IdLookup.build(pa.chunked_array([], pa.string())).rows("x").tolist() == []


def test_an_ascii_query_is_read_as_arrow_reads_the_ids():
    # Ids are read by Arrow when the index is built, ASCII queries by Python.
    every = [f"aZ9{chr(code)}b" for code in range(128)]

    expected = id_lookup._letters_and_digits(pa.array(every, pa.large_string())).to_pylist()

    assert [id_lookup._letters_and_digits_of(text) for text in every] == expected
    assert expected[ord("Q")] == "az9qb"
