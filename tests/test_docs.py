"""The docs match the program: every command parses or runs, Python blocks run, links and flags exist."""

import ast
import json
import re
import shlex

import pytest
from markdown_it import MarkdownIt

from aisle.cli import index_main, main, train_main
from aisle.commands.command_list import COMMANDS, INDEX_COMMANDS
from tests.doc_commands import ROOT, blocks_of, commands_of, names_of, problem_of, problems_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FLAGS_OF_OTHERS = {
    *("config_file", "dynamo_backend", "help", "machine_rank"),
    *("node_rank", "num_cpu_threads_per_process", "quiet"),
}
SUBSTITUTES = {"all-MiniLM-L6-v2": "tiny_bert"}
"""Name in a command of the tutorial, or in a Python block -> fixture that replaces it."""
BLOCKS = [b for page in PAGES for b in blocks_of(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())]
COMMAND_BLOCKS = [block for block in BLOCKS if block.has_commands]
PYTHON_BLOCKS = [block for block in BLOCKS if block.language == "python" and block.comment is None]


def place_of(block):
    return block.place


@pytest.mark.parametrize("block", COMMAND_BLOCKS, ids=place_of)
def test_every_command_of_the_docs_is_accepted_by_its_own_parser(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert list(commands_of(block))
    assert problems_of(block) == []


@pytest.mark.parametrize("block", COMMAND_BLOCKS, ids=place_of)
def test_a_block_that_is_not_run_says_why(block):
    assert block.is_run or block.says_why_not


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("python infer_index.py query --index_dir x --top_q 3 sofa", "top_q"),
        ("python infer_index.py query --index_dir x --top_k 0 sofa", "--top_k: "),
        ("python infer_index.py build --model x", "index_dir"),
        ("aisle evaluate --index_dir x --queries q.csv", "--queries and --qrels: give both"),
        ("python infer_index.py train --output_dir x", "no command train"),
        ("accelerate launch train_peft.py --train_file x --output_dir y --loss in_bach", "in_bach"),
        ("accelerate launch train_peft.py --train_file x", "--output_dir: required"),
        ("accelerate launch --num_procs 2 train_peft.py --train_file x --output_dir y", "num_procs"),
        ("accelerate launch --config_file none.yaml train_peft.py --output_dir y", "none.yaml: no such file"),
        ("torchrun --nproc 2 --no_such 1 train_peft.py --train_file x --output_dir y", "no_such"),
        ("WANDB_MODE=offline aisle trian --output_dir x", "no command trian"),
        ("printf 'sofa' | python infer_index.py query --index_dir x --jsn", "jsn"),
        ("make quikstart", "no target quikstart"),
        ("pytest tests/no_such.py", "no such test"),
        ("wget example.org", "wget: add it"),
    ],
)
def test_a_made_up_block_with_a_mistake_is_found(command, complaint):
    (block,) = blocks_of(f"Text\n\n<!-- parsed -->\n```bash\n{command}  # why\n```\n", "docs/x.md")

    (problem,) = problems_of(block)

    assert problem.startswith("docs/x.md:4: ")
    assert complaint in problem


@pytest.mark.parametrize(
    "comment", ["", "<!-- slow -->", "<!-- needs: time -->", "<!-- run: tests/test_that_is_gone.py -->"]
)
def test_a_made_up_block_without_a_reason_is_found(comment):
    (block,) = blocks_of(f"{comment}\n```\naisle info --index_dir x\n```\n", "docs/how-to/x.md")

    assert block.has_commands
    assert not block.is_run
    assert not block.says_why_not


def test_of_a_session_only_the_lines_after_the_prompt_are_commands():
    (block,) = blocks_of(
        "```console\n$ aisle info \\\n    --index_dir x\nindex: 3 products\n```\n", "docs/x.md"
    )

    assert list(commands_of(block)) == [["aisle", "info", "--index_dir", "x"]]


@pytest.fixture(scope="module")
def tutorial_dir(tmp_path_factory, request):
    """Write the files of the tutorial, run its commands in order, and return the folder."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    stands_for = {name: str(request.getfixturevalue(fixture)) for name, fixture in SUBSTITUTES.items()}
    folder = tmp_path_factory.mktemp("tutorial")
    blocks = [block for block in BLOCKS if block.place.startswith("docs/tutorial.md")]
    for block in blocks:
        if block.title is not None:
            (folder / block.title).write_text(block.text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in [words for block in blocks if block.is_run for words in commands_of(block)]:
            assert words[0] == "python"
            script = {"train_peft.py": train_main, "infer_index.py": index_main}[words[1]]
            assert script([stands_for.get(word, word) for word in words[2:]]) == 0, shlex.join(words)
        for command, output_dir in (("merge", "runs/merged"), ("export", "runs/mine-bundle")):
            assert main([command, "runs/mine", "--output_dir", output_dir]) == 0
        reranker = ["--model_name_or_path", stands_for["all-MiniLM-L6-v2"], "--max_train_steps", "1"]
        reranker += ["--train_file", "judgements.csv", "--catalog", "products.csv", "--max_length", "32"]
        assert main(["train-reranker", *reranker, "--output_dir", "runs/reranker"]) == 0
        judged = ["--queries", "queries.csv", "--qrels", "qrels.csv", "--unjudged", "not_relevant"]
        assert main(["calibrate", "--index_dir", "runs/mine-index", *judged]) == 0
    return folder


def test_the_tutorial_ends_with_a_report_of_its_own_queries(tutorial_dir):
    (page,) = (tutorial_dir / "runs/mine-report").glob("*.html")

    assert page.name in (ROOT / "docs/tutorial.md").read_text("utf-8")
    assert "bm25" in page.read_text("utf-8").lower()


def test_no_query_of_the_tutorial_is_trained_on_and_judged(tutorial_dir):
    import pandas as pd

    pairs, products, queries, qrels = (
        pd.read_csv(tutorial_dir / f"{name}.csv") for name in ("judgements", "products", "queries", "qrels")
    )

    assert not set(pairs["query"]) & set(queries["query"])
    assert set(qrels["query_id"]) == set(queries["query_id"])
    assert set(qrels["product_id"]) <= set(products["product_id"])
    assert set(pairs["product_id"]) <= set(products["product_id"])


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=place_of)
def test_a_python_block_runs_where_the_tutorial_ended(block, tutorial_dir, monkeypatch, request):
    monkeypatch.chdir(tutorial_dir)
    code = block.text
    for name, fixture in SUBSTITUTES.items():
        code = code.replace(name, str(request.getfixturevalue(fixture)))
    exec(compile(code, block.place, "exec"), {})


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=place_of)
def test_a_json_block_is_json(block):
    assert json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_flag_that_is_named_in_a_sentence_exists(page):
    ours = {name for command in COMMANDS.values() for name in names_of(command)}
    scripts = "".join(path.read_text("utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    theirs = FLAGS_OF_OTHERS | set(re.findall(r'"--(\w+)"', scripts))
    inline = [
        c.content
        for t in MarkdownIt().enable("table").parse(page.read_text("utf-8"))
        for c in t.children or ()
    ]
    named_there = set(re.findall(r"(?<![\w-])--(\w+)", " ".join(inline)))

    turned_off = {f"no_{name}" for name in ours}  # of a switch: --cuda_graphs, --no_cuda_graphs
    assert named_there - ours - turned_off - theirs == set()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files_and_make_targets_exist(page):
    text = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    calls = re.findall(r"`(make [\w-]+)`", text)

    assert links or calls
    assert [link for link in links if not (ROOT / link).is_file()] == []
    assert [problem for call in calls if (problem := problem_of(call.split()))] == []


def test_commands_in_the_sentences_of_the_readme_are_accepted(monkeypatch):
    monkeypatch.chdir(ROOT)
    spans = re.findall(r"`(aisle \w+ [^`]*--[^`]*)`", (ROOT / "README.md").read_text("utf-8"))

    assert len(spans) > 4
    assert [problem for span in spans if (problem := problem_of(shlex.split(span)))] == []


def test_the_home_page_lists_every_command():
    rows = [row for row in (ROOT / "docs/index.md").read_text("utf-8").splitlines() if row.startswith("| ")]
    named = set(re.findall(r"`(?:\w+\.py |aisle )?([\w-]+)`", "\n".join(rows)))

    assert set(COMMANDS) - named == set()


@pytest.mark.parametrize("script", ["train_peft.py", "train_reranker.py", "infer_index.py"])
def test_the_commands_in_the_docstring_of_a_script_are_accepted(script, monkeypatch):
    monkeypatch.chdir(ROOT)
    docstring = ast.get_docstring(ast.parse((ROOT / script).read_text("utf-8")))
    commands = [shlex.split(line) for line in docstring.splitlines() if line.startswith("    ")]

    assert len(commands) > 2
    assert [problem for command in commands if (problem := problem_of(command))] == []


def test_the_list_of_commands_names_each(capsys):
    for entry, commands in ((main, COMMANDS), (index_main, INDEX_COMMANDS)):
        entry(["--help"])
        listed = re.findall(r"^  ([\w-]+)  ?", capsys.readouterr().out, re.MULTILINE)
        assert set(listed) == set(commands)
