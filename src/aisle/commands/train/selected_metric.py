"""The metric that selects a run's best evaluation."""

from __future__ import annotations

from aisle.commands.train.reranker_settings import RerankerSettings
from aisle.commands.train.settings import TrainSettings
from aisle.training.score_evaluation import SERVED_NDCG
from aisle.training.selection import SELECTION_METRICS


def selected_metric(settings: TrainSettings) -> str:
    """Return the metric that selects the best evaluation of a run, higher is better.

    An encoder's is set by --selection, which is resolved before. A reranker's is the nDCG of the list that
    will be served with --index_dir, otherwise ROC-AUC.
    """
    if isinstance(settings, RerankerSettings):
        return "roc_auc" if settings.served.index_dir is None else SERVED_NDCG
    return SELECTION_METRICS[settings.run.selection or "roc_auc"]
