"""infer_index.py evaluate --with_tracking and --model_card: the trackers and the run's model card."""

import io
import json
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard
from matplotlib import image

from aisle.cli import train_main
from aisle.errors import ModelError
from aisle.evaluation.document import Evaluation
from aisle.evaluation.html_report import headline_of, scalars_of, tables_of
from aisle.model_card.search_section import BEGIN, END
from aisle.pipelines.evaluation.outlets import write_card
from tests.evaluation.evaluations import evaluation as made_up
from tests.evaluation.evaluations import retrieval
from tests.pipelines.evaluation.evaluated_shop import build, evaluate, write_adapter, write_shop, write_table
from tests.pipelines.launch import torchrun
from tests.tracked_runs import read_tensorboard, read_wandb

PAIRS = [
    ("red sofa", "red sofa", 1), ("red sofa", "blue lamp", 0), ("oak bed", "oak bed", 1),
    ("oak bed", "oak table", 0), ("blue lamp", "blue lamp", 1), ("blue lamp", "wool rug", 0),
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tiny_bert, tmp_path_factory):
    """A finished run, its index, and the files of the shop."""
    folder = tmp_path_factory.mktemp("shop")
    files = write_shop(folder)
    files["pairs"] = write_table(folder / "pairs.csv", ["query", "product", "relevance"], PAIRS)
    files["run"] = folder / "run"
    given = {
        "--model_name_or_path": tiny_bert, "--train_file": files["pairs"], "--output_dir": files["run"],
        "--max_train_steps": 2, "--max_length": 16, "--learning_rate": 0.01,
    }  # fmt: skip
    assert train_main(["--use_peft", *(str(word) for flag in given.items() for word in flag)]) == 0
    files["index"] = build(files["run"], files["catalog"], folder / "index", "--precision", "fp32")
    return files


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy of the run, to be written in."""
    return shutil.copytree(trained["run"], tmp_path / "run")


@pytest.fixture
def judged(trained):
    return ["--index_dir", trained["index"], "--queries", trained["queries"], "--qrels", trained["qrels"]]


@pytest.fixture
def flags(judged, run_dir):
    return [*judged, "--model", run_dir]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.fixture
def never_embeds(monkeypatch):
    def fail(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr("aisle.pipelines.evaluation.evaluate.load_models", fail)


def document(found):
    return Evaluation.from_dict({name: found[name] for name in Evaluation.__dataclass_fields__})


def pixels_of(content):
    return np.rint(image.imread(io.BytesIO(content), format="png")[..., :3] * 255)


def test_trackers_get_the_scalars_tables_and_figures_of_the_report(flags, trained, tmp_path, capfd):
    report = tmp_path / "report"
    code, found, said = evaluate(
        capfd, *flags, "--pairs", trained["pairs"], "--report", report,
        "--with_tracking", "--report_to", "tensorboard,wandb",
    )  # fmt: skip

    assert code == 0
    assert f"tracked with tensorboard, wandb in {report / 'tracking'}" in " ".join(said.split())
    assert {path.name for path in report.iterdir()} == {"report.html", "report.json", "figures", "tracking"}
    evaluation = document(found)
    charts = {path.stem: path.read_bytes() for path in (report / "figures").iterdir()}
    assert {"retrieval", "roc", "recall_by_ef"} <= set(charts)
    events, run = read_tensorboard(report), read_wandb(report)
    scalars = scalars_of(evaluation)
    assert scalars["retrieval/tuned/ndcg@10"] == next(
        row.metrics["ndcg@10"].value for row in evaluation.retrieval.rows if row.name == "tuned"
    )
    assert {name: run.logged[name] for name in scalars} == scalars
    assert {name: events.Scalars(name)[0].value for name in scalars} == pytest.approx(scalars, rel=1e-6)
    assert set(events.Tags()["scalars"]) == set(scalars)
    for name, table in tables_of(evaluation).items():
        written = json.loads((run.files / run.logged[f"tables/{name}.path"]).read_text())
        assert (tuple(written["columns"]), tuple(map(tuple, written["data"]))) == (table.header, table.rows)
        assert events.Tensors(f"tables/{name}/text_summary")
    for name, content in charts.items():
        (shown,) = run.logged[f"figures/{name}.filenames"]
        np.testing.assert_array_equal(pixels_of((run.files / shown).read_bytes()), pixels_of(content))
        (event,) = events.Images(f"figures/{name}")
        np.testing.assert_array_equal(pixels_of(event.encoded_image_string), pixels_of(content))
    assert run.config["queries"] == str(trained["queries"])
    assert run.config["fingerprint"] == found["provenance"]["configuration"]["fingerprint"]


def test_each_evaluation_is_a_run_of_its_own(judged, tmp_path, capfd, monkeypatch):
    given = [*judged, "--report", tmp_path, "--with_tracking", "--report_to", "tensorboard"]
    for second in (1, 2):
        monkeypatch.setattr("aisle.pipelines.evaluation.evaluate.replace", dated(second))
        assert evaluate(capfd, *given)[0] == 0

    folders = sorted(path.name for path in (tmp_path / "tracking").iterdir())
    assert folders == ["20261121204501", "20261121204502"]
    assert read_tensorboard(tmp_path / "tracking" / folders[1]).Tags()["scalars"]


def dated(second):
    """Return `dataclasses.replace` that gives an evaluation a date as well."""
    from dataclasses import replace

    def replaced(evaluation, **changes):
        date = f"2026-11-21T20:45:{second:02}+00:00"
        return replace(evaluation, provenance=replace(evaluation.provenance, date=date), **changes)

    return replaced


def test_a_tracker_that_cannot_start_costs_nothing_but_itself(judged, tmp_path, capfd, monkeypatch):
    from accelerate import Accelerator

    def fail(*_, **__):
        raise RuntimeError("No API key configured")

    monkeypatch.setattr(Accelerator, "init_trackers", fail)
    code, found, said = evaluate(
        capfd, *judged, "--report", tmp_path / "report", "--with_tracking", "--report_to", "wandb"
    )

    assert code == 2
    assert "No API key configured" in said
    assert "4 queries, 6 products" in said
    assert found["retrieval"]["queries"] == 4
    assert (tmp_path / "report" / "report.html").is_file()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--with_tracking"], "--with_tracking: needs --report"),
        (["--with_tracking", "--report", "r", "--report_to", "wandbb"], "there is no tracker 'wandbb'"),
        (["--with_tracking", "--report", "r", "--report_to", ""], "--report_to: is empty"),
        (["--model_card", "--rows", "bm25", "base"], "--model_card: is about the row tuned"),
        (["--model_card", "--mode", "lexical"], "--model_card: is about the row tuned"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_embedded(
    flags, given, message, never_embeds, capfd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, found, said = evaluate(capfd, *flags, *given)

    assert (code, found) == (2, None)
    assert message in said
    assert not (tmp_path / "r").exists()


def test_all_trackers_are_refused_where_none_is_installed(flags, never_embeds, capfd, tmp_path, monkeypatch):
    monkeypatch.setattr("aisle.training.accelerator.TRACKER_PACKAGES", {"wandb": "no_such_package"})
    code, found, said = evaluate(capfd, *flags, "--report", tmp_path / "r", "--with_tracking")

    assert (code, found) == (2, None)
    assert "--with_tracking: no tracker is installed; pip install 'aisle[track]'" in said
    assert not (tmp_path / "r").exists()


def test_a_card_needs_rankings(trained, run_dir, never_embeds, capfd):
    code, _, said = evaluate(capfd, "--model", run_dir, "--pairs", trained["pairs"], "--model_card")

    assert code == 2
    assert "--model_card: needs --queries and --qrels" in said


def test_the_card_of_the_run_gets_sentence_table_and_charts(flags, run_dir, tmp_path, capfd):
    before = (run_dir / "README.md").read_text(encoding="utf-8")
    code, found, said = evaluate(capfd, *flags, "--model_card", "--report", tmp_path / "report")

    assert code == 0
    assert f"model card: {run_dir / 'README.md'}" in " ".join(said.split())
    card = (run_dir / "README.md").read_text(encoding="utf-8")
    evaluation = document(found)
    section = card[card.index(BEGIN) : card.index(END)]
    assert headline_of(evaluation) in section
    assert "4 judged queries over a catalogue of 6 products" in section
    lines = section.splitlines()
    table = tables_of(evaluation)["retrieval"]
    assert f"| {' | '.join(table.header)} |" in lines
    assert [f"| {' | '.join(row)} |" in lines for row in table.rows] == [True] * 4
    for name in ("retrieval", "recall_by_ef"):
        assert f"](evaluation/{name}.png)" in section
        drawn = (tmp_path / "report" / "figures" / f"{name}.png").read_bytes()
        assert (run_dir / "evaluation" / f"{name}.png").read_bytes() == drawn
    assert {path.name for path in (run_dir / "evaluation").iterdir()} == {"retrieval.png", "recall_by_ef.png"}
    measured = {result.metric_name: result.metric_value for result in ModelCard(card).data.eval_results}
    tuned = next(row for row in evaluation.retrieval.rows if row.name == "tuned")
    assert measured["nDCG@10"] == pytest.approx(tuned.metrics["ndcg@10"].value, abs=1e-6)
    assert str(tmp_path) not in card
    body = before[before.index("\n# ") :]
    assert card.replace(card[card.index(BEGIN) : card.index(END) + len(END) + 2], "").endswith(body)


def test_a_second_evaluation_replaces_section_and_charts(flags, trained, run_dir, capfd):
    evaluate(capfd, *flags, "--model_card")
    readme = run_dir / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8") + "\nMine.\n", encoding="utf-8")
    code, _, _ = evaluate(capfd, *flags, "--pairs", trained["pairs"], "--model_card", "--rows", "tuned")

    assert code == 0
    card = readme.read_text(encoding="utf-8")
    assert card.count("## Search over a catalogue") == 1
    assert "\n| bm25 |" not in card
    assert "](evaluation/roc.png)" in card
    assert {path.name for path in (run_dir / "evaluation").iterdir()} == {"retrieval.png", "roc.png"}
    assert card.endswith("\nMine.\n")


def test_a_run_without_a_card_gets_one(flags, run_dir, capfd):
    whole = (run_dir / "README.md").read_text(encoding="utf-8")
    evaluate(capfd, *flags, "--model_card")
    expected = (run_dir / "README.md").read_text(encoding="utf-8")
    assert expected != whole
    (run_dir / "README.md").unlink()

    code, _, _ = evaluate(capfd, *flags, "--model_card")

    assert code == 0
    assert (run_dir / "README.md").read_text(encoding="utf-8") == expected


def test_a_card_with_line_ends_of_windows_keeps_them(flags, run_dir, capfd):
    readme = run_dir / "README.md"
    readme.write_bytes(readme.read_bytes().replace(b"\n", b"\r\n"))

    assert evaluate(capfd, *flags, "--model_card")[0] == 0

    card = readme.read_bytes()
    assert BEGIN.encode() in card
    assert card.count(b"\n") == card.count(b"\r\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe", "README.md: cannot be read as UTF-8"),
        (b"---\na: [\n---\n", "README.md: its metadata is not valid YAML"),
        (BEGIN.encode(), "README.md: must have the line"),
    ],
    ids=["not UTF-8", "no YAML", "half a section"],
)
def test_a_card_that_cannot_be_written_in_is_refused_before_anything_is_embedded(
    flags, run_dir, content, reason, never_embeds, capfd
):
    (run_dir / "README.md").write_bytes(content)
    code, found, said = evaluate(capfd, *flags, "--model_card")

    assert (code, found) == (2, None)
    assert reason in said
    assert (run_dir / "README.md").read_bytes() == content


def test_a_run_that_cannot_be_written_in_is_refused_before_anything_is_embedded(
    flags, run_dir, never_embeds, capfd
):
    (run_dir / "evaluation").write_text("a file where the folder should be")
    code, found, said = evaluate(capfd, *flags, "--model_card")

    assert (code, found) == (2, None)
    assert f"--model_card: {run_dir / 'evaluation'} must be a folder for the charts" in " ".join(said.split())


def test_a_card_without_a_row_of_its_model_is_not_written(run_dir):
    before = (run_dir / "README.md").read_bytes()
    without = retrieval(systems=(("bm25", "bm25"), ("base", "base")))

    with pytest.raises(ModelError, match=r"--model_card: is about the row tuned.* has only bm25, base;"):
        write_card(run_dir, made_up(retrieval=without), without)

    assert (run_dir / "README.md").read_bytes() == before
    assert not (run_dir / "evaluation").exists()


def test_an_encoder_that_is_no_finished_run_is_refused(judged, tiny_bert, tmp_path, never_embeds, capfd):
    adapter = write_adapter(tmp_path / "adapter", tiny_bert)
    for model in (adapter, "acme/search"):
        code, found, said = evaluate(capfd, *judged, "--model", model, "--model_card")
        assert (code, found) == (2, None)
        assert f"--model_card: {model} is not the folder of a finished run (it has no aisle.json)" in said


def test_a_card_that_cannot_be_saved_costs_nothing_but_itself(flags, run_dir, capfd, tmp_path):
    (run_dir / "evaluation" / "retrieval.png").mkdir(parents=True)
    code, found, said = evaluate(capfd, *flags, "--model_card", "--report", tmp_path / "report")

    assert code == 2
    assert f"--model_card: {run_dir} cannot be written: Is a directory" in said
    assert found["retrieval"]["queries"] == 4
    assert (tmp_path / "report" / "report.html").is_file()
    assert BEGIN not in (run_dir / "README.md").read_text(encoding="utf-8")


def test_a_run_that_replaces_another_has_none_of_its_charts(flags, trained, run_dir, tiny_bert, capfd):
    evaluate(capfd, *flags, "--model_card")
    assert (run_dir / "evaluation").is_dir()
    given = [
        "--use_peft", "--model_name_or_path", tiny_bert, "--train_file", trained["pairs"], "--max_length", 16,
        "--output_dir", run_dir, "--overwrite_output_dir", "--max_train_steps", 1, "--learning_rate", 0.01,
    ]  # fmt: skip

    assert train_main(list(map(str, given))) == 0

    assert not (run_dir / "evaluation").exists()
    assert BEGIN not in (run_dir / "README.md").read_text(encoding="utf-8")


def test_a_report_in_the_folder_of_the_charts_outlives_the_run(flags, trained, run_dir, tiny_bert, capfd):
    folder = run_dir / "evaluation"
    evaluate(capfd, *flags, "--model_card", "--report", folder)
    reported = {path.name for path in (folder / "figures").iterdir()}
    (folder / "mine.png").write_bytes(b"mine")
    given = [
        "--use_peft", "--model_name_or_path", tiny_bert, "--train_file", trained["pairs"], "--max_length", 16,
        "--output_dir", run_dir, "--overwrite_output_dir", "--max_train_steps", 1, "--learning_rate", 0.01,
    ]  # fmt: skip

    assert train_main(list(map(str, given))) == 0

    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "figures", "mine.png"}
    assert {path.name for path in (folder / "figures").iterdir()} == reported


def test_two_processes_write_one_card_and_one_tracked_run(trained, run_dir, judged, tmp_path):
    shutil.copytree(trained["index"], tmp_path / "index")
    given = ["evaluate", "--index_dir", tmp_path / "index", *judged[2:], "--model", run_dir, "--model_card"]
    report = tmp_path / "report"

    done = torchrun(
        2, "infer_index.py", *given, "--report", report, "--with_tracking", "--report_to", "tensorboard"
    )

    assert done.stdout.count("tracked with tensorboard") == 1
    (folder,) = (report / "tracking").iterdir()
    found = json.loads((report / "report.json").read_text())
    expected = scalars_of(Evaluation.from_dict(found))["retrieval/tuned/ndcg@10"]
    (event,) = read_tensorboard(folder).Scalars("retrieval/tuned/ndcg@10")
    assert event.value == pytest.approx(expected, rel=1e-6)
    card = (run_dir / "README.md").read_text(encoding="utf-8")
    assert card.count(BEGIN) == 1
