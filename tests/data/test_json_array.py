"""JSON arrays that are read an item at a time: equal to `json.loads`, whatever the size of the parts."""

import io
import json

import pytest

from aisle.data import json_array as module
from aisle.data.files import iter_rows
from aisle.data.json_array import json_array, read_start
from aisle.errors import DataError

ITEMS = [
    {"text": 'a "quoted" \\ ], line\nbreak', "list": [1, [2.5, -3e-7], {}], "none": None},
    {"text": "حذاء 👟", "shoe": "👟", "true": True},
    -12.5e3,
    "[",
    [],
    12345,
]


def read(text, size, monkeypatch):
    monkeypatch.setattr(module, "READ_CHARACTERS", size)
    stream = io.StringIO(text)
    return list(json_array("f.json", stream, read_start("f.json", stream)))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 31, 10_000])
@pytest.mark.parametrize("options", [{}, {"indent": 1}, {"ensure_ascii": False, "separators": (",", ":")}])
def test_items_are_those_of_json_loads_for_every_size_of_the_parts(size, options, monkeypatch):
    text = f"\n {json.dumps(ITEMS, **options)} \n"
    assert read(text, size, monkeypatch) == json.loads(text)
    assert read(" [ ] ", size, monkeypatch) == []


@pytest.mark.parametrize("size", [1, 5, 10_000])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n{"a": ', "line 2: the file is not JSON: .* The file ends here: it may be truncated"),
        ('[{"a": 1},\n{"a": "tex', "line 2: the file is not JSON: .* it may be truncated"),
        ('[{"a": 1}\n', r"line 2: the file is not JSON: Expecting ',' or '\]'. The file ends here"),
        ('[{"a": 1},\n', "line 2: the file is not JSON: .* it may be truncated"),
        ('[{"a": 1}\n{"a": 2}]', r"line 2: the file is not JSON: Expecting ',' or '\]'\.$"),
        ('[{"a": 1}]\n\n{"b": 2}', "line 3: the file is not JSON: Extra data after the array"),
        ('[1,\n{"a": }\n]', "line 2: the file is not JSON"),
        ('[1,\n"\udcff"]', "line 2: the text is not UTF-8"),
        ('[1,\n{"a": ' + "9" * 5000 + "}]", "line 2: the file is not JSON: Exceeds the limit .* digits"),
    ],
)
def test_what_is_not_json_is_refused_with_its_line(size, text, message, monkeypatch):
    with pytest.raises(DataError, match=f"^f.json, {message}"):
        read(text, size, monkeypatch)


@pytest.mark.parametrize("size", [5000, 10_000])
def test_a_float_may_have_as_many_digits_as_it_likes(size, monkeypatch):
    assert read("[" + "0." + "9" * 6000 + ", " + "1" + "0" * 5000 + "e-5000]", size, monkeypatch) == [
        1.0,
        1.0,
    ]


def test_an_object_with_an_endless_integer_is_refused(tmp_path):
    (tmp_path / "p.json").write_text('{"data": [{"a": ' + "9" * 5000 + "}]}")
    with pytest.raises(DataError, match=r"p\.json: the file is not JSON: Exceeds the limit"):
        list(iter_rows([tmp_path / "p.json"]))


def test_a_mistake_is_found_without_reading_on(monkeypatch):
    monkeypatch.setattr(module, "READ_CHARACTERS", 100)
    stream = io.StringIO('[{"a": x}, ' + "1, " * 10_000)
    with pytest.raises(DataError, match="Expecting value"):
        list(json_array("f.json", stream, read_start("f.json", stream)))
    assert stream.tell() <= 200


def test_a_json_file_is_read_in_parts(tmp_path, monkeypatch):
    """The first rows come before the rest of the file is parsed: its end is not JSON."""
    monkeypatch.setattr(module, "READ_CHARACTERS", 1000)
    path = tmp_path / "p.json"
    path.write_text("[" + ", ".join(json.dumps({"a": number}) for number in range(5000)) + ", oops")
    rows = iter_rows([path], fill=False)
    assert [next(rows).values for _ in range(3)] == [{"a": 0}, {"a": 1}, {"a": 2}]
    with pytest.raises(DataError, match="not JSON"):
        list(rows)
