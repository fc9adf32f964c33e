"""Records are read as pydantic's `TypeAdapter` reads them, with its errors."""

import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Le
from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic import Field as PydanticField

from aisle.io.record_schema import ALIAS, Limits, record_validator

# Each limit stands twice: for aisle, and for pydantic, which ignores annotations that it does not know.
Hex = Annotated[str, Limits(pattern="^[0-9a-f]{4}$"), StringConstraints(pattern="^[0-9a-f]{4}$")]
Count = Annotated[int, Limits(ge=1), Ge(1)]
Share = Annotated[float, Limits(ge=0.0, le=1.0), Ge(0.0), Le(1.0)]


@dataclass(frozen=True)
class Part:
    digest: Hex
    size: int


@dataclass(frozen=True)
class Record:
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    name: str
    count: Count
    number: float
    kind: Literal["a", "b"]
    settings: dict[str, Any]
    parts: dict[str, Part]
    main: Part
    recall: Annotated[Share, PydanticField(alias="recall@10")] = field(metadata={ALIAS: "recall@10"})
    points: tuple[Count, ...] = ()
    share: Share | None = None
    text: str | None = None


GOOD = {
    "name": "n",
    "count": 2,
    "number": 1.5,
    "kind": "b",
    "settings": {"x": [1, {"y": None}]},
    "parts": {"one": {"digest": "00ff", "size": 3}},
    "main": {"digest": "abcd", "size": 0},
    "recall@10": 0.5,
    "points": [1, 2],
    "share": 0.25,
    "text": "t",
}
VALUES = [None, True, -1, 0, 1, 2.5, "", "a", "00ff", [], [0], [1], {}, {"one": 1}, {"one": {"size": 1}}]
MISSING = object()


def read(validator, document):
    """Return the record, or the errors."""
    try:
        return validator.validate_json(json.dumps(document))
    except ValidationError as error:
        return error.errors(include_url=False)


def changed(changes):
    document = {name: value for name, value in {**GOOD, **changes}.items() if value is not MISSING}
    return read(record_validator(Record), document), read(TypeAdapter(Record), document)


def test_a_record_is_read_with_its_defaults_and_its_name_in_json():
    optional = dict.fromkeys(("points", "share", "text"), MISSING)

    ours, pydantics = changed(optional)

    assert ours == pydantics
    assert (ours.recall, ours.main, ours.points, ours.share) == (0.5, Part("abcd", 0), (), None)


@pytest.mark.parametrize("name", [*GOOD, "unknown"])
def test_every_value_is_accepted_or_refused_as_pydantic_does(name):
    answers = [changed({name: value}) for value in [*VALUES, MISSING]]

    assert [ours for ours, _ in answers] == [pydantics for _, pydantics in answers]
    assert any(isinstance(ours, list) for ours, _ in answers)


@pytest.mark.parametrize("part", [{}, {"digest": "00fg", "size": 1}, {"digest": "00ff", "size": 1, "x": 1}])
def test_a_record_inside_a_record_is_checked(part):
    ours, pydantics = changed({"parts": {"one": part}})

    assert ours == pydantics
    assert ours[0]["loc"][:2] == ("parts", "one")
