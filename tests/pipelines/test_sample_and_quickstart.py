"""`aisle sample`, and `aisle quickstart` with a tiny model and two steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from aisle.cli import main

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "README.md",
    "products.csv",
    "queries.csv",
    "qrels.tsv",
    "train.csv",
    "validation.csv",
    "test.csv",
}
METRICS = {"roc_auc", "recall@10", "mrr@10", "ndcg@10"}
SYSTEMS = ("base", "tuned", "bm25")


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
def quickstart(tiny_bert, tmp_path_factory):
    """The folder of a quickstart's run with a tiny model, and what was printed."""
    folder = tmp_path_factory.mktemp("quickstart")
    recipe = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8"))
    recipe |= {"model_name_or_path": str(tiny_bert), "max_length": 16}
    recipe |= {"max_train_steps": 2, "num_warmup_steps": 0}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    arguments = ["quickstart", "--output_dir", folder / "run", "--recipe", folder / "recipe.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "aisle.cli", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done.stdout


def test_the_quickstart_measures_three_systems_with_the_same_metrics(quickstart):
    run_dir, _ = quickstart
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert set(metrics) == {*SYSTEMS, "seconds", "training"}
    for system in SYSTEMS:
        assert set(metrics[system]) == METRICS
        assert all(0 <= value <= 1 for value in metrics[system].values())
    assert metrics["seconds"] > 0
    assert metrics["training"]["steps"] == 2


def test_the_quickstart_s_catalogue_is_neither_trivial_nor_hopeless_for_bm25(quickstart):
    run_dir, _ = quickstart
    assert 0.3 < json.loads((run_dir / "metrics.json").read_text())["bm25"]["ndcg@10"] < 0.7


def test_the_quickstart_measures_the_tuned_model_as_the_evaluate_command_does(quickstart, capfd):
    run_dir, _ = quickstart
    sample_dir = run_dir.with_name("run-sample")
    code = main(
        [
            *("evaluate", "--json", "--index_dir", str(run_dir.with_name("run-index"))),
            *("--queries", str(sample_dir / "queries.csv"), "--qrels", str(sample_dir / "qrels.tsv")),
        ]
    )
    evaluated = json.loads(capfd.readouterr().out)
    tuned = json.loads((run_dir / "metrics.json").read_text())["tuned"]
    assert code == 0
    for name in ("recall@10", "mrr@10", "ndcg@10"):
        assert evaluated[name] == pytest.approx(tuned[name], abs=1e-6)


def test_the_quickstart_prints_a_table_three_examples_and_the_next_commands(quickstart):
    run_dir, said = quickstart
    lines = said.splitlines()
    header = next(line for line in lines if "ndcg@10" in line)
    assert header.split() == ["roc_auc", "recall@10", "mrr@10", "ndcg@10"]
    below = lines[lines.index(header) + 2 : lines.index(header) + 5]
    assert [line.split()[0] for line in below] == list(SYSTEMS)
    assert [line.split() for line in lines].count(["#", "base", "tuned"]) == 3
    index_dir, sample_dir = (run_dir.with_name(f"run-{end}") for end in ("index", "sample"))
    for command in (
        f"python infer_index.py query --index_dir {index_dir} ",
        f"--queries {sample_dir / 'queries.csv'} --qrels {sample_dir / 'qrels.tsv'}",
        "accelerate launch train_peft.py --use_peft --train_file pairs.csv --output_dir runs/mine",
    ):
        assert command in said


def test_the_quickstart_prints_the_commands_that_it_runs(quickstart):
    run_dir, said = quickstart
    commands = [line for line in said.splitlines() if line.startswith("$ ")]
    assert len(commands) == 2
    assert commands[0].startswith("$ accelerate launch ")
    assert f"--output_dir {run_dir}" in commands[0]
    assert commands[1].startswith(f"$ python infer_index.py build --model {run_dir} ")


def test_a_missing_recipe_is_one_message_and_nothing_is_written(tmp_path, capfd):
    recipe = tmp_path / "absent.yaml"
    assert main(["quickstart", "--output_dir", str(tmp_path / "run"), "--recipe", str(recipe)]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: --recipe {recipe}: there is no such file")
    assert list(tmp_path.iterdir()) == []
