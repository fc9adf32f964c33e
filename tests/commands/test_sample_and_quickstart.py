"""`aisle sample`, and `aisle quickstart` with a tiny model and two steps, from a wheel elsewhere."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aisle.cli import main
from aisle.config.recipes import recipe_names

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "README.md",
    "products.csv",
    "queries.csv",
    "qrels.tsv",
    "train.csv",
    "validation.csv",
    "validation_qrels.tsv",
    "test.csv",
    "nonsense.txt",
}


def sample(folder, *flags):
    return main(["sample", "--output_dir", str(folder), "--products", "600", *map(str, flags)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows_of(path):
    return len(path.read_text(encoding="utf-8").splitlines()) - 1


def test_a_sample_is_written_and_its_counts_are_printed(tmp_path, capfd):
    assert sample(tmp_path / "shop") == 0
    said = capfd.readouterr().out
    queries = rows_of(tmp_path / "shop" / "queries.csv")
    assert {path.name for path in (tmp_path / "shop").iterdir()} == FILES
    assert rows_of(tmp_path / "shop" / "products.csv") == 600
    assert f"600 synthetic products and {queries:,} judged queries in {tmp_path / 'shop'}" in said


def test_a_sample_that_is_there_is_replaced_only_with_overwrite(tmp_path, capfd):
    sample(tmp_path / "shop")
    before = contents(tmp_path / "shop")
    capfd.readouterr()
    assert sample(tmp_path / "shop", "--seed", 1) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert contents(tmp_path / "shop") == before
    assert sample(tmp_path / "shop", "--seed", 1, "--overwrite") == 0
    assert contents(tmp_path / "shop")["products.csv"] != before["products.csv"]


def test_json_gives_one_document_with_the_files_and_the_counts(tmp_path, capfd):
    assert sample(tmp_path / "shop", "--json") == 0
    said = capfd.readouterr()
    document = json.loads(said.out)
    assert document["product_count"] == 600
    assert document["query_count"] == rows_of(tmp_path / "shop" / "queries.csv")
    assert Path(document["products"]) == tmp_path / "shop" / "products.csv"
    assert "600 synthetic products" in said.err


def test_too_few_products_are_refused_with_the_rule(tmp_path, capfd):
    assert sample(tmp_path / "shop", "--products", 10) == 2
    message = capfd.readouterr().err
    assert "500" in message
    assert "10" in message
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a function that runs a program of an environment with aisle's wheel, in an empty folder.

    The environment shares the libraries of this one, but not the checkout.
    """
    folder = tmp_path_factory.mktemp("installed")
    source, empty, environment = folder / "source", folder / "empty", folder / "environment"
    empty.mkdir()
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    wheels = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(wheels, check=True)
    shutil.rmtree(source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    libraries = [place for place in sys.path if Path(place).name == "site-packages"]
    (site / "libraries.pth").write_text("\n".join(libraries))
    (wheel,) = folder.glob("aisle_search-*.whl")
    python = str(environment / "bin" / "python")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", str(wheel)], check=True)

    def run(program, *arguments):
        done = subprocess.run(
            [environment / "bin" / program, *map(str, arguments)],
            cwd=empty,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert list(empty.iterdir()) == []
        return done.stdout

    return run


def test_the_wheel_runs_as_a_program_and_as_a_module_outside_the_checkout(installed):
    where = installed("python", "-c", "import aisle; print(aisle.__file__, aisle.__version__)")
    place, version = where.split()
    recipes = installed("python", "-c", "from aisle.config.recipes import *; print(*recipe_names())")

    assert not Path(place).is_relative_to(ROOT)
    assert installed("aisle", "--version") == installed("python", "-m", "aisle", "--version")
    assert installed("aisle", "--version") == f"aisle {version}\n"
    assert recipes.split() == recipe_names()
    assert "--recipe" in installed("aisle", "quickstart", "--help")


@pytest.fixture(scope="module")
def quickstart(installed, tiny_bert, tmp_path_factory):
    """The folder of a quickstart's run with a tiny model, and its output."""
    folder = tmp_path_factory.mktemp("quickstart")
    recipe = yaml.safe_load(
        (ROOT / "src" / "aisle" / "recipes" / "quickstart.yaml").read_text(encoding="utf-8")
    )
    recipe |= {"model_name_or_path": str(tiny_bert), "max_length": 16}
    recipe |= {"max_train_steps": 2, "num_warmup_steps": 0}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    arguments = ["quickstart", "--output_dir", folder / "run", "--recipe", folder / "recipe.yaml"]
    return folder / "run", installed("aisle", *arguments)


@pytest.fixture(scope="module")
def document(quickstart):
    """The JSON document of the quickstart's report."""
    run_dir, _ = quickstart
    return json.loads((run_dir.with_name("run-report") / "report.json").read_text(encoding="utf-8"))


def test_the_quickstart_measures_every_system_on_rankings_and_pairs(document):
    assert [row["name"] for row in document["retrieval"]["rows"]] == ["bm25", "base", "tuned", "hybrid"]
    assert [row["name"] for row in document["pairs"]["rows"]] == ["base", "tuned"]
    assert set(document["pairs"]["rows"][0]["by_grade"]) == {"0.1", "0.01", "0"}
    assert document["training"] != []


def test_the_quickstart_leaves_the_run_s_own_metrics_as_training_wrote_them(quickstart):
    run_dir, _ = quickstart
    metrics = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["steps"] == 2
    assert metrics["best"]["step"] in {1, 2}


def test_the_quickstart_s_catalogue_is_neither_trivial_nor_hopeless_for_bm25(document):
    assert 0.3 < document["retrieval"]["rows"][0]["metrics"]["ndcg@10"]["value"] < 0.7


def test_the_quickstart_prints_changed_queries_the_report_and_the_next_commands(quickstart, document):
    run_dir, said = quickstart
    shown = [change["query"] for change in (*document["improved"][:2], *document["worsened"][:1])]
    assert len(shown) == 3
    assert all(f"“{query}”" in " ".join(said.split()) for query in shown)
    assert sum(line.split()[:2] == ["#", "base"] for line in said.splitlines()) == 3
    page = run_dir.with_name("run-report") / "report.html"
    assert page.is_file()
    assert page.resolve().as_uri() in said
    assert f"aisle query --index_dir {run_dir.with_name('run-index')} " in said
    assert f"aisle serve --demo --index_dir {run_dir.with_name('run-index')}\n" in said
    assert said.rstrip().splitlines()[-1].strip() == "make demo"
    assert "evaluation/retrieval.png" in (run_dir / "README.md").read_text(encoding="utf-8")
    assert "accelerate launch -m aisle train --use_peft --train_file pairs.csv --output_dir runs/mine" in said


def test_the_commands_that_the_quickstart_prints_export_the_model_and_answer_from_it(quickstart, installed):
    run_dir, said = quickstart
    bundle, index_dir = run_dir.with_name("run-bundle"), run_dir.with_name("run-index")
    printed = [shlex.split(line) for line in said.splitlines() if line.startswith("  aisle ")]
    export, answer = (words for words in printed if str(bundle) in words)
    assert export == ["aisle", "export", str(run_dir), "--output_dir", str(bundle)]
    assert answer[:-1] == ["aisle", "query", "--index_dir", str(index_dir), "--model", str(bundle)]

    installed(*export)
    (from_bundle,) = json.loads(installed(*answer, "--json"))
    (from_run,) = json.loads(installed("aisle", "query", "--index_dir", index_dir, answer[-1], "--json"))

    assert from_bundle["query"] == from_run["query"] == answer[-1]
    scores = [[hit["score"] for hit in found["results"]] for found in (from_bundle, from_run)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    products = [{hit["product_id"] for hit in found["results"]} for found in (from_bundle, from_run)]
    assert len(products[0] & products[1]) >= 9


def test_the_quickstart_prints_the_commands_that_it_runs(quickstart):
    run_dir, said = quickstart
    commands = [line for line in said.splitlines() if line.startswith("$ ")]
    assert len(commands) == 3
    assert commands[0].startswith("$ accelerate launch ")
    assert f"--output_dir {run_dir}" in commands[0]
    assert commands[1].startswith(f"$ aisle build --model {run_dir} ")
    assert commands[2].startswith("$ aisle evaluate --index_dir ")
    assert f"--report {run_dir.with_name('run-report')}" in commands[2]


def test_a_missing_recipe_is_one_message_and_nothing_is_written(tmp_path, capfd):
    recipe = tmp_path / "absent.yaml"
    assert main(["quickstart", "--output_dir", str(tmp_path / "run"), "--recipe", str(recipe)]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: --recipe {recipe}: there is no such file")
    assert list(tmp_path.iterdir()) == []
