"""An evaluation in the trackers, read back from what they wrote."""

import io
import json

import numpy as np
import pytest
from accelerate.state import AcceleratorState, GradientState, PartialState
from matplotlib import image

from aisle.errors import ConfigError
from aisle.training import report_tracking
from aisle.training.report_tracking import Tracked, track_report
from tests.tracked_runs import read_tensorboard, read_wandb

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
TRACKED = Tracked(
    scalars={"retrieval/tuned/ndcg@10": 0.521, "retrieval/tuned/ndcg@10/low": 0.5, "日本/a b": -1.0},
    tables={"retrieval": (("System", "nDCG@10"), (("a|b <i>", "0.521 [0.500, 0.541]"), ("日本", "none")))},
    images={"retrieval": PIXELS},
)


@pytest.fixture(autouse=True)
def fresh_accelerate(monkeypatch):
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)


def track(folder, report_to, said=None):
    said = [] if said is None else said
    settings = {"seed": 3, "report": None, "cutoffs": (1, 10)}
    track_report(TRACKED, report_to=report_to, folder=folder, settings=settings, say=said.append)


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
    """A tracker that notes what it is given; Accelerate has several that take no tables."""

    def __init__(self, name="mlflow", failure=None):
        self.name, self.failure, self.calls = name, failure, []

    def log(self, values, step):
        if self.failure is not None:
            raise self.failure
        self.calls.append((values, step))

    def finish(self):
        self.calls.append("finish")


def with_trackers(monkeypatch, *trackers):
    def start(accelerator, settings):
        accelerator.trackers = list(trackers)

    monkeypatch.setattr(report_tracking, "start_trackers", start)


def test_other_trackers_get_the_scalars_alone_and_that_is_said(tmp_path, monkeypatch):
    other, said = FakeTracker(), []
    with_trackers(monkeypatch, other)

    track(tmp_path, "tensorboard", said)

    assert other.calls == [(TRACKED.scalars, 0), "finish"]
    assert said == ["mlflow: the scalars alone; tables and figures go to wandb and tensorboard"]


def test_a_tracker_that_fails_is_one_message_and_the_others_have_it_all(tmp_path, monkeypatch):
    broken, other = FakeTracker("aim", OSError("No space left on device")), FakeTracker()
    with_trackers(monkeypatch, broken, other)

    with pytest.raises(ConfigError) as raised:
        track(tmp_path, "tensorboard")

    assert str(raised.value) == (
        "--with_tracking: the evaluation did not reach aim (OSError: No space left on device)"
    )
    assert other.calls == [(TRACKED.scalars, 0), "finish"]
