"""The hooks of mkdocs: a page for each command, and a site that loads nothing from outside."""

import contextlib
import importlib.util
import re
from functools import cache

import pytest

from aisle.cli import COMMANDS
from tests.doc_commands import ROOT, names_of


@pytest.fixture(scope="module")
def hook():
    """Return a function from the name of a hook of mkdocs to its module."""

    @cache
    def load(name):
        spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_of_a_command_has_each_of_its_settings_once(name, hook):
    page = hook("command_pages").page_of(name, COMMANDS[name])

    rows = re.findall(r"^<a id=\"\w+\"></a>`(?:--)?(\w+)`", page, re.MULTILINE)
    assert sorted(map(str.lower, rows)) == sorted(map(str.lower, names_of(COMMANDS[name])))


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("train", "`--lora_rank`: whole number, at least 1; default `8`\n:   Rank of the update matrices.\n"),
        ("train", "`--lora_dropout`: number, at least 0, below 1; default `0.0`\n:   Dropout before "),
        ("train", "`--esci_version`: `small`, `large`; default `small`\n:   Version of the ESCI "),
        ("train", "`--use_dora`: on or off\n:   Split weights into magnitude and direction (DoRA).\n"),
        (
            "train",
            "`--checkpointing_steps`: whole number, at least 1 or `epoch`\n:   Write a checkpoint every ",
        ),
        ("train", "`--label_map`: `LABEL=WORTH,...`\n:   What each label is worth in [0, 1], "),
        ("build", "`--index_dir`: text; required\n:   Folder that the index is written to.\n"),
        (
            "evaluate",
            "`--cutoffs`: one or more: whole number, at least 1; default `1 10 100`\n:   Ranks at which ",
        ),
        ("query", "`TEXT`, without a flag: one or more: text\n:   Queries.\n"),
    ],
)
def test_an_entry_of_a_command_page_says_what_the_parser_takes(name, entry, hook):
    assert entry in hook("command_pages").page_of(name, COMMANDS[name])


@pytest.mark.parametrize(
    ("html", "loads"),
    [
        ('<script src="https://example.org/a.js"></script>', True),
        ('<link rel="stylesheet" href="//example.org/a.css">', True),
        ("<img alt='x' src=http://example.org/a.png>", True),
        ('<a href="https://example.org">a paper</a><script src="assets/a.js"></script>', False),
    ],
)
def test_a_page_that_loads_something_from_outside_fails_the_build(html, loads, hook):
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    page = type("Page", (), {"file": File("x.md", "docs", "site", use_directory_urls=False)})

    with pytest.raises(PluginError, match=r"^x\.md: .*example\.org") if loads else contextlib.nullcontext():
        assert hook("offline").on_post_page(html, page=page, config=None) == html
