"""An evaluation in the trackers, read back from their output."""

import io
import json
import re
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import pytest
from accelerate import Accelerator, tracking
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import LoggerType
from matplotlib import image

from aisle.errors import ConfigError
from aisle.reporting.html import scalars_of
from aisle.reporting.trackers import Tracked, track_report
from aisle.training import accelerator
from tests.reporting.evaluations import evaluation
from tests.tracked_runs import read_tensorboard, read_wandb

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
TRACKED = Tracked(
    scalars={"retrieval/tuned/ndcg@10": 0.521, "retrieval/tuned/ndcg@10/low": 0.5, "日本/a b": -1.0},
    tables={"retrieval": (("System", "nDCG@10"), (("a|b <i>", "0.521 [0.500, 0.541]"), ("日本", "none")))},
    images={"retrieval": PIXELS},
)
PLAIN_SCALARS = {"retrieval/tuned/ndcg_at_10": 0.521, "retrieval/tuned/ndcg_at_10_low": 0.5, "日本/a b": -1.0}


@pytest.fixture(autouse=True)
def fresh_accelerate(monkeypatch):
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)


def track(folder, report_to, said=None, tracked=TRACKED):
    said = [] if said is None else said
    settings = {"seed": 3, "report": None, "cutoffs": (1, 10)}
    track_report(tracked, report_to=report_to, folder=folder, settings=settings, log=said.append)


def test_tensorboard_has_scalars_tables_and_images(tmp_path):
    track(tmp_path / "runs", "tensorboard")

    events = read_tensorboard(tmp_path / "runs")
    assert {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]} == pytest.approx(
        TRACKED.scalars
    )
    assert {event.step for name in TRACKED.scalars for event in events.Scalars(name)} == {0}
    (text,) = events.Tensors("tables/retrieval/text_summary")[0].tensor_proto.string_val
    assert text.decode() == (
        "| System | nDCG@10 |\n| --- | --- |\n| a\\|b &lt;i> | 0.521 [0.500, 0.541] |\n| 日本 | none |"
    )
    (found,) = events.Images("figures/retrieval")
    assert (found.width, found.height) == (30, 20)
    shares = image.imread(io.BytesIO(found.encoded_image_string), format="png")
    np.testing.assert_array_equal(np.rint(shares * 255), PIXELS)


def test_wandb_offline_has_scalars_tables_and_images(tmp_path):
    track(tmp_path / "runs", "wandb")

    run = read_wandb(tmp_path / "runs")
    assert {name: run.logged[name] for name in TRACKED.scalars} == TRACKED.scalars
    assert run.logged["_step"] == 0
    assert run.exit_code == 0
    assert {name: run.config[name] for name in ("seed", "report", "cutoffs")} == {
        "seed": 3, "report": "None", "cutoffs": "(1, 10)",
    }  # fmt: skip
    table = json.loads((run.files / run.logged["tables/retrieval.path"]).read_text())
    assert table["columns"] == ["System", "nDCG@10"]
    assert table["data"] == [["a|b <i>", "0.521 [0.500, 0.541]"], ["日本", "none"]]
    (name,) = run.logged["figures/retrieval.filenames"]
    shares = image.imread(run.files / name)
    np.testing.assert_array_equal(np.rint(shares[..., :3] * 255), PIXELS)


class FakeTracker:
    """A tracker that records its input, like Accelerate's trackers without tables."""

    def __init__(self, name="mlflow", *, start=None, log=None, finish=None):
        self.name, self.failures, self.calls = name, {"start": start, "log": log, "finish": finish}, []

    def _note(self, call, *given):
        self.calls.append((call, *given))
        if self.failures[call] is not None:
            raise self.failures[call]

    def start(self):
        self._note("start")

    def log(self, values, step):
        self._note("log", values, step)

    def finish(self):
        self._note("finish")


def with_trackers(monkeypatch, *trackers):
    """Replace Accelerate's trackers of the same names."""
    named = {tracker.name: tracker for tracker in trackers}

    def init(started, project, settings, init_kwargs):
        for kind in started.log_with:
            started.trackers.append(named[str(kind)])
            named[str(kind)].start()

    monkeypatch.setattr(Accelerator, "init_trackers", init)
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: list(map(LoggerType, named)))
    monkeypatch.setattr(accelerator, "TRACKER_PACKAGES", dict.fromkeys(named, "json"))  # installed
    return ",".join(named)


def test_other_trackers_get_only_scalars_and_a_note_is_logged(tmp_path, monkeypatch):
    other, said = FakeTracker(), []
    report_to = with_trackers(monkeypatch, other)

    track(tmp_path, report_to, said)

    assert other.calls == [("start",), ("log", PLAIN_SCALARS, 0), ("finish",)]
    assert said == [
        f"tracked with mlflow in {tmp_path}",
        "mlflow: scalars only; tables and figures go to wandb and tensorboard",
    ]


def test_mlflow_is_given_no_name_that_it_refuses(tmp_path, monkeypatch):
    mlflow = FakeTracker()
    report_to = with_trackers(monkeypatch, mlflow)
    scalars = {name: float(at) for at, name in enumerate(scalars_of(evaluation()))}
    scalars["retrieval/index+2 (old)/ndcg@10"] = 0.5

    track(tmp_path, report_to, tracked=replace(TRACKED, scalars=scalars))

    (_, given, _) = mlflow.calls[1]
    assert [name for name in given if re.fullmatch(r"[/\w.\- :]*", name) is None] == []
    assert [name for name in given if any(str(group) in given for group in PurePath(name).parents)] == []
    assert list(given.values()) == list(scalars.values())
    assert given["retrieval/index_2 _old_/ndcg_at_10"] == 0.5
    assert given["difference/tuned/ndcg_at_10_p_corrected"] == scalars["difference/tuned/ndcg@10/p_corrected"]


@pytest.mark.parametrize("call", ["start", "log", "finish"])
def test_a_failing_tracker_gives_one_message_and_the_others_get_everything(call, tmp_path, monkeypatch):
    broken = FakeTracker("aim", **{call: OSError("No space left on device")})
    before, after, said = FakeTracker("dvclive"), FakeTracker("mlflow"), []
    report_to = with_trackers(monkeypatch, before, broken, after)

    with pytest.raises(ConfigError) as raised:
        track(tmp_path, report_to, said)

    assert str(raised.value) == (
        "--with_tracking: the evaluation did not reach aim (OSError: No space left on device). Log in to it "
        "first, choose another with --report_to, or set WANDB_MODE=offline"
    )
    for other in (before, after):
        assert other.calls == [("start",), ("log", PLAIN_SCALARS, 0), ("finish",)]
    assert said[0] == f"tracked with dvclive, mlflow in {tmp_path}"


@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_tracker_that_fails_to_log_is_not_left_open(failure, tmp_path, monkeypatch):
    broken = FakeTracker("aim", log=failure, finish=RuntimeError("not this"))
    report_to = with_trackers(monkeypatch, broken)

    with pytest.raises((ConfigError, KeyboardInterrupt)) as raised:
        track(tmp_path, report_to)

    assert broken.calls[-1] == ("finish",)
    assert "not this" not in str(raised.value)


def test_a_tracker_without_a_key_leaves_the_others_the_whole_evaluation(tmp_path, monkeypatch):
    import wandb

    def fail(**_):
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "init", fail)
    with pytest.raises(ConfigError, match=r"did not reach wandb \(UsageError: No API key configured\)"):
        track(tmp_path, "all")

    events = read_tensorboard(tmp_path)
    assert set(events.Tags()["scalars"]) == set(TRACKED.scalars)
    assert events.Images("figures/retrieval")


def test_a_compute_type_of_the_launch_environment_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    track(tmp_path, "tensorboard")

    assert set(read_tensorboard(tmp_path).Tags()["scalars"]) == set(TRACKED.scalars)
