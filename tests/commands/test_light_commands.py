"""Misspelt names are reported, and lexical searches run, without importing torch."""

import subprocess
import sys

import pytest

from aisle.cli import index_main
from tests.commands.conftest import write_rows

HEAVY = {"torch", "transformers", "datasets", "peft", "accelerate", "sklearn", "numba", "matplotlib"}
CODE = """
import sys
from aisle.cli import main
code = main(sys.argv[1:])
print(code, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def run(*arguments):
    """Return exit code, message and loaded packages of a command in a fresh interpreter."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    *said, last = ran.stderr.splitlines()
    code, *loaded = last.split()
    return int(code), "\n".join(said), set(loaded)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--train_file", "/none/pairs.csv", "--output_dir", "/tmp/none"], "/none/pairs.csv"),
        (["build", "--model", "m", "--catalog", "/none/c.csv", "--index_dir", "/none/i"], "/none/c.csv"),
        (["query", "--index_dir", "/none/index", "lamp"], "/none/index"),
        (["evaluate", "--index_dir", "/none/i", "--queries", "/none/q", "--qrels", "/none/r"], "/none/q"),
        (["evaluate", "--index_dir", "/none/i", "--queries", __file__, "--qrels", __file__], "/none/i"),
        (["upsert", "--index_dir", "/none/index", "--catalog", "c.csv"], "/none/index"),
        (["delete", "--index_dir", "/none/index", "p1"], "/none/index"),
        (["compact", "--index_dir", "/none/index"], "/none/index"),
        (["tune", "--index_dir", "/none/index"], "/none/index"),
        (["versions", "--index_dir", "/none/index"], "/none/index"),
        (["rollback", "--index_dir", "/none/index"], "/none/index"),
        (["info", "--index_dir", "/none/index"], "/none/index"),
        (["verify", "--index_dir", "/none/index"], "/none/index"),
        (["average", "/none/a", "/none/b", "--output_dir", "/none/c"], "/none/a"),
        (["mine", "--train_file", __file__, "--catalog", "/none/c.csv", "--output_file", "x.jsonl"], "c.csv"),
        (["merge", "/none/some/run", "--output_dir", "/none/c"], "/none/some/run"),
        (["push", "/none/run"], "/none/run"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_a_misspelt_name_is_reported_before_heavy_imports(arguments, named):
    code, message, loaded = run(*arguments)

    assert (code, message.startswith("error: ")) == (2, True)
    assert named in message
    assert "aisle" in loaded
    assert loaded & HEAVY == set()


def test_lexical_search_has_no_heavy_imports(tiny_bert, tmp_path):
    catalog = write_rows(tmp_path / "c.csv", ["product_id", "title"], [("a", "red sofa"), ("b", "lamp")])
    flags = ["--model", tiny_bert, "--catalog", catalog, "--index_dir", tmp_path / "index", "--threads", 1]
    assert index_main(["build", *map(str, flags)]) == 0

    flags = ["--index_dir", tmp_path / "index", "--mode", "lexical", "--top_k", 2]
    code, _, loaded = run("query", *flags, "sofas")

    assert code == 0
    assert loaded & (HEAVY | {"bm25s"}) == set()
