"""Plain command lines are read as tyro and pydantic read them; all others are left to them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aisle.commands.command_list import COMMANDS
from aisle.commands.query import QuerySettings
from aisle.config.load import parse_settings
from aisle.config.plain_arguments import plain_settings
from aisle.errors import AisleError

PLAIN = [
    ["query", "--index_dir", "i", "red sofa"],
    ["query", "red sofa", "lamp", "--index_dir", "i"],
    ["query", "--index_dir=i", "--top_k", "3", "None", "lamp", "--json"],
    ["query", "--index_dir", "i", "--where", "price <= 50", "--no_json", "--trust_remote_code"],
    ["query", "--index_dir", "i", "--min_score", "calibrated", "--p", "0.25", "--mode", "hybrid"],
    ["query", "--index_dir", "i", "--min_score", "0.5", "--hybrid_weight", "1", "--ef_search", "0064"],
    ["query", "--index_dir", "a=b", "--where=a == 'b'", "größe 42", ""],
    ["delete", "--index_dir", "i", "p1", "p2", "--keep_versions", "2"],
    ["merge", "runs/shop", "--output_dir", "out"],
    ["sample", "--output_dir", "s", "--products", "1000000", "--seed", "0"],
    ["serve", "--index_dir", "i", "--port", "0", "--watch_seconds", "0.5"],
    ["versions", "--index_dir", "i"],
]
NOT_PLAIN = [
    ["query", "lamp"],
    ["query", "--index_dir"],
    ["query", "--help"],
    ["query", "--index_dir", "i", "--config", "faq"],
    ["query", "--index_dir", "i", "--top_k", "0"],
    ["query", "--index_dir", "i", "--top_k", "3.0"],
    ["query", "--index_dir", "i", "--top_k", "-3"],
    ["query", "--index_dir", "i", "--p", "0"],
    ["query", "--index_dir", "i", "--hybrid_weight", "nan"],
    ["query", "--index_dir", "i", "--mode", "words"],
    ["query", "--index_dir", "i", "--model", "None"],
    ["query", "--index_dir", "i", "--top_k", "3", "--top_k", "4"],
    ["query", "--index_dir", "i", "lamp", "--top_k", "4", "sofa"],
    ["query", "--index_dir", "i", "--", "--lamp"],
    ["query", "--index_dir", "i", "-lamp"],
    ["query", "--index_dir", "i", "--text", "lamp"],
    ["query", "--index_dir", "i", "--exact=True"],
    ["query", "--index-dir", "i"],
    ["query", "--indexdir", "i"],
    ["merge", "a", "b", "--output_dir", "out"],
    ["sample", "--output_dir", "s", "--products", "1000001"],
    ["train", "--output_dir", "o"],
]
PARTS = (
    *("lamp", "red sofa", "", "None", "-", "--", "calibrated", "dense", "rrf", "0", "1", "10", "0.5", "1e3"),
    *(
        "--index_dir",
        "--index_dir=i",
        "--top_k",
        "--top_k=2",
        "--json",
        "--no_json",
        "--mode",
        "--fields",
        "-k",
    ),
    *("--min_score", "--p", "--p=.5", "--exact", "--hybrid_weight", "--fusion=rrf", "--where", "-k"),
)


def in_full(name, arguments):
    """Return the settings by tyro and pydantic; None if they refuse the command line."""
    try:
        return parse_settings(COMMANDS[name].settings, arguments, prog=name)
    except (AisleError, SystemExit):
        return None


@pytest.mark.parametrize("line", PLAIN, ids=" ".join)
def test_a_plain_command_line_is_read_alone_and_as_in_full(line):
    name, *arguments = line

    plain = plain_settings(COMMANDS[name].settings, arguments)

    assert plain is not None
    assert plain == in_full(name, arguments)


@pytest.mark.parametrize("line", NOT_PLAIN, ids=" ".join)
def test_any_other_command_line_is_left_to_the_whole_parser(line):
    name, *arguments = line

    assert plain_settings(COMMANDS[name].settings, arguments) is None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PARTS), max_size=6))
def test_what_is_read_alone_is_never_read_otherwise(parts):
    arguments = ["--index_dir", "i", *parts]

    plain = plain_settings(QuerySettings, arguments)

    if plain is not None:
        found = in_full("query", arguments)
        assert repr(plain) == repr(found)  # 1 and 1.0 are equal
