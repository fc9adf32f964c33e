"""The docs site: warnings fail its build, each command has a page, pages load nothing from the network."""

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from aisle.commands.command_list import COMMANDS
from tests.doc_commands import ROOT, names_of


@pytest.fixture(scope="module")
def hook():
    """Return a function from the name of a mkdocs hook to its module."""

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
        (
            "train",
            "`--num_train_epochs`: whole number, at least 1; default `3`\n:   Passes over the training",
        ),
        (
            "train",
            "`--lora_dropout`: number, at least 0, below 1; default `0.0`\n:   Dropout ",
        ),
        ("train", "`--esci_version`: `small`, `large`; default `small`\n:   Version of the ESCI "),
        ("train", "`--use_rslora`: on or off\n:   Scale by alpha / sqrt(rank) (rank-stabilised LoRA).\n"),
        (
            "train",
            "`--checkpointing_steps`: whole number, at least 1 or `epoch`\n:   Steps between checkpoints",
        ),
        ("train", "`--label_map`: `LABEL=RELEVANCE,...`\n:   Relevance of each label, from 0 to 1, "),
        ("build", "`--index_dir`: text; required\n:   Directory of the index.\n"),
        (
            "evaluate",
            "`--cutoffs`: one or more: whole number, at least 1; default `1 10 100`\n:   Ranks k to ",
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


PLANTED = {
    "unlisted.md": "# A page that is not in the navigation",
    "index.md": "[a file that is not there](gone.md)",
    "tutorial.md": "[an anchor that is not there](results.md#no-such-anchor)",
}
"""Page -> text to add to it; mkdocs warns about each."""


def docs_site_recipe():
    """Return the commands of `make docs-site`, with this interpreter's folder in place of the Makefile's."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    recipe = re.search(r"^docs-site:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    return recipe.replace("\t", "").replace("$(BIN)", str(Path(sys.executable).parent))


def test_warnings_fail_the_recipe_of_the_site(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "src").symlink_to(ROOT / "src")
    for page, line in PLANTED.items():
        with (tmp_path / "docs" / page).open("a", encoding="utf-8") as file:
            file.write(f"\n\n{line}\n")

    made = subprocess.run(
        ["sh", "-ec", docs_site_recipe()],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert made.returncode != 0, made.stdout
    assert f"Aborted with {len(PLANTED)} warnings in strict mode" in made.stdout
    assert all(name in made.stdout for name in ("unlisted.md", "gone.md", "no-such-anchor"))


def test_every_command_is_in_the_navigation_once(hook):
    nav = [{"Reference": [{"Data": "data.md"}, {"Commands": "reference/commands/"}]}]

    hook("command_pages").on_config(type("Config", (), {"nav": nav}))

    listed = [name for entry in nav[0]["Reference"][1]["Commands"] for name in entry]
    assert listed == list(COMMANDS)


def test_a_navigation_without_the_commands_fails_the_build(hook):
    from mkdocs.exceptions import PluginError

    with pytest.raises(PluginError, match="reference/commands/"):
        hook("command_pages").on_config(type("Config", (), {"nav": [{"Home": "index.md"}]}))
