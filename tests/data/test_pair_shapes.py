"""Triplets, lists of positives and negatives, and unrecognised columns of numbers."""

import pytest

from aisle.data.pairs import PairColumns, read_pairs
from aisle.data.rows import Row
from aisle.errors import DataError


def read(*values, on_bad_row="error", **columns):
    rows = [Row("pairs.jsonl", number, dict(one)) for number, one in enumerate(values, start=1)]
    return read_pairs(rows, columns=PairColumns(**columns), label_map=None, on_bad_row=on_bad_row)


def refusal(*values, **options):
    with pytest.raises(DataError) as refused:
        read(*values, **options)
    return str(refused.value)


def pairs_of(found):
    pairs = found.pairs
    relevance = (
        [None] * len(pairs) if pairs.relevance is None else [round(float(r), 4) for r in pairs.relevance]
    )
    negatives = pairs.hard_negatives or [[]] * len(pairs)
    return list(zip(pairs.queries, pairs.products, relevance, negatives, strict=True))


@pytest.mark.parametrize("query", ["anchor", "query"])
def test_a_triplet_is_a_positive_with_its_hard_negative(query):
    found = read(
        {query: "sofa", "positive": "red sofa", "negative": "lamp"},
        {query: "desk", "positive": "oak desk", "negative": "chair"},
    )
    assert pairs_of(found) == [("sofa", "red sofa", None, ["lamp"]), ("desk", "oak desk", None, ["chair"])]


def test_several_negatives_are_all_read_and_blank_ones_are_none():
    found = read(
        {"anchor": "sofa", "positive": "red sofa", "negative_1": "lamp", "negative_2": "rug"},
        {"anchor": "desk", "positive": "oak desk", "negative_1": "chair", "negative_2": " "},
        {"anchor": "bed", "positive": "oak bed", "negative_1": None, "negative_2": None},
    )
    assert [one[3] for one in pairs_of(found)] == [["lamp", "rug"], ["chair"], []]


def test_a_negative_equal_to_the_row_s_positive_is_a_bad_row():
    assert "holds the row's own product" in refusal({"anchor": "a", "positive": "b", "negative": "b"})


def test_each_of_the_positives_of_a_list_is_a_pair_with_the_negatives():
    found = read(
        {"query": "sofa", "pos": ["red sofa", "couch"], "neg": ["lamp", "rug"]},
        {"query": "desk", "pos": ["oak desk"], "neg": []},
    )
    assert pairs_of(found) == [
        ("sofa", "red sofa", None, ["lamp", "rug"]),
        ("sofa", "couch", None, ["lamp", "rug"]),
        ("desk", "oak desk", None, []),
    ]
    assert not found.pairs.labelled


def test_scores_of_the_lists_are_the_relevance():
    found = read(
        {
            "query": "sofa",
            "pos": ["red sofa", "couch"],
            "neg": ["lamp", "armchair"],
            "pos_scores": [1.0, 0.9],
            "neg_scores": [0.1, 0.6],
        }
    )
    assert pairs_of(found) == [
        ("sofa", "red sofa", 1.0, ["lamp"]),
        ("sofa", "couch", 0.9, ["lamp"]),
        ("sofa", "lamp", 0.1, []),
        ("sofa", "armchair", 0.6, []),
    ]


def test_scores_are_ignored_on_request_and_otherwise_refused_as_relevance():
    row = {"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [8.5], "neg_scores": [-3.25]}
    said = refusal(row, row)
    assert "Column 'pos_scores' is not between 0 and 1 in 4 of 4 rows" in said
    assert pairs_of(read(row, label="none")) == [("a", "b", None, ["c"])]


def test_lists_that_cannot_be_taken_apart_are_bad_rows():
    good = {"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [1], "neg_scores": [0]}
    said = refusal(good, {**good, "pos": []}, {**good, "neg_scores": [0, 0]}, {**good, "pos": [None]})
    assert "pos is an empty list" in said
    assert "neg_scores is not a list with a score for each text of neg" in said
    assert "pos is null" in said
    assert "row 4" in said


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("score", ["5", "0", "3"]),
        ("clicked", [1, 0, 1]),
        ("Rating", [4.5, 1, 2]),
        ("bought", ["0.0", "1.0", ""]),
    ],
)
def test_numbers_that_may_be_the_relevance_are_named_before_negatives_are_positives(column, values):
    rows = [{"query": "a", "product": f"p{n}", column: value} for n, value in enumerate(values)]
    said = refusal(*rows)
    assert "pairs.jsonl: no column is read as relevance, so every pair would count as a positive" in said
    assert f"Give --label_column {column}, or --label_column none if every pair is a positive" in said
    assert len(read(*rows, label="none").pairs) == 3


def test_other_columns_of_numbers_are_reported_and_ids_are_not():
    rows = [
        {"query": "a", "product": f"p{n}", "price": 10 + n, "position": str(n + 2), "idx": n, "brand": "x"}
        for n in range(3)
    ]
    assert read(*rows).unread_numbers == ("price", "position")


def test_labelled_pairs_may_have_any_other_numbers():
    rows = [{"query": "a", "product": "b", "relevance": 1, "score": 0.2}] * 2
    assert read(*rows).unread_numbers == ()


def test_a_column_named_none_is_a_column():
    assert read({"query": "a", "product": "b", "none": 1}, label="none").pairs.relevance.tolist() == [1.0]
