"""Python blocks of the docs pass mypy."""

import os
import subprocess
import sys

from tests.doc_commands import ROOT, blocks_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def check(folder, texts):
    """Run mypy on programs with the project's settings, and return the result."""
    files = []
    for number, text in enumerate(texts):
        files.append(folder / f"block_{number}.py")
        files[-1].write_text(text)
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, files)]
    environment = os.environ | {"NO_COLOR": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_python_of_the_docs_passes_mypy_and_a_wrong_type_does_not(tmp_path):
    blocks = [
        block
        for page in PAGES
        for block in blocks_of(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())
        if block.language == "python"
    ]
    wrong = 'import aisle\n\naisle.open_index(3).search(top_k="ten")\n'

    found = check(tmp_path, [*(block.text for block in blocks), wrong])

    assert len(blocks) >= 3
    complaints = [line for line in found.stdout.splitlines() if ": error:" in line]
    assert [line.split(":")[0].rpartition("/")[2] for line in complaints] == [
        f"block_{len(blocks)}.py"
    ] * 2, found.stdout + found.stderr
