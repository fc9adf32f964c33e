"""What an evaluation found, in plain values: what the report shows and `evaluate --json` prints.

Every class is immutable and holds JSON-ready values alone; `Evaluation.to_dict` gives the JSON document, and
`Evaluation.from_dict` reads it back, so that a report can be drawn again from its own file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter

from aisle.evaluation.provenance import InputFile, Provenance

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
    """A figure with its 95% bootstrap interval; all None where the figure is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """A system's mean of one metric less the base's, over the same queries."""

    mean: float
    low: float
    """Lower end of the 95% bootstrap interval of the mean."""
    high: float
    p_value: float
    """Two-sided paired randomisation test; in (0, 1]."""
    p_corrected: float
    """The same by Holm's correction for the number of systems that are held against the base."""
    better: int
    """Queries with a higher value than the base's."""
    worse: int
    equal: int


@dataclass(frozen=True)
class RetrievalRow:
    """How well one system ranks."""

    name: str
    kind: SystemKind
    metrics: Mapping[str, Estimate]
    """By name: "recall@10", "mrr@10", "ndcg@10", "precision@1"."""
    differences: Mapping[str, Difference]
    """To the base, by the metric's name; empty for the base, and where there is none."""
    unjudged: Mapping[str, float]
    """Share of the ranked products that nobody has judged, by cutoff ("10"); in [0, 1]."""
    unanswered: int
    """Queries without an answer, which count as 0."""


@dataclass(frozen=True)
class Retrieval:
    """Systems side by side on the same queries."""

    rows: tuple[RetrievalRow, ...]
    queries: int
    """Judged queries with at least one relevant product: what the means are over."""
    products: int
    """In the catalogue."""
    judgements: int
    without_relevant: int
    """Judged queries without a relevant product; left out."""
    unknown_queries: tuple[str, ...]
    """Ids of judged queries that the queries file does not have."""
    unknown_products: tuple[str, ...]
    """Ids of judged products that the catalogue does not have."""


@dataclass(frozen=True)
class Curve:
    """A curve, thinned to at most 400 points: ROC (false, true positive rate), precision over recall."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Histogram:
    """How often scores fall between edges, by relevance grade."""

    edges: tuple[float, ...]
    """(bins + 1,) rising."""
    counts: Mapping[str, tuple[int, ...]]
    """By grade, as "1" or "0.1", highest first: (bins,)."""


@dataclass(frozen=True)
class PairsRow:
    """How well one system's scores tell judged pairs apart."""

    name: str
    kind: SystemKind
    metrics: Mapping[str, Estimate]
    """"roc_auc", "average_precision", "best_f1", "spearman"."""
    best_f1_threshold: float | None
    by_grade: Mapping[str, Estimate]
    """ROC-AUC of the highest grade against each of the others, by grade: "0.1", "0.01", "0"."""
    roc: Curve
    precision_recall: Curve
    histogram: Histogram


@dataclass(frozen=True)
class Pairs:
    """Systems side by side on the same judged pairs."""

    rows: tuple[PairsRow, ...]
    pairs: int
    positive_share: float
    note: str | None
    """Why figures are undefined, if any are."""


@dataclass(frozen=True)
class JointPoolRow:
    """Question-answer pairs by the joint-pool protocol."""

    name: str
    kind: SystemKind
    precision_at_1: Estimate
    mrr: Estimate
    texts: int


@dataclass(frozen=True)
class AnnPoint:
    """What the graph finds of the exact top 10 at one ef_search, and in what time."""

    ef_search: int
    recall: float
    milliseconds: float
    """Per query, in a batch."""


@dataclass(frozen=True)
class GraphLoss:
    """What a row loses where it follows the graph instead of comparing with every product."""

    name: str
    """Of the row."""
    recall_at_10: float
    """Share of the exact top 10 that is found through the graph; of the row tuned it is `ann_recall@10`."""
    exact: float
    """Mean nDCG@10 by exact search, as in the row."""
    graph: float
    """The same through the graph."""
    difference: Estimate
    """Mean of nDCG@10 through the graph less that by exact search."""
    changed: int
    """Queries of which it differs."""


@dataclass(frozen=True)
class TrainingCurve:
    """One figure over the steps of the run that made the encoder."""

    name: str
    """"loss", or a validation metric such as "roc_auc"."""
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Heatmap:
    """Cosines of chosen queries with chosen products."""

    system: str
    queries: tuple[str, ...]
    products: tuple[str, ...]
    """Titles."""
    scores: tuple[tuple[float, ...], ...]
    """(queries, products)."""
    relevance: tuple[tuple[float | None, ...], ...]
    """(queries, products); None where nobody has judged."""


@dataclass(frozen=True)
class Slice:
    """The gain on a part of the queries."""

    by: str
    """"query length", "word frequency", or a payload column such as "department"."""
    label: str
    queries: int
    base: float
    tuned: float
    difference: Estimate


@dataclass(frozen=True)
class Answer:
    """One product of a ranking."""

    product_id: str
    title: str
    score: float
    relevance: float | None
    """None where nobody has judged."""


@dataclass(frozen=True)
class QueryChange:
    """A query whose ranking changed, with the top before and after, as deep as its metric counts."""

    query_id: str
    query: str
    base: float
    """The metric of `Evaluation.headline_metric`, before."""
    tuned: float
    before: tuple[Answer, ...]
    after: tuple[Answer, ...]


@dataclass(frozen=True)
class Evaluation:
    """All of it; a part that was not asked for is None or empty."""

    title: str
    provenance: Provenance
    base: str | None = None
    """The row that the others are held against."""
    tuned: str | None = None
    """The row that the sentence, the slices and the changed queries are about."""
    headline_metric: str = "ndcg@10"
    retrieval: Retrieval | None = None
    pairs: Pairs | None = None
    joint_pool: tuple[JointPoolRow, ...] = ()
    ann: tuple[AnnPoint, ...] = ()
    ann_recall_at_10: float | None = None
    graph: tuple[GraphLoss, ...] = ()
    ef_search: int | None = None
    training: tuple[TrainingCurve, ...] = ()
    heatmaps: tuple[Heatmap, ...] = ()
    slices: tuple[Slice, ...] = ()
    improved: tuple[QueryChange, ...] = ()
    worsened: tuple[QueryChange, ...] = ()
    to_judge: int = 0
    """Rows of to_judge.csv beside the report: unjudged products among the top 10 of the systems."""
    notes: tuple[str, ...] = field(default=())
    """What a reader must know before believing the figures."""

    def to_dict(self) -> dict[str, Any]:
        """Return the document as JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation that `to_dict` made a document of.

        Raises:
            pydantic.ValidationError: a field is missing, unknown or of another type.
        """
        return TypeAdapter(cls).validate_python(content)
