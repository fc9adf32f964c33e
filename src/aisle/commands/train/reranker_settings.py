"""The settings of `train-reranker`: those of `train` that a cross-encoder has, and the list to rerank."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from annotated_types import Interval
from tyro.conf import OmitArgPrefixes

from aisle.commands.shared_settings import Count, ModelRevision, Pooling, Share, TrustRemoteCode
from aisle.commands.train.distillation_settings import DistillationSettings
from aisle.commands.train.head_settings import HeadSettings
from aisle.commands.train.loss_settings import LossSettings, loss_settings
from aisle.commands.train.settings import ModelSettings, RunSettings, TrainSettings, problems_of
from aisle.commands.train.tower_settings import TowerSettings
from aisle.losses.specification import Reads
from aisle.types.choices import SearchMode, Selection


@dataclass(frozen=True)
class RerankerModelSettings(ModelSettings):
    """The cross-encoder to fine-tune."""

    model_name_or_path: str = "cross-encoder/ms-marco-MiniLM-L6-v2"
    """Model to start from, a Hub id or a folder: a cross-encoder, a finished run of this command, or any
    other model, which gets a new classification head."""
    model_revision: ModelRevision = None
    max_length: Annotated[int, Interval(ge=8)] | None = None
    """Longest pair in tokens, special tokens included; a longer pair loses the last tokens of its longer
    text. If not given: 256, or less if the model reads less."""
    pooling: Pooling = field(init=False, default=None)
    query_prompt: str | None = field(init=False, default=None)
    product_prompt: str | None = field(init=False, default=None)
    dropout: Share | None = None
    """Dropout probability in the model during training. If not given: the model's own (0.1 for BERT)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third slower."""
    trust_remote_code: TrustRemoteCode = False


@dataclass(frozen=True)
class RerankerRunSettings(RunSettings):
    """The run: its folder, evaluations, checkpoints and tracking."""

    selection: Selection | None = field(init=False, default=None)
    eval_sample: int | None = field(init=False, default=None)
    batch_metrics: bool = field(init=False, default=False)
    push_to_hub: bool = field(init=False, default=False)
    hub_model_id: str | None = field(init=False, default=None)
    hub_private: bool = field(init=False, default=False)
    hub_overwrite_card: bool = field(init=False, default=False)


@dataclass(frozen=True)
class ServedListSettings:
    """The list that will be served: with it, the best evaluation is chosen by what searchers will see."""

    index_dir: str | None = None
    """Index whose best products for the validation queries are reranked at each evaluation. The best
    evaluation is then the one with the highest nDCG@10 of that list, judged by the validation pairs. If not
    given: the ROC-AUC of the validation pairs chooses."""
    index_model: str | None = None
    """Model of the index, if it has moved."""
    index_mode: SearchMode = "hybrid"
    """Search whose products are reranked: by embeddings (dense), by words (lexical), or by both (hybrid)."""
    rerank_depth: Count = 50
    """Products per query to rerank."""


@dataclass(frozen=True)
class RerankerSettings(TrainSettings):
    """Fine-tune a reranker on judged pairs: a cross-encoder, which reads query and product together.

    A pair is a query, a product and its relevance. Hard negatives are read as pairs of relevance 0. Settings
    that only an encoder has are fixed.
    """

    reads: ClassVar[Reads] = "scores"

    model: OmitArgPrefixes[RerankerModelSettings] = RerankerModelSettings()
    head: HeadSettings = field(init=False, default_factory=HeadSettings)
    towers: TowerSettings = field(init=False, default_factory=TowerSettings)
    distillation: DistillationSettings = field(init=False, default_factory=DistillationSettings)
    objective: OmitArgPrefixes[LossSettings] = field(default_factory=lambda: loss_settings("scores")())
    run: OmitArgPrefixes[RerankerRunSettings] = RerankerRunSettings()
    served: OmitArgPrefixes[ServedListSettings] = ServedListSettings()


def reranker_problems(settings: Any) -> list[str]:
    """Return one message for each combination of training settings that cannot work."""
    problems = problems_of(settings)
    served: ServedListSettings = settings.served
    if served.index_dir is None:
        usual = ServedListSettings()
        problems += [
            f"--{name}: needs --index_dir"
            for name in ("index_model", "index_mode", "rerank_depth")
            if getattr(served, name) != getattr(usual, name)
        ]
    return problems
