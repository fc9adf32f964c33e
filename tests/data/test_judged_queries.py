"""Judgements, queries and catalogues without common ids."""

import pyarrow as pa
import pytest

from aisle.data.judged_queries import JudgedQueries, check_judged_products, read_judged_queries
from aisle.errors import DataError
from tests.commands.evaluate.evaluated_shop import write_table


def judged(tmp_path, queries, qrels):
    return read_judged_queries(
        str(write_table(tmp_path / "q.csv", ["query_id", "query"], [(one, "sofa") for one in queries])),
        [str(write_table(tmp_path / "qrels.csv", ["query_id", "product_id", "relevance"], qrels))],
        None,
    )


def test_queries_that_do_not_meet_are_shown_from_both_sides_with_the_remedy(tmp_path):
    with pytest.raises(DataError) as error:
        judged(tmp_path, ["1", "2", "3", "4"], [("01", "a", 1), ("02", "b", 1)])

    assert str(error.value) == (
        f"{tmp_path}/qrels.csv and {tmp_path}/q.csv have no query id in common; both must use the same "
        f"ids. In {tmp_path}/qrels.csv: '01', '02'; in {tmp_path}/q.csv: '1', '2', '3', ... (4 in all). "
        "Written without leading zeros, 2 of them would match"
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "remedy"),
    [
        ("B01", "b01", "Written all in lower case, 1 of them would match"),
        ("17.0", "17", "Written without .0 at the end, 1 of them would match"),
        ("7", "gid://shop/Product/7", "Written without the part before the last colon, slash or #, 1 of"),
        ("a", "b", "both must use the same ids"),
    ],
)
def test_products_that_do_not_meet_are_an_error_with_both_sides(ours, theirs, remedy):
    known = JudgedQueries({"1": "sofa"}, {"1": {ours: 1.0, "worthless": 0.0}})

    with pytest.raises(DataError) as error:
        check_judged_products(known, pa.chunked_array([[theirs, "worthless"]]), catalogue="the index")

    assert f"In the judgements: {ours!r}; in the index: {theirs!r}, 'worthless'" in str(error.value)
    assert remedy in str(error.value)


def test_a_part_that_meets_is_enough_and_the_rest_is_counted(tmp_path):
    found = judged(tmp_path, ["1", "2", "3"], [("1", "a", 1), ("9", "b", 1)])
    check_judged_products(found, pa.chunked_array([["a"]]), catalogue="the index")

    assert found.queries == {"1": "sofa"}
    assert found.unknown == ("9",)
    assert found.unjudged == 2


def test_only_products_of_queries_that_can_be_asked_count_as_met(tmp_path):
    found = judged(tmp_path, ["1"], [("1", "x", 1), ("9", "a", 1)])

    with pytest.raises(DataError, match="no relevant product id in common"):
        check_judged_products(found, pa.chunked_array([["a"]]), catalogue="the index")
