"""Teacher's scores of pairs and of their hard negatives, from all forms of rows."""

import json

import pytest

from aisle.commands.train.data_settings import DataSettings
from aisle.commands.train.read_data import read_training_data
from aisle.errors import DataError


@pytest.fixture
def read(tmp_path):
    def run(*rows, **settings):
        path = tmp_path / "train.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows))
        (tmp_path / "held.jsonl").write_text(json.dumps({"query": "bed", "product": "oak bed"}))
        given = DataSettings(
            train_file=(str(path),), validation_file=(str(tmp_path / "held.jsonl"),), **settings
        )
        said = []
        data = read_training_data(given, seed=0, token=None, log=said.append, teacher_scores=True)
        return data.train, " ".join(said)

    return run


def found(pairs):
    scores = None if pairs.teacher_scores is None else pairs.teacher_scores.tolist()
    return pairs.products, scores, pairs.negative_teacher_scores


LISTED = {"query": "sofa", "pos": ["red sofa", "blue sofa"], "neg": ["lamp", "bed"]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"query": "sofa", "product": "red sofa", "teacher_score": 2.5},
            (["red sofa"], [2.5], None),
        ),
        (
            {
                **{"query": "sofa", "product": "red sofa", "teacher_score": "2.5"},
                **{"hard_negatives": ["lamp", "bed"], "negative_teacher_scores": "[-1, 0.5]"},
            },
            (["red sofa"], [2.5], [[-1.0, 0.5]]),
        ),
        (  # FlagEmbedding's
            {**LISTED, "pos_scores": [8.5, 7], "neg_scores": [-3, -4]},
            (["red sofa", "blue sofa"], [8.5, 7.0], [[-3.0, -4.0]] * 2),
        ),
        (  # sentence-transformers' columns of negatives
            {
                **{"anchor": "sofa", "positive": "red sofa", "negative_1": "lamp", "negative_2": "bed"},
                **{"teacher_score": 1, "negative_teacher_scores": [0, -1]},
            },
            (["red sofa"], [1.0], [[0.0, -1.0]]),
        ),
        ({"query": "sofa", "product": "red sofa"}, (["red sofa"], None, None)),
    ],
)
def test_scores_are_read_from_every_form_of_row(read, row, expected):
    assert found(read(row)[0]) == expected


def test_scores_are_cut_with_the_hard_negatives(read):
    row = {"query": "sofa", "product": "red sofa", "mark": 2, "neg": ["lamp", "bed"], "marks": [1, 0]}
    pairs, said = read(
        row, teacher_score_column="mark", negative_scores_column="marks", hard_negatives_per_pair=1
    )
    assert (pairs.hard_negatives, pairs.negative_teacher_scores) == ([["lamp"]], [[1.0]])
    assert "teacher's score: mark, of negatives: marks" in said


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ([1], "negative_teacher_scores has 1 scores for 2 hard negatives"),
        (None, "negative_teacher_scores has 0 scores for 2 hard negatives"),
        ([1, None], "negative_teacher_scores: an entry is null"),
        ([1, "high"], "negative_teacher_scores: an entry is not a number"),
        ("high", "negative_teacher_scores is not a JSON list of numbers"),
    ],
)
def test_scores_that_do_not_fit_the_hard_negatives_are_bad_rows(read, scores, reason):
    row = {"query": "sofa", "product": "red sofa", "teacher_score": 1, "neg": ["lamp", "bed"]}
    with pytest.raises(DataError, match=reason):
        read({**row, "negative_teacher_scores": scores})


def test_pairs_without_a_score_are_counted_in_a_single_message(read):
    row = {"query": "sofa", "product": "red sofa", "teacher_score": None}
    with pytest.raises(DataError, match=r"(?s)2 of 3.*2 x teacher_score is null"):
        read(row, row, {**row, "teacher_score": 1.0})
