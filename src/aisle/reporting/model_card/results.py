"""Validation figures of a run, for the card and the Hub."""

from __future__ import annotations

import math
from collections.abc import Mapping

from huggingface_hub import EvalResult

from aisle.reporting.markdown import table

__all__ = ["NOT_MEASURED", "eval_results", "results_section"]

NOT_MEASURED = "not measured"
_METRICS = {
    "roc_auc": ("ROC-AUC", "roc_auc"),
    "average_precision": ("Average precision", "average_precision"),
    "best_f1": ("Best F1", "f1"),
    "best_f1_threshold": ("Cosine at the best F1", None),
    "spearman": ("Spearman correlation", "spearmanr"),
    "mrr": ("MRR", "mrr"),
    "recall@10": ("Recall@10", "recall_at_10"),
    "ndcg@10": ("nDCG@10", "ndcg_at_10"),
    "precision@1": ("Precision@1", "precision_at_1"),
    "joint_pool_mrr": ("MRR in the joint pool", "mrr"),
    "joint_pool_precision@1": ("Precision@1 in the joint pool", "precision_at_1"),
}
"""{key in metrics.json: (name in the table, name in the Hub's model-index; None if it is not a score)}."""
_JUDGED = ("roc_auc", "average_precision", "best_f1", "best_f1_threshold")
"""Rows of a model that was validated on judged pairs, even if not measured."""
_RANKING = ("mrr", "joint_pool_mrr")
"""Metrics of a model that was validated without judgements."""


def eval_results(metrics: Mapping[str, object], *, data_set: str | None) -> list[EvalResult]:
    """Return the figures of the saved weights in the Hub's form."""
    best = _part(metrics, "best")
    return [
        EvalResult(
            task_type="sentence-similarity",
            task_name="Relevance of a product to a query",
            dataset_type=data_set or "judged-pairs",
            dataset_name=data_set or "judged validation pairs",
            dataset_split="validation",
            metric_type=hub_name,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for key, (name, hub_name) in _METRICS.items()
        if hub_name is not None and (value := _number(best, key)) is not None
    ]


def results_section(metrics: Mapping[str, object]) -> str:
    """Return the table that compares the base model with this model, and how the weights were chosen."""
    base, best = _part(metrics, "base"), _part(metrics, "best")
    judged = "roc_auc" in {*base, *best} or not {*_RANKING} & {*base, *best}
    shown = {*_JUDGED} if judged else set()
    known = [key for key in _METRICS if key in shown or _number(best, key) is not None]
    rows = [(_METRICS[key][0], _shown(base, key), _shown(best, key)) for key in known]
    step = best.get("step")
    selected_by = metrics.get("selection_metric", "roc_auc" if judged else "mrr")
    why = f"the best by {_METRICS[str(selected_by)][0]}" if selected_by else "the last step"
    chosen = f" The weights are from step {step}, {why}." if step is not None else ""
    notes = ["Cosines of validation pairs compared with their judgements."] if judged else []
    if (queries := _number(best, "ranked_queries")) and (products := _number(best, "ranked_products")):
        notes.append(f"{queries:,.0f} validation queries rank {products:,.0f} products each.")
    if _number(best, "joint_pool_mrr") is not None:
        notes.append("In the joint pool every validation query and product ranks all others.")
    note = f"{' '.join(notes)}{chosen}"
    return f"{note}\n\n{table(('Metric', 'Base model', 'This model'), rows)}"


def _part(metrics: Mapping[str, object], key: str) -> Mapping[str, object]:
    part = metrics.get(key)
    return part if isinstance(part, Mapping) else {}


def _number(values: Mapping[str, object], key: str) -> float | None:
    value = values.get(key)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None  # type: ignore[arg-type]


def _shown(values: Mapping[str, object], key: str) -> str:
    value = _number(values, key)
    return NOT_MEASURED if value is None else f"{value:.4f}"
