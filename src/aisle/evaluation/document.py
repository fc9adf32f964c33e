"""The results of an evaluation as plain values, for the report and `evaluate --json`.

Every class is immutable and holds only JSON-ready values. `Evaluation.to_dict` gives the JSON document, and
`Evaluation.from_dict` reads it back, so that a report can be drawn again from its own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from aisle.evaluation.provenance import InputFile, Provenance
from aisle.types.score_calibration import Calibration

__all__ = [
    "AnnPoint",
    "Answer",
    "Curve",
    "Difference",
    "Estimate",
    "Evaluation",
    "GraphLoss",
    "Heatmap",
    "Histogram",
    "InputFile",
    "JointPoolRow",
    "Pairs",
    "PairsRow",
    "Provenance",
    "QueryChange",
    "Retrieval",
    "RetrievalRow",
    "Slice",
    "SystemKind",
    "TrainingCurve",
]

SystemKind = Literal["bm25", "base", "tuned", "hybrid", "other"]


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% bootstrap interval; all None if the figure is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """A system's mean of a metric minus the base's, over the same queries."""

    mean: float
    low: float
    """Lower end of the 95% bootstrap interval of the mean."""
    high: float
    p_value: float
    """Two-sided p of the paired randomisation test; in (0, 1]."""
    p_corrected: float
    """`p_value` with Holm's correction for the number of systems compared with the base."""
    better: int
    """Number of queries with a higher value than with the base."""
    worse: int
    equal: int


@dataclass(frozen=True)
class RetrievalRow:
    """Ranking quality of a system."""

    name: str
    kind: SystemKind
    metrics: Mapping[str, Estimate]
    """Mean of each metric: "recall@10", "mrr@10", "ndcg@10", "precision@1"."""
    differences: Mapping[str, Difference]
    """Differences from the base, by metric; empty for the base and without a base."""
    unjudged: Mapping[str, float]
    """Share of unjudged products in the rankings, by cutoff ("10"); in [0, 1]."""
    unanswered: int
    """Queries without results, which count as 0."""


@dataclass(frozen=True)
class Retrieval:
    """Systems compared on the same queries."""

    rows: tuple[RetrievalRow, ...]
    queries: int
    """Number of judged queries with at least one relevant product; the means are over these."""
    products: int
    """Number of products in the catalogue."""
    judgements: int
    without_relevant: int
    """Number of judged queries without a relevant product, which are left out."""
    unknown_queries: tuple[str, ...]
    """Ids of judged queries missing from the queries file."""
    unknown_products: tuple[str, ...]
    """Ids of judged products missing from the catalogue."""


@dataclass(frozen=True)
class Curve:
    """A curve, thinned to at most 400 points: ROC (false, true positive rate), precision over recall."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Histogram:
    """Counts of scores between edges, by relevance level."""

    edges: tuple[float, ...]
    """(bins + 1,) rising."""
    counts: Mapping[str, tuple[int, ...]]
    """{relevance level, such as "1" or "0.1": (bins,)}, highest first."""


@dataclass(frozen=True)
class PairsRow:
    """Figures of a system on judged pairs."""

    name: str
    kind: SystemKind
    metrics: Mapping[str, Estimate]
    """"roc_auc", "average_precision", "best_f1", "spearman"."""
    best_f1_threshold: float | None
    by_grade: Mapping[str, Estimate]
    """ROC-AUC of the highest relevance level against each other level: "0.1", "0.01", "0"."""
    roc: Curve
    precision_recall: Curve
    histogram: Histogram


@dataclass(frozen=True)
class Pairs:
    """Systems compared on the same judged pairs."""

    rows: tuple[PairsRow, ...]
    pairs: int
    positive_share: float
    note: str | None
    """The reason for undefined figures, if any."""


@dataclass(frozen=True)
class JointPoolRow:
    """Figures of a system by the joint-pool protocol."""

    name: str
    kind: SystemKind
    precision_at_1: Estimate
    mrr: Estimate
    texts: int


@dataclass(frozen=True)
class AnnPoint:
    """Recall of the exact top 10, and time per query, at a value of ef_search."""

    ef_search: int
    recall: float
    milliseconds: float
    """Time per query, measured in a batch."""


@dataclass(frozen=True)
class GraphLoss:
    """Loss of a system that is searched through the graph instead of exactly."""

    name: str
    """Name of the system."""
    recall_at_10: float
    """Share of the exact top 10 that the graph finds; for the row tuned this is `ann_recall@10`."""
    exact: float
    """Mean nDCG@10 by exact search, as in the table."""
    graph: float
    """Mean nDCG@10 by graph search."""
    difference: Estimate
    """Mean difference of nDCG@10: through the graph minus exact."""
    changed: int
    """Number of queries with a different nDCG@10."""


@dataclass(frozen=True)
class TrainingCurve:
    """Values of a figure over the steps of the encoder's training run."""

    name: str
    """"loss", or a validation metric such as "roc_auc"."""
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Heatmap:
    """Cosines of selected queries with selected products."""

    system: str
    queries: tuple[str, ...]
    products: tuple[str, ...]
    """Titles."""
    scores: tuple[tuple[float, ...], ...]
    """(queries, products)."""
    relevance: tuple[tuple[float | None, ...], ...]
    """(queries, products); None if unjudged."""


@dataclass(frozen=True)
class Slice:
    """Gain on a slice of the queries."""

    by: str
    """"query length", "word frequency", or a payload column such as "department"."""
    label: str
    queries: int
    base: float
    tuned: float
    difference: Estimate


@dataclass(frozen=True)
class Answer:
    """A product of a ranking."""

    product_id: str
    title: str
    score: float
    relevance: float | None
    """None if unjudged."""


@dataclass(frozen=True)
class QueryChange:
    """A query with a changed ranking: the top results before and after, as deep as the metric counts."""

    query_id: str
    query: str
    base: float
    """The metric of `Evaluation.headline_metric`, before."""
    tuned: float
    before: tuple[Answer, ...]
    after: tuple[Answer, ...]


@dataclass(frozen=True)
class Evaluation:
    """All results of an evaluation; parts that were not requested are None or empty."""

    title: str
    provenance: Provenance
    base: str | None = None
    """Name of the system that the others are compared with."""
    tuned: str | None = None
    """Name of the system in the headline, the slices and the changed queries."""
    headline_metric: str = "ndcg@10"
    retrieval: Retrieval | None = None
    pairs: Pairs | None = None
    joint_pool: tuple[JointPoolRow, ...] = ()
    ann: tuple[AnnPoint, ...] = ()
    ann_recall_at_10: float | None = None
    graph: tuple[GraphLoss, ...] = ()
    ef_search: int | None = None
    calibration: Calibration | None = None
    """Probabilities of relevance that the index stores; None if it is not calibrated."""
    training: tuple[TrainingCurve, ...] = ()
    heatmaps: tuple[Heatmap, ...] = ()
    slices: tuple[Slice, ...] = ()
    improved: tuple[QueryChange, ...] = ()
    worsened: tuple[QueryChange, ...] = ()
    to_judge: int = 0
    """Rows of to_judge.csv beside the report: unjudged products among the top 10 of the systems."""
    notes: tuple[str, ...] = field(default=())
    """Caveats for the reader."""

    def to_dict(self) -> dict[str, Any]:
        """Return the document as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation from a document made by `to_dict`.

        Raises:
            pydantic.ValidationError: If a field is missing, unknown or has another type.
        """
        return TypeAdapter(cls).validate_python(content)
