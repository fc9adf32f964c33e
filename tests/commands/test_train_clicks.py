"""`--label_from`: training data from clicks and impressions."""

import csv
import json

import pytest

from aisle.commands.train.data_settings import DataSettings, data_problems
from aisle.commands.train.read_data import read_training_data
from aisle.commands.train.settings import TrainSettings
from aisle.config.load import parse_settings
from aisle.errors import DataError
from aisle.models.loading import load_tokenizer
from aisle.text.side_tokenizers import SideTokenizer, SideTokenizers
from aisle.training.tokenized import tokenize_pairs

COLUMNS = ("query", "product", "clicks", "impressions", "purchases", "position", "variant_of")


def write(path, *rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return (str(path),)


def read(files, log=None, **settings):
    how = DataSettings(train_file=files, label_from=("clicks", "impressions"), **settings)
    assert not data_problems(how)
    lines = [] if log is None else log
    return read_training_data(how, seed=0, token=None, log=lines.append)


def relevance_of(data):
    found = {}
    for pairs in (data.train, data.validation):
        found |= dict(
            zip(zip(pairs.queries, pairs.products, strict=True), pairs.relevance.tolist(), strict=True)
        )
    return found


def test_rows_of_a_pair_are_summed_and_queries_differ_not_by_case(tmp_path):
    files = write(
        tmp_path / "clicks.csv",
        ["red shoe", "A", 3, 10, 0, 1, ""],
        ["Red  Shoe", "A", 1, 10, 0, 2, ""],
        ["red shoe", "B", 0, 20, 0, 1, ""],
        ["lamp", "C", 4, 10, 0, 1, ""],
    )
    log = []
    found = relevance_of(read(files, log, click_prior_strength=0, label_max=0.4))
    assert found == pytest.approx({("red shoe", "A"): 0.5, ("red shoe", "B"): 0, ("lamp", "C"): 1})
    assert "4 rows of clicks, of 3 pairs; mean rate 0.16" in log[0]


def test_positions_and_purchases_change_the_relevance(tmp_path):
    rows = [["q", "A", 2, 10, 0, 1, ""], ["q", "B", 2, 10, 0, 2, ""], ["r", "C", 2, 10, 1, 1, ""]]
    files = write(tmp_path / "clicks.csv", *rows)
    plain = {"click_prior_strength": 0, "label_max": 1}
    assert relevance_of(read(files, **plain))["q", "B"] == pytest.approx(0.2)
    log = []
    known = read(files, log, **plain, position_column="position", position_propensities=(1, 0.5))
    assert relevance_of(known)["q", "B"] == pytest.approx(0.4)
    assert log[1] == "propensities of positions (as given): 1: 1.00, 2: 0.50"
    with_purchases = DataSettings(
        train_file=files, label_from=("clicks", "impressions", "purchases"), **plain, purchase_weight=3
    )
    bought = read_training_data(with_purchases, seed=0, token=None, log=lambda _: None)
    assert relevance_of(bought)["r", "C"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("clicks", "impressions", "position", "reason"),
    [
        (3, 2, 1, r"clicks is more than impressions \(2\): 3"),
        (0, 0, 1, "impressions is 0; a product that was not shown cannot be clicked"),
        (-1, 2, 1, "clicks is negative: '-1'"),
        ("nan", 2, 1, "clicks is not a finite number: 'nan'"),
        ("", 2, 1, "clicks is blank"),
        (1, "many", 1, "impressions is not a number: 'many'"),
        (1, 2, 0, r"position is not a whole number from 1 \(the top\): '0'"),
        (1, 2, 1e19, r"position is more than 1,000,000, which is no position in a list: '1e\+19'"),
        (1, "1e308", 1, r"impressions is more than 1e\+15: '1e308'"),
        (0, 1e-300, 1, "impressions is less than 1e-06: 1e-300"),
    ],
)
def test_rows_that_cannot_be_counted_are_named(tmp_path, clicks, impressions, position, reason):
    good = [["q", "A", 2, 10, 0, 1, ""], ["r", "B", 5, 10, 0, 2, ""]]
    files = write(tmp_path / "clicks.csv", *good, ["q", "A", clicks, impressions, 0, position, ""])
    known = {"click_prior_strength": 0, "position_column": "position", "position_propensities": (1,)}
    with pytest.raises(DataError, match=f"1 of 3 rows are bad:(.|\n)*row 3.*{reason}"):
        read(files, **known)
    assert len(relevance_of(read(files, **known, on_bad_row="skip"))) == 2


def test_pairs_without_clicks_are_no_positives_where_few_pairs_have_clicks(tmp_path):
    rows = [[f"q {n}", "A", 5 * (n < 3), 50, 0, 1, ""] for n in range(100)]
    found = relevance_of(read(write(tmp_path / "clicks.csv", *rows), click_prior_strength=0))
    assert sorted(found.values()) == [0] * 97 + [1] * 3


def test_missing_columns_and_data_without_usable_rows_are_refused(tmp_path):
    files = write(tmp_path / "clicks.csv", ["q", "A", 5, 2, 0, 1, ""])
    with pytest.raises(DataError, match=r"none of 1 rows has usable clicks.*clicks is more than impressions"):
        read(files)
    how = DataSettings(train_file=files, label_from=("click", "impressions"))
    with pytest.raises(DataError, match=r"no column 'click'. Did you mean 'clicks'"):
        read_training_data(how, seed=0, token=None, log=lambda _: None)


def test_validation_has_the_model_of_the_training_clicks_or_judgements(tmp_path):
    train = write(tmp_path / "train.csv", ["q", "A", 2, 10, 0, 1, ""], ["q", "B", 8, 10, 0, 1, ""])
    later = write(tmp_path / "later.csv", ["s", "A", 0, 10, 0, 1, ""])
    data = read(train, validation_file=later, click_prior_strength=10, label_max=0.5)
    assert data.validation.relevance.tolist() == pytest.approx([0.5])  # (0 + 10 * 0.5) / 20 / 0.5
    judged = tmp_path / "judged.csv"
    judged.write_text("query,product,label\ns,A,yes\ns,B,no\n")
    settings = {"validation_file": (str(judged),), "label_map": {"yes": 1.0, "no": 0.0}}
    data = read(train, **settings, click_prior_strength=0)
    assert data.validation.relevance.tolist() == [1, 0]
    assert data.train.relevance.tolist() == pytest.approx([0.2 / 0.77, 1])


def test_variants_share_their_clicks_and_are_no_negatives_of_each_other(tmp_path, tiny_bert):
    files = write(
        tmp_path / "clicks.csv",
        ["sofa", "grey sofa", 9, 10, 0, 1, "sofa"],
        ["sofa", "blue sofa", 1, 10, 0, 1, "sofa"],
        ["sofa", "lamp", 0, 10, 0, 1, ""],
        ["light", "lamp", 5, 10, 0, 1, ""],
        ["chair", "chair", 5, 10, 0, 1, ""],
    )
    data = read(files, click_prior_strength=0, label_max=0.5, group_column="variant_of")
    found = relevance_of(data)
    assert found["sofa", "grey sofa"] == found["sofa", "blue sofa"] == 1
    assert found["sofa", "lamp"] == 0
    # Both variants have the key of a right product, so that no batch has them as negatives of "sofa".
    side = SideTokenizer(load_tokenizer(tiny_bert), "", 16)
    part = data.train if "sofa" in data.train.queries else data.validation
    pairs = tokenize_pairs(part, SideTokenizers(side, side))
    keys = dict(zip(part.products, pairs.product_keys[pairs.products].tolist(), strict=True))
    assert keys["grey sofa"] == keys["blue sofa"] != keys["lamp"]


def test_group_of_a_product_counts_for_its_rows_without_a_group(tmp_path):
    files = write(
        tmp_path / "clicks.csv",
        ["sofa", "grey sofa", 0, 2, 0, 1, ""],
        ["sofa", "blue sofa", 0, 8, 0, 1, "sofa"],
        ["chair", "grey sofa", 1, 10, 0, 1, "sofa"],
        ["sofa", "grey sofa", 5, 10, 0, 1, "sofa"],
        ["sofa", "grey sofa", 1, 10, 0, 1, " "],
    )
    data = read(files, click_prior_strength=0, label_max=1, group_column="variant_of")
    found = relevance_of(data)
    assert found["sofa", "grey sofa"] == found["sofa", "blue sofa"] == pytest.approx(6 / 30)
    assert found["chair", "grey sofa"] == pytest.approx(0.1)
    assert {*data.train.product_groups, *data.validation.product_groups} == {"sofa"}


def test_product_with_two_groups_is_a_bad_row_with_both_named(tmp_path):
    files = write(
        tmp_path / "clicks.csv",
        ["sofa", "grey sofa", 5, 10, 0, 1, ""],
        ["chair", "grey sofa", 1, 10, 0, 1, "sofas"],
        ["sofa", "grey sofa", 9, 10, 0, 1, "chairs"],
    )
    how = {"click_prior_strength": 0, "label_max": 1, "group_column": "variant_of"}
    reason = r"row 3.*variant_of is not the group that an earlier row .*: 'chairs' \(there: 'sofas'\)"
    with pytest.raises(DataError, match=reason):
        read(files, **how)
    assert relevance_of(read(files, **how, on_bad_row="skip"))["sofa", "grey sofa"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"product": None}, "product is null"),
        ({"query": " "}, "query is blank"),
        ({"query": "\ud800"}, "query is not valid Unicode"),
        ({"product": ["A"]}, "product is not text"),
        ({"variant_of": 1.5}, "variant_of is neither text nor an integer"),
    ],
)
def test_pairs_without_texts_are_named_and_their_clicks_do_not_count(tmp_path, row, reason):
    good = [
        {"query": query, "product": "A", "clicks": 1, "impressions": 4, "variant_of": 7} for query in "qr"
    ]
    bad = {"query": "q", "product": "A", "clicks": 4, "impressions": 4, "variant_of": None, **row}
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(json.dumps(values) + "\n" for values in [bad, *good]))
    how = {"click_prior_strength": 0, "label_max": 1, "group_column": "variant_of"}
    with pytest.raises(DataError, match=f"1 of 3 rows are bad:(.|\n)*row 1.*{reason}"):
        read((str(path),), **how)
    found = relevance_of(read((str(path),), **how, on_bad_row="skip"))
    assert found == {("q", "A"): 0.25, ("r", "A"): 0.25}


def test_judged_validation_pairs_need_no_columns_of_the_log(tmp_path):
    train = write(tmp_path / "log.csv", ["q", "A", 2, 10, 0, 1, "g"], ["q", "B", 8, 10, 0, 1, ""])
    text = (tmp_path / "log.csv").read_text().replace("query", "asked").replace("product", "shown")
    (tmp_path / "log.csv").write_text(text)
    judged = tmp_path / "judged.csv"
    judged.write_text("query,product,relevance\ns,A,1\ns,B,0\n")
    named = {"query_column": "asked", "product_column": "shown", "group_column": "variant_of"}
    data = read(
        train, **named, query_id_column="asked", validation_file=(str(judged),), click_prior_strength=0
    )
    assert data.validation.relevance.tolist() == [1, 0]
    assert data.validation.product_groups is None
    assert data.train.product_groups == ["g", None]


def test_flags_are_read_with_commas_and_refused_in_combinations():
    settings = parse_settings(
        TrainSettings,
        ["--train_file", "f", "--label_from", "clicks,impressions", "--output_dir", "o"],
        prog="train",
    )
    assert settings.data.label_from == ("clicks", "impressions")
    flags = {
        "label_from": ("clicks",),
        "label_column": "x",
        "label_map": {"a": 1.0},
        "position_propensities": (1.0,),
        "train_format": "triples",
    }
    problems = "\n".join(data_problems(DataSettings(train_file=("f",), **flags)))
    for part in (
        "two or three columns",
        "both give the relevance",
        "clicks are of pairs",
        "--label_map is for",
    ):
        assert part in problems
    assert "--position_propensities: needs --position_column" in problems
    assert data_problems(DataSettings(train_file=("f",), position_column="p")) == [
        "--position_column: needs --label_from"
    ]
