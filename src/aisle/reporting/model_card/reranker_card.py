"""Render the model card of a reranker: metadata for the Hub, results, and code to paste."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCardData

from aisle.reporting.markdown import table
from aisle.reporting.model_card.card import REPO_PLACEHOLDER, base_model_name

FIGURES = {
    "roc_auc": "ROC-AUC",
    "average_precision": "Average precision",
    "served_ndcg@10": "nDCG@10 of the served list, reranked",
    "unranked_ndcg@10": "nDCG@10 of the served list, as the search returns it",
}
SETTINGS = {
    "loss": "Loss",
    "positive_weight": "Weight of positives",
    "learning_rate": "Peak learning rate",
    "lr_scheduler_type": "Schedule",
    "num_train_epochs": "Epochs",
    "max_train_steps": "Steps at most",
    "per_device_train_batch_size": "Pairs per process and batch",
    "gradient_accumulation_steps": "Batches per step",
    "lora_rank": "LoRA rank",
    "seed": "Seed",
}
SNIPPET = """from sentence_transformers import CrossEncoder

model = CrossEncoder("{repo}")
pairs = [("waterproof running shoes", "Trail running shoe with a membrane")]
print(model.predict(pairs))  # probabilities: the sigmoids of the logits"""


def render_reranker_card(
    *, reranker: Mapping[str, object], settings: Mapping[str, object], metrics: Mapping[str, Any]
) -> str:
    """Return the README.md of a reranker's run: YAML metadata and Markdown, without absolute paths.

    Args:
        reranker: Contents of aisle.json.
        settings: Contents of config.yaml.
        metrics: Contents of metrics.json.
    """
    hub_id = reranker.get("base_model_hub_id")
    metadata = ModelCardData(
        base_model=str(hub_id) if hub_id else None,
        library_name="sentence-transformers",
        pipeline_tag="text-ranking",
        tags=["cross-encoder", "reranker", "product-search", "aisle"],
    )
    sections = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {REPO_PLACEHOLDER.rpartition('/')[2]}",
        f"A reranker (cross-encoder) for product search, fine-tuned from {base_model_name(reranker)} with "
        f"aisle ({reranker['trained']}). It reads a query and a product together and gives a score. It reads "
        f"at most {reranker['max_length']} tokens of a pair; a longer pair loses tokens of its longer text.",
        "## Results",
        _results(metrics),
        "## How it was trained",
        table(["setting", "value"], _settings(settings)),
        "## How to use it",
        f"```python\n{SNIPPET.format(repo=REPO_PLACEHOLDER)}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def _results(metrics: Mapping[str, Any]) -> str:
    base, best = metrics.get("base") or {}, metrics.get("best") or {}
    rows = [
        [title, _figure(base.get(name)), _figure(best.get(name))]
        for name, title in FIGURES.items()
        if best.get(name) is not None
    ]
    if not rows:
        return "Not measured."
    pairs = f"{metrics.get('validation_pairs'):,} validation pairs:"
    return f"{pairs}\n\n{table(['metric', 'before training', 'after training'], rows)}"


def _figure(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) and math.isfinite(value) else "not measured"


def _settings(settings: Mapping[str, object]) -> list[list[str]]:
    without = {"lora_rank"} if not settings.get("use_peft") else set()
    return [
        [title, str(settings[name])]
        for name, title in SETTINGS.items()
        if settings.get(name) is not None and name not in without
    ]
