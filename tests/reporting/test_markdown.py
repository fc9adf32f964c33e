"""Markdown, read back by a parser: untrusted text appears unchanged."""

import pytest
from markdown_it import MarkdownIt

from aisle.reporting.markdown import escaped, image, table

PARSER = MarkdownIt("commonmark").enable("table")
WORDS = [
    "plain words",
    "a|b",
    "back\\slash \\| and bar",
    "`code`",
    "*strong* _soft_ ~~gone~~",
    "<b>bold</b> <!-- hidden -->",
    "&amp; is not &",
    "[link](https://example.org) ![picture](x.png)",
    "$x_1$",
    "# no heading",
    "日本語 für Läden",
    "[0.04, 0.08]",
    "]( [ ] ![",
]


def shown(tokens):
    """Return the visible text, with markers for everything else."""
    return "".join(
        token.content if token.type in {"text", "text_special"} else f"<{token.type}>"
        for token in tokens.children
    )


def cells(markdown):
    return [shown(token) for token in PARSER.parse(markdown) if token.type == "inline"]


@pytest.mark.parametrize("text", WORDS)
def test_escaped_text_is_shown_as_it_is(text):
    assert cells(escaped(text)) == [text]


@pytest.mark.parametrize("text", WORDS)
def test_a_cell_of_a_table_shows_escaped_text_as_it_is(text):
    assert cells(table(["name", "n"], [[escaped(text), "1"], ["last", "2"]])) == [
        "name", "n", text, "1", "last", "2",
    ]  # fmt: skip


def test_line_ends_become_spaces():
    assert cells(escaped("two\nlines\r\n\tand more")) == ["two lines and more"]


def test_intervals_can_be_read_in_the_source():
    assert escaped("nDCG@10 [0.04, 0.08]") == "nDCG@10 [0.04, 0.08]"


def test_a_table_has_a_line_per_row():
    assert table(["a", "b|c"], [["1", "2"]]) == "| a | b\\|c |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize("text", WORDS)
def test_an_image_has_its_text_and_path(text):
    (inline,) = [token for token in PARSER.parse(image(text, "a/b.png")) if token.type == "inline"]
    (found,) = inline.children
    assert (found.type, found.attrs["src"]) == ("image", "a/b.png")
    assert shown(found) == text
