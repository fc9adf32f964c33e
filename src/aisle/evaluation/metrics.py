"""`evaluate.Metric` classes over judged pairs that work offline.

    from aisle.evaluation.metrics import RocAuc

    roc_auc = RocAuc()
    roc_auc.add_batch(prediction_scores=scores, references=relevance)
    roc_auc.compute()  # {"roc_auc": 0.93}

`RocAuc`, `AveragePrecision`, `BestF1` and `Spearman` take the inputs of the Hub's `roc_auc`:
`prediction_scores` (finite, higher means more relevant) and `references` (relevance in [0, 1]);
`compute` also accepts `positive_threshold`. `aisle.evaluation.pair_metrics.score_pairs` computes the
figures and documents the threshold. An undefined figure is None.

The classes are created on first use, because importing `evaluate` imports transformers and
torch (4 s).
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from aisle.evaluation.pair_metrics import score_pairs

__all__ = ["AveragePrecision", "BestF1", "RocAuc", "Spearman"]

AveragePrecision: type[Any]
BestF1: type[Any]
RocAuc: type[Any]
Spearman: type[Any]

_FIGURES: Mapping[str, tuple[str, ...]] = {
    "AveragePrecision": ("average_precision",),
    "BestF1": ("best_f1", "best_f1_threshold"),
    "RocAuc": ("roc_auc",),
    "Spearman": ("spearman",),
}

_INPUTS = """
Args:
    prediction_scores: Finite scores, higher means more relevant.
    references: Relevance in [0, 1].
    positive_threshold: Lowest relevance of a positive pair; None means above 0.5.
"""


def __getattr__(name: str) -> type[Any]:
    """Return the metric class with this name; it is created on first use."""
    if name not in _FIGURES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _metric_class(name)


@functools.cache
def _metric_class(name: str) -> type[Any]:
    import datasets
    import evaluate

    class PairMetric(evaluate.Metric):  # type: ignore[misc]
        def __init__(self) -> None:
            # Metric creates a folder for Arrow files even if it keeps everything in memory; a temporary
            # folder leaves the user's cache untouched.
            with tempfile.TemporaryDirectory() as scratch:
                super().__init__(keep_in_memory=True, cache_dir=scratch)

        def _info(self) -> Any:
            number = datasets.Value("float64")
            return evaluate.MetricInfo(
                description=f"{' and '.join(_FIGURES[name])} of scores on judged pairs.",
                citation="",
                inputs_description=_INPUTS,
                features=datasets.Features({"prediction_scores": number, "references": number}),
            )

        def _compute(
            self,
            prediction_scores: list[float],
            references: list[float],
            positive_threshold: float | None = None,
        ) -> dict[str, float | None]:
            found = score_pairs(
                np.asarray(prediction_scores), np.asarray(references), positive_threshold=positive_threshold
            )
            return {figure: getattr(found, figure) for figure in _FIGURES[name]}

    PairMetric.__name__ = PairMetric.__qualname__ = name
    PairMetric.__module__ = __name__
    return PairMetric
