"""A JSON file holds an object with the fields of a record; anything else is named."""

from dataclasses import dataclass

import pytest

from aisle.io.json_object import InvalidJsonError, read_object, record_of
from aisle.io.record_schema import Positive, record_validator


@dataclass(frozen=True)
class Shelf:
    boards: Positive
    name: str = "oak"


VALIDATOR = record_validator(Shelf)


def test_an_object_is_read_and_becomes_a_record(tmp_path):
    path = tmp_path / "shelf.json"
    path.write_text('{"boards": 3}')

    document = read_object(path)

    assert document == {"boards": 3}
    assert record_of(document, VALIDATOR) == Shelf(3, "oak")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "it must be JSON, found: Expecting property name"),
        (b"\xff", "it must be JSON, found: 'utf-8' codec"),
        (b"[" * 100_000, "it must be JSON, found: maximum recursion"),
        (b"[1]", "it must be a JSON object, found list"),
    ],
)
def test_a_file_without_an_object_is_refused(content, message, tmp_path):
    (tmp_path / "shelf.json").write_bytes(content)

    with pytest.raises(InvalidJsonError, match=message):
        read_object(tmp_path / "shelf.json")


def test_a_missing_file_raises_the_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "shelf.json")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"boards": 0}, "boards: Input should be greater than or equal to 1, found 0"),
        ({"boards": "3"}, "boards: Input should be a valid integer, found '3'"),
        ({"boards": 3, "colour": "red"}, "colour: Unexpected keyword argument, found 'red'"),
        ({"boards": 3, "name": 9 * [10**20]}, r"name: Input should be a valid string, found \[.{79}$"),
    ],
)
def test_a_field_that_breaks_a_rule_is_named_with_the_start_of_its_value(document, message):
    with pytest.raises(InvalidJsonError, match=message):
        record_of(document, VALIDATOR)
