"""The core without extras searches an index, in a separate environment, and names the extra for the rest."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import pytest

from tests.bundle.small_bundle import write_small_bundle

PROJECT = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "index" / "fixtures"
NOT_IN_THE_CORE = ("torch", "transformers", "peft", "accelerate", "datasets", "evaluate", "ranx", "sklearn")
NOT_IN_THE_CORE += ("scipy", "matplotlib", "jinja2", "pandas", "numba", "huggingface_hub", "tokenizers")
ANSWERS = json.loads((FIXTURES / "index_of_format_3.json").read_text(encoding="utf-8"))
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """The scripts' folder of an environment with aisle's core, installed as a user installs it."""
    return installed(tmp_path_factory.mktemp("core"))


@pytest.fixture
def with_onnx(core):
    """The same environment with the extra `onnx`; only the last test of the module may use it."""
    install(core, f"{core.parents[1] / 'source'}[onnx]")
    return core


def installed(folder):
    """Install aisle in a new environment and return the folder of its scripts."""
    source = folder / "source"
    shutil.copytree(
        PROJECT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    venv.create(folder / "env", symlinks=os.name != "nt")
    scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
    install(scripts, source)
    return scripts


def install(scripts, what):
    """Install something in an environment, without bytecode."""
    pip = [sys.executable, "-m", "pip", "--python", scripts / "python"]
    flags = ["-q", "--disable-pip-version-check", "--no-compile", "-c", PROJECT / "constraints.txt"]
    subprocess.run([*pip, "install", *flags, what], env=ENVIRONMENT, check=True)


@pytest.fixture
def index_dir(tmp_path):
    with tarfile.open(FIXTURES / "index_of_format_3.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "index"


def run(core, program, *arguments):
    command = [core / program, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def answer(core, *arguments):
    """Return the JSON document that a command of the core prints."""
    done = run(core, "aisle", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_python(core, code, *arguments):
    """Return what a program prints as JSON."""
    done = run(core, "python", "-c", code, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_no_heavy_library_is_installed(core):
    code = """
import importlib.util, json, sys
print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name)]))
"""

    assert in_python(core, code, *NOT_IN_THE_CORE) == []


def test_an_index_is_searched_by_vector_by_words_and_by_filter(core, index_dir):
    code = """
import json, sys
import aisle, numpy
queries, vectors, cases = json.loads(sys.argv[2])
index = aisle.open_index(sys.argv[1])
vectors = numpy.array(vectors, numpy.float32)
found = {
    name: index.search(vectors, queries=queries, top_k=5, **how).product_ids.tolist()
    for name, how in cases.items()
}
print(json.dumps(found))
"""
    cases = {
        "dense": {},
        "exact": {"exact": True},
        "lexical": {"mode": "lexical"},
        "hybrid": {"mode": "hybrid"},
        "filtered": {"where": "price <= 30"},
    }

    given = json.dumps([ANSWERS["queries"], ANSWERS["query_embeddings"], cases])
    found = in_python(core, code, index_dir, given)

    assert found == {name: ANSWERS[name]["ids"] for name in cases}


def test_a_search_by_vector_imports_no_more_than_it_needs(core, index_dir):
    """Each of the others would be a part of every program's start: pydantic alone takes 0.1 s."""
    code = """
import json, sys
import aisle, numpy
index = aisle.open_index(sys.argv[1])
index.search(numpy.eye(1, index.dim, dtype=numpy.float32), top_k=1)
print(json.dumps([name for name in sys.modules if not name.startswith("_")]))
"""
    loaded = in_python(core, code, index_dir)

    libraries = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    needed = {"aisle", "hnswlib", "numpy", "pyarrow", "pydantic_core", "typing_extensions", "xxhash"}
    analyser = {"Stemmer", "regex"}  # opening an index checks that it can split queries into words
    of_pyarrow = {"cloudpickle", "cython_runtime"}
    assert libraries - needed - analyser - of_pyarrow == set()
    unused = ("builder", "compact_retune", "filters", "upsert_delete", "version_history", "writer")
    assert set(loaded) & {f"aisle.index.{name}" for name in unused} == set()


def test_an_index_is_built_and_changed_by_vectors(core, tmp_path):
    code = """
import json, sys
import numpy, pyarrow
from aisle.index import build_index, delete_products, open_index, upsert_products
axes = numpy.eye(8, dtype=numpy.float32)
build_index(
    sys.argv[1], product_ids=["a", "b", "c"], payload=pyarrow.table({"title": ["red", "green", "blue"]}),
    embeddings=[axes[:3]], dim=8, fingerprint="f" * 64, encoder={}, text_template=None,
)
added = pyarrow.table({"product_id": ["d"], "title": ["black"]})
upsert_products(sys.argv[1], products=added, embeddings=[axes[3:4]], fingerprint="f" * 64)
delete_products(sys.argv[1], ["b"])
index = open_index(sys.argv[1])
print(json.dumps([len(index), index.search(axes[[0, 3]], top_k=1).product_ids[:, 0].tolist()]))
"""

    assert in_python(core, code, tmp_path / "index") == [3, ["a", "d"]]


def test_the_commands_search_and_keep_an_index(core, index_dir):
    found = answer(
        core, "query", "--index_dir", index_dir, "--mode", "lexical", "--top_k", 5, *ANSWERS["queries"]
    )
    expected = [[product for product in ids if product is not None] for ids in ANSWERS["lexical"]["ids"]]
    assert [[hit["product_id"] for hit in query["results"]] for query in found] == expected

    folder = ("--index_dir", index_dir)
    assert [made["command"] for made in answer(core, "versions", *folder)["versions"]] == [
        *("build", "upsert", "delete")
    ]
    assert answer(core, "verify", *folder)["ok"] is True
    assert answer(core, "rollback", *folder)["version_before"] == 3
    assert answer(core, "info", *folder)["version"] == 2


def test_every_command_explains_itself(core):
    code = """
import contextlib, io, json
import aisle.cli
codes = {}
for name in aisle.cli.COMMANDS:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            codes[name] = aisle.cli.main([name, "--help"])
        except SystemExit as end:
            codes[name] = end.code
print(json.dumps(codes))
"""
    codes = in_python(core, code)

    assert {"train", "query", "rollback"} <= set(codes)
    assert codes == dict.fromkeys(codes, 0)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["train", "--train_file", __file__, "--output_dir", "run"], "train"),
        (["build", "--model", "m", "--catalog", __file__, "--index_dir", "i"], "encode"),
        (["upsert", "--index_dir", "INDEX", "--catalog", __file__], "encode"),
        (["query", "--index_dir", "INDEX", "red lamp"], "encode"),
        (["evaluate", "--index_dir", "INDEX", "--queries", __file__, "--qrels", __file__], "eval"),
        (["average", "a", "b", "--output_dir", "c"], "encode"),
        (["merge", "a", "--output_dir", "b"], "encode"),
        (["push", "run"], "encode"),
        (["quickstart"], "quickstart"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else given,
)
def test_a_missing_extra_is_one_line_with_the_command_that_installs_it(core, index_dir, arguments, extra):
    done = run(core, "aisle", *[index_dir if word == "INDEX" else word for word in arguments])

    line = f"error: torch is not installed; install it with: pip install 'aisle-search[{extra}]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_a_missing_extra_is_the_same_error_in_python(core):
    code = """
import json
import aisle
try:
    aisle.load_encoder("all-MiniLM-L6-v2")
except aisle.errors.OptionalDependencyError as error:
    print(json.dumps(str(error)))
"""

    assert "pip install 'aisle-search[encode]'" in in_python(core, code)


def test_the_figure_of_the_start_is_made_by_its_benchmark(core, index_dir):
    """The figure itself depends on the machine, and stands in the docs."""
    flags = ["--index_dir", index_dir, "--runs", 1, "--query", "red lamp", "--flags=--mode lexical"]
    done = run(core, "python", PROJECT / "benchmarks" / "core_start.py", *flags)

    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["dim"] == len(ANSWERS["query_embeddings"][0])
    assert found["query"]["command"] == f"aisle query --index_dir {index_dir} --mode lexical 'red lamp'"


def test_without_the_onnx_extra_a_bundle_is_refused_with_the_command_that_installs_it(
    core, minilm_dir, tmp_path
):
    write_small_bundle(tmp_path / "bundle", minilm_dir)
    flags = ["--catalog", __file__, "--index_dir", tmp_path / "index"]

    done = run(core, "aisle", "build", "--model", tmp_path / "bundle", *flags)

    line = "error: onnxruntime is not installed; install it with: pip install 'aisle-search[onnx]'\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_the_onnx_extra_answers_from_a_bundle_in_400_mb_without_torch(with_onnx, minilm_dir, tmp_path):
    bundle, index_dir = tmp_path / "bundle", tmp_path / "index"
    write_small_bundle(bundle, minilm_dir)
    catalog = tmp_path / "catalog.csv"
    catalog.write_text("product_id,title\na,red sofa\nb,blue lamp\nc,oak table\n")

    answer(with_onnx, "build", "--model", bundle, "--catalog", catalog, "--index_dir", index_dir)
    found = answer(with_onnx, "query", "--index_dir", index_dir, "--top_k", 1, "blue lamp", "oak table")

    assert [query["results"][0]["product_id"] for query in found] == ["b", "c"]
    files = [path for path in with_onnx.parent.rglob("*") if path.is_file() and not path.is_symlink()]
    installed_bytes = sum(path.stat().st_size for path in files if path.suffix != ".pyc")
    assert installed_bytes < 400e6
    code = "import importlib.util, json; print(json.dumps(importlib.util.find_spec('torch') is None))"
    assert in_python(with_onnx, code)
