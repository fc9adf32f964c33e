"""Messages about labels that need a label map."""

import pytest

from aisle.config.label_map import parse_label_map
from aisle.data.labels import LabelReader
from aisle.data.pairs import PairColumns, read_pairs
from aisle.data.rows import Row
from aisle.errors import DataError


def read(labels, *, label_map=None, on_bad_row="error", label_max=None):
    rows = [
        Row("judged.csv", number, {"query": f"q{number % 5}", "product": f"p{number}", "relevance": label})
        for number, label in enumerate(labels, start=1)
    ]
    return read_pairs(
        rows, columns=PairColumns(), label_map=label_map, on_bad_row=on_bad_row, label_max=label_max
    )


def refusal(labels, **options):
    with pytest.raises(DataError) as refused:
        read(labels, **options)
    return str(refused.value)


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
@pytest.mark.parametrize("kind", [int, str, float])
def test_grades_of_0_to_4_ask_for_a_map_and_are_never_skipped(on_bad_row, kind):
    said = refusal([kind(n % 5) for n in range(50)], on_bad_row=on_bad_row)
    assert said == (
        "Column 'relevance' is not between 0 and 1 in 30 of 50 rows; it holds 0, 1, 2, 3, 4. --label_max 4 "
        "divides them by 4. If these are relevance levels, give the relevance of each, for example in equal "
        "steps: --label_map 0=0,1=0.25,2=0.5,3=0.75,4=1"
    )


def test_the_advised_label_map_can_be_pasted():
    said = refusal([n % 4 for n in range(40)])
    label_map = parse_label_map(said.rpartition(" ")[2])
    pairs = read([n % 4 for n in range(40)], label_map=label_map).pairs
    assert pairs.relevance[:4].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-4)


def test_rare_positives_beyond_1_are_no_typing_errors():
    labels = [0] * 970 + [1] * 10 + [2] * 20
    assert "--label_map 0=0,1=0.5,2=1" in refusal(labels, on_bad_row="skip")


def test_stars_in_half_steps_and_grades_below_0_are_grades():
    assert "--label_map 0.5=0.1,1=0.2,4.5=0.9,5=1" in refusal([0.5, 1, 4.5, 5] * 5)
    assert "--label_map -2=0,0=0,1=0.5,2=1" in refusal([-2, 0, 1, 2] * 5)


def test_a_single_typing_error_is_a_bad_row_like_any_other():
    labels = [0, 1] * 20 + [17]
    assert "1 x relevance is not between 0 and 1" in refusal(labels)
    assert len(read(labels, on_bad_row="skip").pairs) == 40


def test_a_continuous_scale_is_to_be_divided():
    said = refusal([50 + n * 0.7 for n in range(60)], on_bad_row="skip")
    assert "it holds from 50 to" in said
    assert "divide it by the highest possible value, give that value with --label_max" in said


def test_ratings_are_divided_by_the_highest():
    pairs = read(["0", "2.5", 5, 3.8], label_max=5).pairs
    assert pairs.relevance.tolist() == pytest.approx([0, 0.5, 1, 0.76])
    assert "is not between 0 and 5" in refusal([0, 1, 5, 6], label_max=5)


def test_sentence_pairs_of_the_sts_benchmark_are_read_by_the_names_of_their_columns():
    rows = [Row("sts.csv", 1, {"split": "dev", "sentence1": "a", "sentence2": "b", "score": "2.5"})]
    found = read_pairs(rows, columns=PairColumns(), label_map=None, on_bad_row="error", label_max=5)
    assert (found.columns.query, found.columns.product, found.columns.label) == (
        "sentence1",
        "sentence2",
        "score",
    )
    assert found.pairs.relevance.tolist() == [0.5]


@pytest.mark.parametrize("on_bad_row", ["error", "skip"])
def test_what_words_are_worth_is_left_to_the_user(on_bad_row):
    said = refusal(["close", "exact", "wrong"] * 5, on_bad_row=on_bad_row)
    assert '--label_map "close=,exact=,wrong=", with a number after each sign' in said
    with pytest.raises(ValueError, match="label 'close' must have a relevance from 0 to 1"):
        parse_label_map("close=,exact=,wrong=")


def test_the_labels_of_esci_are_known():
    assert '--label_map "E=1,S=0.1,C=0.01,I=0"' in refusal(["E", "S", "I"] * 3)


def test_words_that_are_the_only_positives_are_not_skipped():
    said = refusal(["0"] * 20 + ["yes"] * 5, on_bad_row="skip")
    assert '--label_map "yes="' in said


def test_a_map_that_leaves_the_positives_out_is_not_skipped_over():
    said = refusal(["E", "S", "I"] * 5, label_map={"S": 0.1, "I": 0}, on_bad_row="skip")
    assert "no row is a positive" in said
    assert "also holds 'E'" in said


def test_judgements_of_an_evaluation_may_have_any_grade():
    reader = LabelReader("relevance", label_map=None, highest=None)
    assert [reader.read(value) for value in ("0", "4", 3)] == [0.0, 4.0, 3.0]
