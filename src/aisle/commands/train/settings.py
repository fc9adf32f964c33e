"""The settings of `train_peft.py`, in groups; each field is a flag and a YAML key of the same name."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field
from tyro.conf import OmitArgPrefixes

from aisle.commands.named_inputs import check_data_sets, check_models
from aisle.commands.train.data_settings import DataSettings, data_problems, is_in_memory
from aisle.commands.train.loss_settings import LossSettings, loss_problems, loss_settings
from aisle.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Scheduler = Literal[
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"
]


@dataclass(frozen=True)
class ModelSettings:
    """The encoder that is fine-tuned."""

    model_name_or_path: str = "intfloat/e5-large-v2"
    """Hub id or folder of the base model, or of a finished run: the adapter of a LoRA run is trained further
    with --use_peft, and merged without."""
    model_revision: str | None = None
    """Branch, tag or commit of the base model on the Hub."""
    max_length: Annotated[int, Field(ge=4)] | None = None
    """Longest text in tokens, prompt and special tokens included; the rest is cut off. 128, or what the
    model can read if that is less, when not given."""
    pooling: Literal["mean", "cls", "last"] | None = None
    """How token vectors become one; what the base model says when not given."""
    query_prompt: str | None = None
    """Text put before every query; what the base model says when not given ("query: " for e5)."""
    product_prompt: str | None = None
    """Text put before every product; what the base model says when not given ("passage: " for e5)."""
    dropout: Share | None = None
    """Dropout inside the backbone while training; the base model's own (.1 for BERT) when not given. On a GPU
    texts are packed where attention has none: 0 is faster there."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    trust_remote_code: bool = False
    """Run the Python code that the base model's repository brings."""


@dataclass(frozen=True)
class LoraSettings:
    """The adapter (LoRA); everything here needs --use_peft."""

    use_peft: bool = False
    """Train a LoRA adapter instead of all weights."""
    lora_rank: Count = 8
    """Rank of the update matrices."""
    lora_alpha: Count = 16
    """Scale of the update: it is multiplied by alpha / rank."""
    lora_dropout: Share = 0.0
    """Dropout before the update matrices."""
    lora_target_modules: tuple[str, ...] | None = None
    """Names of the linear layers to adapt; query, key and value projections when not given."""
    use_dora: bool = False
    """Split weights into magnitude and direction (DoRA); sentence-transformers leaves the magnitudes out when
    it opens the run."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) (rank-stabilised LoRA)."""


@dataclass(frozen=True)
class OptimSettings:
    """Batches, learning rate and precision."""

    group_by_query: bool = False
    """Keep a query's judged products together in a batch: they are hard negatives for a loss that contrasts
    the batch. Always on for a loss that ranks the products of a query."""
    per_device_train_batch_size: Count = 64
    """Pairs per process in one forward pass."""
    per_device_eval_batch_size: Count = 128
    """Texts per process in one forward pass of an evaluation."""
    gradient_accumulation_steps: Count = 1
    """Batches whose gradients make up one step."""
    learning_rate: Positive | None = None
    """Peak learning rate; 5e-4 with --use_peft and 2e-5 without when not given."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Decoupled weight decay (AdamW); never on biases and norms."""
    num_train_epochs: Count = 3
    """Times over the training pairs."""
    max_train_steps: Count | None = None
    """Optimiser steps in all; overrides --num_train_epochs."""
    lr_scheduler_type: Scheduler = "linear"
    """Shape of the learning rate over the run."""
    num_warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises from zero."""
    max_grad_norm: Positive | None = 1.0
    """Gradients longer than this are cut to it; None is off."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """Compute type; what `accelerate launch` says when not given."""
    threads: Count | None = None
    """CPU threads of each process. When not given: OMP_NUM_THREADS if you set it, and else an equal share of
    the processors that this machine or container gives."""
    max_tokens_per_sub_batch: Annotated[int, Field(ge=64)] | None = None
    """Tokens encoded at a time inside a batch; 4,096 on CPU (1,024 where texts must be padded) and 65,536 on
    GPU when not given. Bounds memory with --cached_embeddings."""
    cached_embeddings: bool = False
    """Train batches larger than memory holds: embed in sub-batches, keep the embeddings only, and embed again
    for the gradient (GradCache). The gradient is the same; a step takes about a third longer."""
    torch_compile: bool = False
    """Compile the layers; the first steps take long. On CPU it needs a C++ compiler and gains nothing."""
    torch_compile_backend: str = "inductor"
    """Compiler of --torch_compile, by torch's name. `accelerate launch --dynamo_backend` sets both."""
    seed: Annotated[int, Field(ge=0)] = 42
    """Seeds the order of the pairs, the adapter's first weights and dropout."""


@dataclass(frozen=True)
class RunSettings:
    """The run: where it goes, when it is evaluated and saved, who is told."""

    output_dir: str | None = None
    """Folder of the run; required."""
    overwrite_output_dir: bool = False
    """Replace a run that is already in --output_dir."""
    eval_steps: Count | None = None
    """Evaluate every so many steps as well as after each epoch."""
    keep: Literal["best", "last"] = "best"
    """Save the weights of the best evaluation, or of the last step: for settings that were chosen before,
    when hardly anything is held out any more."""
    selection: Literal["roc_auc", "retrieval", "joint_pool"] | None = None
    """How the best evaluation is chosen (--keep best, early stopping). retrieval: by MRR, each query ranking
    the products of all validation pairs, where all its positives are right. joint_pool: by MRR, every query
    and product ranking all others, where only its partner is right; for questions with one answer each.
    roc_auc: by ROC-AUC of judged pairs. When not given, roc_auc with labels and retrieval without."""
    logging_steps: Count = 10
    """Log every so many steps."""
    checkpointing_steps: Count | Literal["epoch"] | None = None
    """Write a checkpoint every so many steps, or after each epoch; None writes none."""
    checkpoints_to_keep: Count | None = None
    """Keep only so many of the newest checkpoints; None keeps all."""
    early_stopping_patience: Count | None = None
    """Stop after so many evaluations in a row without a better one; None is off."""
    resume_from_checkpoint: str | None = None
    """Go on from this checkpoint folder, or from the latest one of --output_dir: latest."""
    with_tracking: bool = False
    """Log to experiment trackers."""
    report_to: str = "all"
    """Trackers, with commas: wandb, tensorboard, ..., or all that are installed."""
    push_to_hub: bool = False
    """Upload the finished run to the Hub."""
    hub_model_id: str | None = None
    """Repository on the Hub; the folder's name when not given."""
    hub_token: str | None = field(default=None, repr=False)
    """Token for the Hub; the one of `hf auth login` when not given. Never saved or logged."""
    hub_private: bool = False
    """Create the repository as a private one; one that is there already must be private."""
    hub_overwrite_card: bool = False
    """Replace the model card also where it was edited on the Hub; it is kept otherwise."""
    json: bool = False
    """Print one JSON document on stdout at the end; everything else goes to stderr."""


@dataclass(frozen=True)
class TrainSettings:
    """Fine-tune a text-embedding model on judged pairs.

    A pair is a query, a product and its relevance; without relevance, every pair is a positive.
    """

    data: OmitArgPrefixes[DataSettings] = field(default_factory=DataSettings)
    model: OmitArgPrefixes[ModelSettings] = ModelSettings()
    lora: OmitArgPrefixes[LoraSettings] = LoraSettings()
    objective: OmitArgPrefixes[LossSettings] = field(default_factory=lambda: loss_settings()())
    optim: OmitArgPrefixes[OptimSettings] = OptimSettings()
    run: OmitArgPrefixes[RunSettings] = RunSettings()
    config: str | None = None
    """YAML file with defaults for any of these flags, or the name of a recipe that comes with aisle, such as
    faq; flags given here win."""

    @classmethod
    def complete(cls) -> type[TrainSettings]:
        """Return the class with a flag for each parameter of the losses that are registered now."""
        own: Any = cls
        losses: Any = loss_settings()
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
    problems += loss_problems(settings.objective)
    if optim.max_train_steps is not None and optim.num_warmup_steps > optim.max_train_steps:
        problems.append(
            f"--num_warmup_steps {optim.num_warmup_steps}: must be at most "
            f"--max_train_steps {optim.max_train_steps}"
        )
    return problems


def train_inputs(settings: TrainSettings) -> None:
    """Raise unless data and a base model given as files or folders exist."""
    data = settings.data
    files = {"--train_file": data.train_file, "--validation_file": data.validation_file}
    for flag, names in files.items():
        if is_in_memory(names):
            raise ConfigError(
                f"{flag} {' '.join(names or ())}: this run took its pairs from memory, and no file has them; "
                'resume it from Python: aisle.train with the same data and resume_from_checkpoint="latest"'
            )
    named = (*([data.dataset_name] if data.dataset_name else []), *(data.train_file or ()))
    check_data_sets((*named, *(data.validation_file or ())))
    check_models(settings.model.model_name_or_path)
