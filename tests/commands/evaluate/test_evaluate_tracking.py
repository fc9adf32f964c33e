"""infer_index.py evaluate --with_tracking: the report in the experiment trackers."""

import io
import json
import shutil

import numpy as np
import pytest
from matplotlib import image

from aisle.evaluation.document import Evaluation
from aisle.reporting.html import scalars_of, tables_of
from aisle.reporting.model_card.search_section import BEGIN
from tests.commands.evaluate.evaluated_shop import evaluate
from tests.commands.launch import start_ranks
from tests.tracked_runs import read_tensorboard, read_wandb


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def document(found):
    return Evaluation.from_dict({name: found[name] for name in Evaluation.__dataclass_fields__})


def pixels_of(content):
    return np.rint(image.imread(io.BytesIO(content), format="png")[..., :3] * 255)


def test_trackers_get_the_scalars_tables_and_figures_of_the_report(run_flags, trained, tmp_path, capfd):
    report = tmp_path / "report"
    code, found, said = evaluate(
        capfd, *run_flags, "--pairs", trained["pairs"], "--report", report,
        "--with_tracking", "--report_to", "tensorboard,wandb",
    )  # fmt: skip

    assert code == 0
    assert f"tracked with tensorboard, wandb in {report / 'tracking'}" in " ".join(said.split())
    written = {"report.html", "report.json", "figures", "to_judge.csv", "tracking"}
    assert {path.name for path in report.iterdir()} == written
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


def test_each_evaluation_is_a_separate_tracked_run(judged, tmp_path, capfd, monkeypatch):
    given = [*judged, "--report", tmp_path, "--with_tracking", "--report_to", "tensorboard"]
    for second in (1, 2):
        monkeypatch.setattr("aisle.commands.evaluate.run.replace", dated(second))
        assert evaluate(capfd, *given)[0] == 0

    folders = sorted(path.name for path in (tmp_path / "tracking").iterdir())
    assert folders == ["20261121204501", "20261121204502"]
    assert read_tensorboard(tmp_path / "tracking" / folders[1]).Tags()["scalars"]


def dated(second):
    """Return a function like `dataclasses.replace` that also sets the date of an evaluation."""
    from dataclasses import replace

    def replaced(evaluation, **changes):
        date = f"2026-11-21T20:45:{second:02}+00:00"
        return replace(evaluation, provenance=replace(evaluation.provenance, date=date), **changes)

    return replaced


def test_a_tracker_that_cannot_start_does_not_stop_the_evaluation(judged, tmp_path, capfd, monkeypatch):
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
    ],
)
def test_wrong_tracking_flags_are_refused_before_anything_is_embedded(
    run_flags, given, message, never_embeds, capfd, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, found, said = evaluate(capfd, *run_flags, *given)

    assert (code, found) == (2, None)
    assert message in said
    assert not (tmp_path / "r").exists()


def test_tracking_is_refused_if_no_tracker_is_installed(
    run_flags, never_embeds, capfd, tmp_path, monkeypatch
):
    monkeypatch.setattr("aisle.training.accelerator.TRACKER_PACKAGES", {"wandb": "no_such_package"})
    code, found, said = evaluate(capfd, *run_flags, "--report", tmp_path / "r", "--with_tracking")

    assert (code, found) == (2, None)
    assert "--with_tracking: no tracker is installed; pip install 'aisle-search[track]'" in said
    assert not (tmp_path / "r").exists()


def test_two_processes_write_one_card_and_one_tracked_run(trained, run_dir, judged, tmp_path):
    shutil.copytree(trained["index"], tmp_path / "index")
    given = ["evaluate", "--index_dir", tmp_path / "index", *judged[2:], "--model", run_dir, "--model_card"]
    report = tmp_path / "report"

    done = start_ranks(
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
