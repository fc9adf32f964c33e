import re

import pytest

from aisle.commands.train.settings import TrainSettings
from aisle.config.label_map import parse_label_map
from aisle.config.load import parse_settings

ESCI = {"E": 1.0, "S": 0.1, "C": 0.01, "I": 0.0}


@pytest.mark.parametrize(
    "value",
    [
        "E=1,S=0.1,C=0.01,I=0",
        " E = 1 , S=.1, C=1e-2, I=0.0,",
        {"E": 1, "S": 0.1, "C": "0.01", "I": 0},
    ],
)
def test_notation_and_mapping_mean_the_same(value):
    assert parse_label_map(value) == ESCI


def test_no_map_is_none():
    assert parse_label_map(None) is None
    assert parse_label_map("None") is None


def test_an_equals_sign_may_be_in_a_label():
    assert parse_label_map("a=b=0.5") == {"a=b": 0.5}


def test_numeric_labels_of_yaml_are_their_text():
    assert parse_label_map({0: 0, 1: 0.5, 2: 1}) == {"0": 0.0, "1": 0.5, "2": 1.0}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "has the form E=1"),
        ("E", "has the form E=1"),
        ("E=1,S", "has the form E=1"),
        ("E=1,E=0", "'E' occurs twice"),
        ("E=2", "'E' must have a relevance from 0 to 1; found '2'"),
        ("E=-0.1", "'E' must have a relevance from 0 to 1; found '-0.1'"),
        ("E=nan", "'E' must have a relevance"),
        ("E=inf", "'E' must have a relevance"),
        ("E=high", "'E' must have a relevance from 0 to 1; found 'high'"),
        ({"E": None}, "'E' must have a relevance"),
        ({"E": [1]}, "'E' must have a relevance"),
        ({1: 0.5, "1": 1}, "'1' occurs twice"),
        ({False: 0, "E": 1}, "in quotes"),
    ],
)
def test_an_invalid_label_map_is_refused_with_the_reason(value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_label_map(value)


def test_flag_and_yaml_give_the_same_map(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("label_map: {E: 1, S: 0.1, C: 0.01, I: 0}\n")

    by_flag = parse_settings(TrainSettings, ["--label_map", "E=1,S=0.1,C=0.01,I=0"], prog="p")
    by_yaml = parse_settings(TrainSettings, ["--config", str(path)], prog="p")

    assert by_flag.data.label_map == by_yaml.data.label_map == ESCI


def test_yaml_labels_may_contain_characters_that_the_notation_reserves(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text('label_map: {"a,b": 1, "c=d": 0.123456789}\n')

    settings = parse_settings(TrainSettings, ["--config", str(path)], prog="p")

    assert settings.data.label_map == {"a,b": 1.0, "c=d": 0.123456789}
