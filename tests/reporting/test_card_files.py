"""The card and its charts in the run's folder."""

import json
import os

import pytest
import yaml

from aisle.errors import ModelError
from aisle.reporting.model_card import (
    card_charts,
    check_card,
    read_card,
    remove_card_charts,
    render_model_card,
    write_search_results,
)
from tests.reporting.test_card import ENCODER, METRICS, SETTINGS
from tests.reporting.test_search_section import RESULTS, SECOND


@pytest.fixture
def run_dir(tmp_path):
    """A finished run without a card."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "aisle.json").write_text(json.dumps(ENCODER))
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS))
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    return folder


def test_a_run_without_a_card_gets_the_card_of_training(run_dir):
    expected = render_model_card(encoder=ENCODER, settings=SETTINGS, metrics=METRICS, repo_id=None)

    assert read_card(run_dir) == expected
    check_card(run_dir)
    assert not (run_dir / "README.md").exists()


def test_metrics_and_settings_may_be_missing(run_dir):
    for name in ("config.yaml", "metrics.json"):
        (run_dir / name).unlink()

    assert read_card(run_dir) == render_model_card(encoder=ENCODER, settings={}, metrics={}, repo_id=None)


def test_a_damaged_file_of_the_run_is_named(run_dir):
    (run_dir / "metrics.json").write_text("{")

    with pytest.raises(ModelError, match=r"metrics\.json: cannot be read"):
        read_card(run_dir)


def test_a_card_is_read_with_its_line_ends(run_dir):
    (run_dir / "README.md").write_bytes(b"# Mine\r\n\r\nf\xc3\xbcr\n")

    assert read_card(run_dir) == "# Mine\r\n\r\nf\u00fcr\n"


def test_charts_that_the_card_no_longer_shows_are_removed(run_dir):
    write_search_results(run_dir, RESULTS, {"retrieval": b"1", "roc": b"2"})
    (run_dir / "evaluation" / "mine.png").write_bytes(b"3")

    path = write_search_results(run_dir, SECOND, {"retrieval": b"4"})

    assert path == run_dir / "README.md"
    charts = {chart.name: chart.read_bytes() for chart in (run_dir / "evaluation").iterdir()}
    assert charts == {"retrieval.png": b"4", "mine.png": b"3"}
    assert "roc.png" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("locked", [".", "evaluation"])
def test_a_folder_that_may_not_be_written_is_refused_before_anything_is(locked, run_dir, monkeypatch):
    (run_dir / "evaluation").mkdir()
    folder = run_dir / locked
    # Root may write everywhere, so that permissions of the file system would not show it.
    monkeypatch.setattr("os.access", lambda path, mode: path != folder or not mode & os.W_OK)

    with pytest.raises(ModelError) as raised:
        check_card(run_dir)

    assert str(raised.value) == f"--model_card: {folder} cannot be written; make the run's folder writable"


@pytest.mark.parametrize(
    ("name", "said"), [("README.md", "must be a file"), ("evaluation", "must be a folder for the charts")]
)
def test_a_file_or_folder_in_place_of_the_card_or_its_charts_is_named(name, said, run_dir):
    if name == "README.md":
        (run_dir / name).mkdir()
    else:
        (run_dir / name).write_text("a file")

    with pytest.raises(ModelError, match=f"--model_card: .*{name} {said}"):
        check_card(run_dir)


def test_only_the_card_s_own_images_count_as_charts(run_dir):
    write_search_results(run_dir, RESULTS, {"retrieval": b"1", "roc": b"2"})
    (run_dir / "evaluation" / "mine.png").write_bytes(b"3")

    assert [path.name for path in card_charts(run_dir)] == ["retrieval.png", "roc.png"]
    remove_card_charts(run_dir)
    assert [path.name for path in (run_dir / "evaluation").iterdir()] == ["mine.png"]

    (run_dir / "evaluation" / "mine.png").unlink()
    remove_card_charts(run_dir)
    assert not (run_dir / "evaluation").exists()
    remove_card_charts(run_dir)


def test_the_charts_are_there_before_the_card_shows_them(run_dir, monkeypatch):
    seen = []

    def replace_text(path, text):
        seen.extend(sorted(chart.name for chart in (run_dir / "evaluation").iterdir()))

    monkeypatch.setattr("aisle.reporting.model_card.card_files.replace_text", replace_text)
    write_search_results(run_dir, RESULTS, {"retrieval": b"1", "roc": b"2"})

    assert seen == ["retrieval.png", "roc.png"]
