import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from aisle.errors import EvaluationError
from aisle.evaluation import metrics


def test_roc_auc_over_batches_equals_roc_auc_at_once():
    metric = metrics.RocAuc()
    metric.add_batch(prediction_scores=np.array([0.9, 0.7], dtype=np.float32), references=[1.0, 0.0])
    metric.add_batch(prediction_scores=[0.5, 0.1], references=[1, 0])

    assert metric.compute() == {"roc_auc": 0.75}


def test_a_metric_starts_empty_after_computing():
    metric = metrics.RocAuc()
    metric.compute(prediction_scores=[0.9, 0.1], references=[0.0, 1.0])

    assert metric.compute(prediction_scores=[0.9, 0.1], references=[1.0, 0.0]) == {"roc_auc": 1.0}


def test_every_metric_gives_its_own_figures():
    inputs = {"prediction_scores": [0.9, 0.7, 0.5, 0.1], "references": [1.0, 0.0, 1.0, 0.1]}

    assert metrics.AveragePrecision().compute(**inputs) == {"average_precision": pytest.approx(5 / 6)}
    assert metrics.BestF1().compute(**inputs) == {"best_f1": 0.8, "best_f1_threshold": 0.5}
    # ranks of the scores 4 3 2 1, of the grades 3.5 1 3.5 2
    assert metrics.Spearman().compute(**inputs) == {"spearman": pytest.approx(1.0 / (5**0.5 * 4.5**0.5))}


def test_threshold_reaches_the_computation():
    inputs = {"prediction_scores": [0.9, 0.5, 0.1], "references": [0.1, 1.0, 0.0]}

    assert metrics.RocAuc().compute(**inputs) == {"roc_auc": 0.5}
    assert metrics.RocAuc().compute(**inputs, positive_threshold=0.1) == {"roc_auc": 1.0}


def test_one_class_is_none_rather_than_a_warning():
    assert metrics.RocAuc().compute(prediction_scores=[0.9, 0.1], references=[1, 1]) == {"roc_auc": None}


def test_nan_scores_are_refused():
    with pytest.raises(EvaluationError, match="scores must be finite"):
        metrics.RocAuc().compute(prediction_scores=[float("nan"), 0.1], references=[1, 0])


def test_metrics_are_evaluate_metrics_that_pickle():
    import evaluate

    assert issubclass(metrics.RocAuc, evaluate.Metric)
    assert pickle.loads(pickle.dumps(metrics.RocAuc)) is metrics.RocAuc
    assert metrics.RocAuc().name == "roc_auc"


def test_an_unknown_metric_is_an_attribute_error():
    with pytest.raises(AttributeError, match="RocAux"):
        _ = metrics.RocAux


def test_metrics_work_offline_and_leave_nothing_behind(tmp_path):
    code = """
from aisle.evaluation.metrics import RocAuc
print(RocAuc().compute(prediction_scores=[.9, .1], references=[1, 0]))
"""
    places = {name: str(tmp_path / "cache") for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "TMPDIR")}
    (tmp_path / "cache").mkdir()
    environment = {**os.environ, **places, "HF_HUB_OFFLINE": "1"}

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout.strip(), done.returncode) == ("{'roc_auc': 1.0}", 0), done.stderr
    assert list((tmp_path / "cache").rglob("*")) == []


def test_the_package_works_without_importing_torch():
    code = """
import sys
import numpy as np
from aisle.evaluation import changes, comparison, joint_pool, metrics
from aisle.evaluation import pair_comparison, pair_metrics, retrieval_metrics, runs
pair_metrics.score_pairs(np.array([.1, .2, .3]), np.array([0, .1, 1]))
runs.to_run(["q"], ["p"], [[0]], [[1.0]])
qrels = {"q": {"p": 1.0}}
retrieval_metrics.evaluate_run(qrels, qrels)
comparison.compare_runs({"a": qrels}, qrels, kinds={"a": "base"}, base="a", products=1, known_products=["p"])
pair_comparison.compare_pairs({"a": np.array([.1, .2, .3])}, np.array([0, .1, 1]), kinds={"a": "base"})
print(sorted(name for name in ("torch", "transformers", "evaluate", "datasets") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
