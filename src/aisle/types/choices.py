"""Choices that flags offer and several packages use: pooling, search, selection, number formats."""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = [
    "OWN_COLUMNS",
    "AdapterKind",
    "FunctionKind",
    "Fusion",
    "HeadActivation",
    "HeadKind",
    "MinScore",
    "PoolingMode",
    "SearchMode",
    "Selection",
    "StoreDtype",
    "TrainFormat",
]

PoolingMode = Literal["mean", "cls", "last"]
"""How a text's token vectors become one embedding."""
HeadKind = Literal["none", "skip_connection", "gated", "widening", "stacked_projection", "linear", "mlp"]
"""Layers to train on top of an encoder."""
HeadActivation = Literal["relu", "gelu", "silu", "tanh"]
"""Activation between the layers of a head."""
FunctionKind = Literal["linear", "low_rank", "mlp"]
"""Function of query embeddings that is trained for an index."""
AdapterKind = Literal["linear", "low_rank", "mlp", "lora"]
"""Query adapter of an index: a function of query embeddings, or a query tower that was trained with LoRA."""
SearchMode = Literal["dense", "lexical", "hybrid"]
"""Search by embeddings, by words with BM25, or by both."""
Fusion = Literal["convex", "rrf"]
"""How hybrid search combines both: by weighted scores, or by reciprocal ranks."""
MinScore: TypeAlias = float | Literal["calibrated"]
"""Lowest score of a product to show: a number, or the score with a given probability of relevance."""
Selection = Literal["roc_auc", "spearman", "retrieval", "joint_pool"]
"""How training chooses its best evaluation: by ROC-AUC or rank correlation of pairs, by retrieval, or by the
joint pool of pairs."""
StoreDtype = Literal["float32", "float16"]
"""Number format of stored embeddings."""
TrainFormat = Literal["auto", "pairs", "triples", "nli", "dpr", "simpletransformers"]
"""Layout of the rows of training data."""
OWN_COLUMNS: tuple[TrainFormat, ...] = ("dpr", "simpletransformers")
"""Training formats with columns of their own; all their pairs are positives."""
