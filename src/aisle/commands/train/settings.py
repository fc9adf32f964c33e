"""The settings of `train`, in groups; each field is a flag and a YAML key of the same name."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval
from pydantic import Field
from tyro.conf import OmitArgPrefixes

from aisle.commands.named_inputs import check_data_sets, check_models
from aisle.commands.shared_settings import (
    ConfigFile,
    Count,
    HubModelId,
    HubOverwriteCard,
    HubPrivate,
    HubToken,
    Json,
    ModelRevision,
    Pooling,
    ProductPrompt,
    QueryPrompt,
    Seed,
    Share,
    TrustRemoteCode,
)
from aisle.commands.train.data_settings import DataSettings, data_problems, is_in_memory
from aisle.commands.train.distillation_settings import DistillationSettings, distillation_problems
from aisle.commands.train.head_settings import HeadSettings, head_problems
from aisle.commands.train.lora_settings import LoraSettings
from aisle.commands.train.loss_settings import LossSettings, loss_problems, loss_settings
from aisle.commands.train.tower_settings import TowerSettings, tower_problems
from aisle.errors import ConfigError
from aisle.losses.specification import Reads
from aisle.types.choices import Selection

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
]


@dataclass(frozen=True)
class ModelSettings:
    """The encoder to fine-tune."""

    model_name_or_path: str = "intfloat/e5-large-v2"
    """Model to start from, a Hub id or a folder: a base model, or a finished run. The adapter of a LoRA run
    is trained further with --use_peft, and merged into its base model without."""
    model_revision: ModelRevision = None
    max_length: Annotated[int, Interval(ge=4)] | None = None
    """Longest text in tokens, prompt and special tokens included; the rest is cut off.
    If not given: 128, or less if the model reads less."""
    pooling: Pooling = None
    query_prompt: QueryPrompt = None
    product_prompt: ProductPrompt = None
    dropout: Share | None = None
    """Dropout probability in the backbone during training. If not given: the model's own (0.1 for BERT)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third slower."""
    trust_remote_code: TrustRemoteCode = False


@dataclass(frozen=True)
class OptimSettings:
    """Batches, learning rate and precision."""

    group_by_query: bool = False
    """Keep a query's judged products together in a batch: they are hard negatives for a loss that contrasts
    the batch. Always on for a loss that ranks the products of a query."""
    texts_per_group: Annotated[int, Interval(ge=2)] = 4
    """Most texts of a group in a batch, if rows are texts with their groups (--group_column). Larger groups
    are divided anew in each epoch. A group with more texts for each batch than that has as many as it
    needs."""
    per_device_train_batch_size: Count = 64
    """Pairs per process in a batch."""
    per_device_eval_batch_size: Count = 128
    """Texts per process in a batch of an evaluation."""
    gradient_accumulation_steps: Count = 1
    """Batches per optimiser step. The gradient is that of their mean loss."""
    learning_rate: Positive | None = None
    """Peak learning rate. If not given: 5e-4 with --use_peft (in `aisle train` or the choice of --loss auto),
    1e-3 with --freeze_encoder, otherwise 2e-5."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Weight decay of AdamW. Biases and normalisation weights have none."""
    num_train_epochs: Count = 3
    """Passes over the training pairs."""
    max_train_steps: Count | None = None
    """Optimiser steps of the whole run. It overrides --num_train_epochs."""
    lr_scheduler_type: Scheduler = "linear"
    """Schedule of the learning rate over the run."""
    num_warmup_steps: Annotated[int, Interval(ge=0)] = 0
    """Steps in which the learning rate rises from 0 to its peak."""
    warmup_share: Annotated[float, Interval(gt=0, lt=1)] | None = None
    """Share of the run's steps in which the learning rate rises, such as 0.1, in place of
    --num_warmup_steps."""
    max_grad_norm: Positive | None = 1.0
    """Largest norm of the gradient; a longer gradient is clipped to it. None: no clipping."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Number format for computing. If not given: as in `accelerate launch`, otherwise bf16 on a GPU that
    computes it, and no (float32) elsewhere."""
    threads: Count | None = None
    """CPU threads of each process. If not given: OMP_NUM_THREADS if you set it, otherwise an equal share of
    the processors that this machine or container has."""
    max_tokens_per_sub_batch: Annotated[int, Interval(ge=64)] | None = None
    """Tokens to encode at a time inside a batch. With --cached_embeddings it limits memory.
    If not given: 4,096 on a CPU (1,024 if texts must be padded), 65,536 on a GPU."""
    cached_embeddings: bool = False
    """Train on batches that do not fit in memory (GradCache): embed in sub-batches, keep only the embeddings,
    and embed again for the gradient. The gradient is the same; a step takes about a third longer."""
    cuda_graphs: bool = True
    """On a GPU, capture the forward and backward pass as CUDA graphs: much faster for small batches."""
    torch_compile: bool = False
    """Compile the layers; the first steps are slow. On a CPU it needs a C++ compiler and gains nothing."""
    torch_compile_backend: str = "inductor"
    """Compiler of --torch_compile, as torch names it. `accelerate launch --dynamo_backend` sets both
    flags."""
    seed: Seed = 42
    """Seed of the random numbers: order of the pairs, first weights of the adapter, dropout."""


@dataclass(frozen=True)
class RunSettings:
    """The run: its folder, evaluations, checkpoints, tracking and upload."""

    output_dir: str | None = None
    """Folder of the run; required."""
    overwrite_output_dir: bool = False
    """Replace the run in --output_dir, if there is one."""
    eval_steps: Count | None = None
    """Steps between evaluations, in addition to those at the end of epochs."""
    eval_epochs: Count = 1
    """Epochs between the evaluations at the end of epochs. There is always one after the last step."""
    keep: Literal["best", "last"] = "best"
    """Weights to save: those of the best evaluation, or those of the last step. Use last when the
    hyper-parameters are fixed and you train on all the data."""
    selection: Selection | None = None
    """How the best evaluation is chosen (--keep best, early stopping).
    roc_auc: by the ROC-AUC of judged pairs.
    spearman: by the rank correlation of graded pairs, such as sentence pairs rated 0 to 5.
    retrieval: by MRR; each query ranks the products of all validation pairs, and all its positives count.
    joint_pool: by MRR; every query and product ranks all other texts, and only its partner counts; for
    questions with one answer each.
    If not given: roc_auc with labels, retrieval without."""
    eval_sample: Count | None = None
    """Validation queries that rank the products in an evaluation (--selection retrieval), or texts of groups
    that rank the other texts; drawn by the seed. If not given: all."""
    logging_steps: Count = 10
    """Steps between log lines."""
    batch_metrics: bool = False
    """Log how well each query ranks the products of its batch (or a text those of its group): MRR,
    R-precision and precision@k. For losses that contrast the texts of a batch."""
    checkpointing_steps: Count | Literal["epoch"] | None = None
    """Steps between checkpoints, or epoch for a checkpoint after each epoch. None: no checkpoints."""
    checkpoints_to_keep: Count | None = None
    """Newest checkpoints to keep. None: keep all."""
    early_stopping_patience: Count | None = None
    """Evaluations in a row without a better result after which training stops. None: it never stops early."""
    resume_from_checkpoint: str | None = None
    """Checkpoint folder to resume from, or latest: the newest checkpoint of --output_dir."""
    with_tracking: bool = False
    """Log to experiment trackers."""
    report_to: str = "all"
    """Trackers, with commas: wandb, tensorboard, ..., or all that are installed."""
    push_to_hub: bool = False
    """Upload the finished run to the Hub."""
    hub_model_id: HubModelId = None
    hub_token: HubToken = field(default=None, repr=False)
    hub_private: HubPrivate = False
    hub_overwrite_card: HubOverwriteCard = False
    json: Json = False


@dataclass(frozen=True)
class TrainSettings:
    """Fine-tune a text-embedding model on judged pairs.

    A pair is a query, a product and its relevance; without relevance, every pair is a positive.
    """

    reads: ClassVar[Reads] = "embeddings"

    data: OmitArgPrefixes[DataSettings] = field(default_factory=DataSettings)
    model: OmitArgPrefixes[ModelSettings] = ModelSettings()
    lora: OmitArgPrefixes[LoraSettings] = field(default_factory=LoraSettings)
    head: OmitArgPrefixes[HeadSettings] = field(default_factory=HeadSettings)
    towers: OmitArgPrefixes[TowerSettings] = field(default_factory=TowerSettings)
    objective: OmitArgPrefixes[LossSettings] = field(default_factory=lambda: loss_settings()())
    distillation: OmitArgPrefixes[DistillationSettings] = field(default_factory=DistillationSettings)
    optim: OmitArgPrefixes[OptimSettings] = OptimSettings()
    run: OmitArgPrefixes[RunSettings] = RunSettings()
    config: ConfigFile = None

    @classmethod
    def complete(cls) -> type[TrainSettings]:
        """Return the class with a flag for each parameter of the losses that are registered now."""
        own: Any = cls
        losses: Any = loss_settings(cls.reads)
        return _with_losses(own, losses)


@cache
def _with_losses(settings: Any, losses: Any) -> type[TrainSettings]:
    group: Any = OmitArgPrefixes
    made: type[TrainSettings] = make_dataclass(
        settings.__name__,
        [("objective", group[losses], field(default_factory=losses))],
        bases=(settings,),
        frozen=True,
        namespace={"__module__": settings.__module__, "__doc__": settings.__doc__},
    )
    return made


def problems_of(settings: TrainSettings) -> list[str]:
    """Return one message for each combination of training settings that cannot work."""
    data, model, optim, run = settings.data, settings.model, settings.optim, settings.run
    problems = []
    if run.output_dir is None:
        problems.append("--output_dir: required; give the folder that the run is written to")
    problems += data_problems(data)
    if run.overwrite_output_dir and run.resume_from_checkpoint:
        problems.append("--overwrite_output_dir and --resume_from_checkpoint: give one of them")
    if model.model_name_or_path == "":
        problems.append("--model_name_or_path: is empty; give a Hub id or a folder")
    if run.keep == "last" and run.early_stopping_patience is not None:
        problems.append("--early_stopping_patience: needs --keep best")
    problems += head_problems(settings.head, use_peft=settings.lora.use_peft)
    problems += _unused_by_frozen(settings)
    problems += tower_problems(
        settings.towers,
        freeze_encoder=settings.head.freeze_encoder,
        loss=settings.objective,
        selection=run.selection,
    )
    problems += loss_problems(settings.objective)
    problems += distillation_problems(settings.distillation, loss=settings.objective, data=data)
    if optim.warmup_share is not None and optim.num_warmup_steps:
        problems.append("--num_warmup_steps and --warmup_share: give one of them")
    if optim.max_train_steps is not None and optim.num_warmup_steps > optim.max_train_steps:
        problems.append(
            f"--num_warmup_steps {optim.num_warmup_steps}: must be at most "
            f"--max_train_steps {optim.max_train_steps}"
        )
    return problems


def _unused_by_frozen(settings: TrainSettings) -> list[str]:
    """Return a message for each setting of a trained encoder that is given with a frozen one."""
    if not settings.head.freeze_encoder:
        return []
    why = {
        "--dropout": settings.model.dropout is not None and "computes without dropout (see --head_dropout)",
        "--gradient_checkpointing": settings.model.gradient_checkpointing and "keeps no activations",
        "--cached_embeddings": settings.optim.cached_embeddings and "keeps no activations",
    }
    given = [(flag, reason) for flag, reason in why.items() if reason]
    return [f"{flag}: the encoder is frozen, and {reason}; leave the flag out" for flag, reason in given]


def train_inputs(settings: TrainSettings) -> None:
    """Check that data and a base model given as files or folders exist."""
    data = settings.data
    files = {"--train_file": data.train_file, "--validation_file": data.validation_file}
    for flag, names in files.items():
        if is_in_memory(names):
            raise ConfigError(
                f"{flag} {' '.join(names or ())}: this run took its pairs from memory, not from a file; "
                'resume it from Python: aisle.train with the same data and resume_from_checkpoint="latest"'
            )
    named = (*(data.dataset_name or ()), *(data.train_file or ()))
    check_data_sets((*named, *(data.validation_file or ())))
    check_models(settings.model.model_name_or_path, settings.towers.query_model_name_or_path)
    check_models(settings.distillation.teacher)
