"""infer_index.py evaluate --report: groups, changed queries, curves, and the provenance of the figures."""

import hashlib
import json
import shlex
import shutil

import numpy as np
import pytest

from aisle.cli import index_main
from aisle.commands.evaluate.reproducibility import command_of
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.evaluate.training_curves import training_curves
from aisle.config.load import parse_settings
from aisle.errors import EvaluationError
from aisle.index import open_index
from aisle.models.loading import load_encoder
from aisle.reporting.product_labels import product_labels
from tests.commands.evaluate.evaluated_shop import evaluate, write_table
from tests.commands.launch import start_ranks


@pytest.fixture
def lexical_beats_base(flags, capfd):
    return evaluate(capfd, *flags, "--mode", "lexical", "--rows", "bm25", "base")[1]


def test_report_json_equals_the_printed_json_document(flags, capfd, tmp_path):
    code, found, said = evaluate(capfd, *flags, "--report", tmp_path / "report")

    assert code == 0
    assert f"report: {tmp_path / 'report' / 'report.html'}" in " ".join(said.split())
    written = json.loads((tmp_path / "report" / "report.json").read_text())
    assert written == {name: found[name] for name in written}
    assert "ndcg@10" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8").lower()


@pytest.mark.parametrize("name", ["queries.csv", "queries.csv/report"])
def test_a_report_path_that_is_not_a_folder_is_refused_before_anything_is_embedded(
    flags, shop, capfd, monkeypatch, name
):
    monkeypatch.setattr("aisle.commands.evaluate.run.load_models", lambda *_, **__: pytest.fail("loaded"))

    code, found, said = evaluate(capfd, *flags, "--report", shop["queries"].parent / name)

    assert (code, found) == (2, None)
    assert f"--report {shop['queries'].parent / name}" in " ".join(said.split())
    assert f"{shop['queries']} is not a folder" in " ".join(said.split())


def test_tables_and_json_document_are_printed_if_the_report_fails(flags, capfd, monkeypatch, tmp_path):
    def fail(*_):
        raise EvaluationError("the disk is full")

    monkeypatch.setattr("aisle.reporting.html.write_report", fail)

    code, found, said = evaluate(capfd, *flags, "--report", tmp_path / "report")

    assert code == 2
    assert found["retrieval"]["queries"] == 4
    assert "the disk is full" in said
    assert "precision@1" in said


def test_the_groups_of_queries_come_from_the_columns_of_the_file(lexical_beats_base):
    found = lexical_beats_base["slices"]

    sizes = {(part["by"], part["label"]): part["queries"] for part in found}
    assert sizes["query length", "1-2 words"] == 3
    assert sizes["query length", "5+ words"] == 1
    # relevance for query 3: table 1; for query 4: bed 1, table 0.1
    assert {key: value for key, value in sizes.items() if key[0] == "department"} == {
        ("department", "living"): 2,
        ("department", "light"): 1,
        ("department", "sleep"): 1,
    }
    assert {key[0] for key in sizes} == {"query length", "word frequency", "department"}


def test_a_column_with_a_single_value_does_not_group_queries(shop, flags, capfd, tmp_path):
    one = write_table(
        tmp_path / "one.tsv", ["query-id", "corpus-id", "score"], [("1", "a", 1), ("4", "c", 1)], "\t"
    )
    chosen = ["--mode", "lexical", "--rows", "bm25", "base", "--slice_column", "department"]

    _, found, _ = evaluate(capfd, *flags[:-1], one, *chosen)

    assert {part["by"] for part in found["slices"]} == {"query length", "word frequency"}


def test_changed_queries_show_titles_and_judgements(lexical_beats_base):
    changed = (*lexical_beats_base["improved"], *lexical_beats_base["worsened"])
    per_query = {change["query_id"]: change for change in changed}

    for change in lexical_beats_base["improved"]:
        assert change["tuned"] > change["base"]
    for change in lexical_beats_base["worsened"]:
        assert change["tuned"] < change["base"]
    # BM25 finds no zeppelin, the base model ranks everything
    assert per_query["3"]["after"] == []
    assert len(per_query["3"]["before"]) == 6
    titles = {answer["product_id"]: answer["title"] for answer in per_query["3"]["before"]}
    assert (
        titles.items()
        <= {
            "a": "red sofa",
            "b": "blue lamp",
            "c": "oak table",
            "d": "oak bed",
            "e": "garden chair",
            "f": "wool rug",
        }.items()
    )
    relevance = {answer["product_id"]: answer["relevance"] for answer in per_query["3"]["before"]}
    assert {product: 1.0 if product == "c" else None for product in relevance} == relevance


def test_heat_maps_show_the_cosines_of_base_and_tuned(flags, shop, tiny_bert, capfd):
    _, found, _ = evaluate(capfd, *flags)

    maps = {one["system"]: one for one in found["heatmaps"]}
    assert list(maps) == ["base", "tuned"]
    for name, model in (("base", tiny_bert), ("tuned", shop["run"])):
        encoder = load_encoder(str(model), device="cpu")
        expected = (
            encoder.encode_queries(maps[name]["queries"]) @ encoder.encode_products(maps[name]["products"]).T
        )
        np.testing.assert_allclose(maps[name]["scores"], expected, atol=1e-5)
    assert maps["base"]["queries"] == ["red sofa", "blue lamp", "zeppelin", "oak bed for two people"]
    assert maps["base"]["products"] == ["red sofa", "blue lamp", "oak table", "oak bed"]
    assert maps["base"]["relevance"] == [
        [1.0, None, None, None],
        [None, 1.0, None, None],
        [None, None, 1.0, None],
        [None, None, 0.1, 1.0],
    ]


def test_the_evaluation_has_the_measured_curve_of_the_index(flags, shop, capfd):
    _, found, _ = evaluate(capfd, *flags, "--ef_search", 6)

    curve = open_index(shop["index"]).manifest.recall_curve
    assert [(point["ef_search"], point["recall"]) for point in found["ann"]] == [
        (point.ef_search, point.recall) for point in curve
    ]
    assert found["ef_search"] == 6
    assert found["ann_recall_at_10"] == 1.0


def test_products_are_shown_by_title_or_text_or_id(shop):
    index = open_index(shop["index"])

    assert product_labels(index, title_column=None, slice_columns=None).titles(["b", "gone"]) == {
        "b": "blue lamp",
        "gone": "gone",
    }
    by_department = product_labels(index, title_column="department", slice_columns=())
    assert by_department.titles(["b"]) == {"b": "light"}


def test_provenance_names_inputs_by_their_checksums(flags, shop, capfd):
    _, found, _ = evaluate(capfd, *flags, "--seed", 3, "--resamples", 100)

    made = found["provenance"]
    inputs = {entry["role"]: entry for entry in made["inputs"]}
    for role, path in (
        ("queries", shop["queries"]),
        ("judgements", shop["qrels"]),
        ("index", shop["index"] / "manifest.json"),
    ):
        content = path.read_bytes()
        assert inputs[role]["sha256"] == hashlib.sha256(content).hexdigest()
        assert inputs[role]["size"] == len(content)
    assert (made["seed"], made["resamples"]) == (3, 100)
    assert set(made["versions"]) >= {"aisle", "python", "torch", "transformers", "numpy"}
    assert made["configuration"]["rows"] == ["bm25", "base", "tuned", "hybrid"]
    assert made["configuration"]["hybrid_weight"] == pytest.approx(0.5, abs=0.5)
    assert made["date"].endswith("+00:00")


def test_the_command_in_the_report_gives_the_same_settings():
    given = ["--index_dir", "my index", "--queries", "q.csv", "--qrels", "r.tsv", "--cutoffs", "1", "5"]
    given += ["--rows", "bm25", "tuned", "--label_map", "E=1,S=0.1", "--hybrid_weight", "0.3"]
    settings = parse_settings(EvaluateSettings, [*given, "--trust_remote_code"], prog="evaluate")
    words = shlex.split(command_of(settings))

    assert words[:3] == ["python", "infer_index.py", "evaluate"]
    assert parse_settings(EvaluateSettings, words[3:], prog="evaluate") == settings


def test_curves_of_a_run_come_from_its_log_and_metrics(tmp_path):
    lines = [{"step": 10, "loss": 0.5}, {"step": 20, "loss": None}, {"step": 30, "loss": 0.25}]
    log = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4'
    (tmp_path / "log.jsonl").write_text(log)
    metrics = {"base": {"roc_auc": 0.6, "note": None}, "history": [{"step": 30, "roc_auc": 0.75}]}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))

    loss, roc_auc = training_curves(str(tmp_path))

    assert (loss.name, loss.steps, loss.values) == ("loss", (10, 30), (0.5, 0.25))
    assert (roc_auc.name, roc_auc.steps, roc_auc.values) == ("roc_auc", (0, 30), (0.6, 0.75))


def test_infinite_and_nan_losses_are_left_out_of_the_curve(tmp_path):
    lines = ['{"step": 1, "loss": 0.5}', '{"step": 2, "loss": NaN}', '{"step": 3, "loss": Infinity}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")

    (loss,) = training_curves(str(tmp_path))

    assert (loss.steps, loss.values) == ((1,), (0.5,))


def test_a_model_that_is_not_a_run_has_no_curves(tiny_bert):
    assert training_curves(str(tiny_bert)) == ()
    assert training_curves("owner/on-the-hub") == ()


def test_two_processes_give_the_figures_of_one_and_log_once(shop, flags, tmp_path):
    shutil.copytree(shop["index"], tmp_path / "index")
    given = ["evaluate", "--index_dir", tmp_path / "index", *flags[2:], "--json"]
    done = start_ranks(2, "infer_index.py", *given, "--report", tmp_path / "two")
    assert done.stdout.count('"retrieval"') == 1
    two = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert index_main([*map(str, given[:3]), *map(str, flags[2:]), "--report", str(tmp_path / "one")]) == 0
    one = json.loads((tmp_path / "one" / "report.json").read_text())
    assert two["retrieval"] == one["retrieval"]
    assert two["heatmaps"] == one["heatmaps"]
    assert done.stderr.count("4 queries, 6 products") == 1
