"""Text from data cannot steer a terminal: escape sequences, control characters and marks of direction."""

import json
import unicodedata

import pytest
from rich.table import Table
from rich.text import Text

from aisle import cli
from aisle.commands.output import Output
from aisle.commands.terminal import escaped, printable
from aisle.errors import DataError

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07red\u202e afos\x9b31m\u2066!\x07\x00\x7f\x1b]8;;http://x\x1b\\click\x1b]8;;\x1b\\"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red sofa", "red sofa"),
        ("", ""),
        ("çà 🛒 跑鞋 👟🏽\u200d♀️ e\u0301 حذاء", "çà 🛒 跑鞋 👟🏽\u200d♀️ e\u0301 حذاء"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\rb\x08c\x0bd", "abcd"),
        ("\x1b[1;31mred\x1b[0m sofa", "red sofa"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07red", "red"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP+q\x1b\\red", "red"),
        ("\x1bcred", "red"),
        ("\x1b(0red", "red"),
        ("red\x1b", "red"),
        ("\x1b]0;no end", "0;no end"),
        ("\x1b\x1b[31m[31mred", "[31mred"),
        ("\u202eafos\u202c \u200fred\u2067 \u061cx", "afos red x"),
        (HOSTILE, "red afos!click"),
    ],
)
def test_only_text_that_controls_a_terminal_is_removed(text, expected):
    assert printable(text) == expected


def test_no_control_character_and_no_mark_of_direction_is_left():
    left = printable("".join(map(chr, range(0xD800))))

    turning = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
    assert {c for c in left if unicodedata.category(c) == "Cc"} <= {"\t", "\n"}
    assert not [c for c in left if unicodedata.bidirectional(c) in turning or c in "\u200e\u200f\u061c"]


def test_json_is_the_same_document_without_those_characters():
    document = {HOSTILE: [HOSTILE, "é 跑鞋"]}

    text = escaped(json.dumps(document, ensure_ascii=False))

    assert json.loads(text) == document
    assert printable(text) == text
    assert "é 跑鞋" in text


def test_whatever_a_command_shows_is_harmless(capsys):
    table = Table(title=HOSTILE)
    table.add_column(Text(HOSTILE))
    table.add_row(Text(HOSTILE))
    output = Output()

    output.log(HOSTILE)
    output.show(table)
    Output(json_only=True).document([HOSTILE])

    shown = capsys.readouterr().out
    assert printable(shown) == shown
    assert shown.startswith("red afos!click\n")
    assert shown.count("click") >= 4


def test_colours_of_our_own_stay(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    Output().show(Text("\x1b[31mred\u202e sofa", style="bold"))

    assert capsys.readouterr().out == "\x1b[1mred sofa\x1b[0m\n"


def test_an_error_that_quotes_data_is_harmless(monkeypatch, capsys):
    def fail():
        raise DataError(f"products.csv, row 3: {HOSTILE}")

    assert cli._guarded(fail) == 2
    assert capsys.readouterr().err == "error: products.csv, row 3: red afos!click\n"
