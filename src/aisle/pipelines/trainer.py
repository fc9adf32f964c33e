"""The parts of a training run, put together from its settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from aisle import losses
from aisle.config.load import saved_form
from aisle.config.training import LoraSettings, OptimSettings, TrainSettings
from aisle.data.batching import distinct
from aisle.data.pairs import Pairs
from aisle.durable import file_sha256
from aisle.errors import ConfigError
from aisle.evaluation.joint_pool import joint_pool
from aisle.evaluation.pairs import score_pairs
from aisle.models.adapters import attach_lora, trainable_share
from aisle.models.encoder import TextEmbedder
from aisle.models.loading import BaseModel
from aisle.models.tokens import ONE_GROUP, TokenBudget, token_budget
from aisle.pipelines.training_data import TrainingData
from aisle.training.accelerator import set_seed
from aisle.training.batches import BatchPlan, PairBatch, PairCollator
from aisle.training.checkpoint import register_trained_weights_only
from aisle.training.loop import Objective, Schedule, Trainer
from aisle.training.optimizer import adamw
from aisle.training.state import TrainState
from aisle.training.validation import embed_pairs

FREE_TO_CHANGE = frozenset(
    {
        *("model_name_or_path", "model_revision", "trust_remote_code"),  # the weights themselves are compared
        *("num_train_epochs", "max_train_steps", "mixed_precision"),  # what they come to is compared
    }
)
"""Settings that a resumed run may spell differently."""
MOST_POOLED_PAIRS = 10_000
"""Ranking every text of a pool against all others is quadratic: 10,000 pairs take 4e8 cosines."""


def _embedder(settings: TrainSettings, base: BaseModel, say: Callable[[str], None]) -> TextEmbedder:
    set_seed(settings.optim.seed)  # the adapter's first weights
    backbone: Any = base.backbone
    if settings.model.gradient_checkpointing:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})
    # No embedding reads BERT's pooler: training it is waste, and DDP waits for gradients that never come.
    for name, parameter in backbone.named_parameters():
        if name.startswith("pooler."):
            parameter.requires_grad_(False)
    lora = settings.lora
    if lora.use_peft:
        backbone = attach_lora(
            backbone,
            rank=lora.lora_rank,
            alpha=lora.lora_alpha,
            dropout=lora.lora_dropout,
            target_modules=lora.lora_target_modules,
            use_dora=lora.use_dora,
            use_rslora=lora.use_rslora,
            base_reference=base.source.reference,
            base_revision=base.source.revision,
        )
    elif lora != LoraSettings():
        say("full fine-tuning: the LoRA settings are not used without --use_peft")
    say(str(trainable_share(backbone)))
    return TextEmbedder(backbone, pooling=base.settings.pooling, normalize=base.settings.normalize)


def make_trainer(
    settings: TrainSettings,
    data: TrainingData,
    base: BaseModel,
    accelerator: Any,
    *,
    say: Callable[[str], None],
) -> Trainer:
    """Return the trainer of a run, at its beginning.

    Args:
        settings: with nothing left open.
        data: the pairs.
        base: the base model; its backbone is changed.
        accelerator: prepares the model and the optimiser.
        say: told how much of the model is trained.
    """
    optim, run = settings.optim, settings.run
    embedder = _embedder(settings, base, say)
    plan = BatchPlan(
        pairs=len(data.train),
        batch_size=optim.per_device_train_batch_size,
        num_processes=accelerator.num_processes,
        accumulation=optim.gradient_accumulation_steps,
        seed=optim.seed,
        groups=distinct(data.train.queries).rows if optim.group_by_query else None,
    )
    total_steps = optim.max_train_steps or optim.num_train_epochs * plan.steps_per_epoch
    if optim.num_warmup_steps > total_steps:
        raise ConfigError(
            f"--num_warmup_steps {optim.num_warmup_steps}: must be at most the run's {total_steps} steps"
        )
    model, optimizer = accelerator.prepare(
        embedder,
        adamw(embedder, learning_rate=float(optim.learning_rate or 0), weight_decay=optim.weight_decay),
    )
    scheduler = get_scheduler(
        optim.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=optim.num_warmup_steps,
        num_training_steps=total_steps,
    )
    state = TrainState()
    accelerator.register_for_checkpointing(scheduler, state)
    register_trained_weights_only(accelerator)
    sharded = accelerator.distributed_type.value == "FSDP"
    # Sharded layers are gathered by all processes at once, so all must call them equally often.
    budget = (
        ONE_GROUP if sharded else token_budget(accelerator.device, max_tokens=optim.max_tokens_per_sub_batch)
    )
    return Trainer(
        accelerator=accelerator,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        plan=plan,
        schedule=Schedule(
            total_steps=total_steps,
            eval_steps=run.eval_steps,
            logging_steps=run.logging_steps,
            checkpointing_steps=run.checkpointing_steps,
            max_grad_norm=optim.max_grad_norm,
        ),
        collate=_collate(data.train, PairCollator(base.tokenizer, base.settings, budget)),
        objective=_objective(optim),
        evaluate=_evaluator(data.validation, base, model, accelerator, settings, budget),
        selection_metric="roc_auc" if data.validation.labelled else "mrr",
        on_log=lambda _: None,
        on_evaluation=lambda _: None,
        checkpoints_dir=Path(str(run.output_dir)) / "checkpoints",
        identity=_identity(settings, data, base, total_steps, accelerator),
        state=state,
    )


def _collate(pairs: Pairs, collator: PairCollator) -> Callable[[np.ndarray], PairBatch]:
    queries, products, relevance = pairs.queries, pairs.products, pairs.relevance

    def collate(rows: np.ndarray) -> PairBatch:
        return collator(
            [queries[row] for row in rows],
            [products[row] for row in rows],
            None if relevance is None else relevance[rows],
        )

    return collate


def _objective(optim: OptimSettings) -> Objective:
    def objective(embeddings: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        queries, products = embeddings[batch.query_rows], embeddings[batch.product_rows]
        if optim.loss == "in_batch":
            return losses.in_batch(
                queries,
                products,
                temperature=optim.temperature,
                negatives=optim.in_batch_negatives,
                relevance=batch.relevance,
                query_rows=batch.query_rows,
                product_rows=batch.product_rows,
            )
        assert batch.relevance is not None  # settings without labels are refused before
        if optim.loss == "cosine_target":
            return losses.cosine_target(queries, products, batch.relevance)
        return losses.cosent(queries, products, batch.relevance, temperature=optim.temperature)

    return objective


def _evaluator(
    pairs: Pairs,
    base: BaseModel,
    model: torch.nn.Module,
    accelerator: Any,
    settings: TrainSettings,
    budget: TokenBudget,
) -> Callable[[], dict[str, Any]]:
    """Return the function that measures the model: ROC-AUC of judged pairs, or the rank of positives."""
    if not pairs.labelled:
        pairs = pairs.select(range(min(MOST_POOLED_PAIRS, len(pairs))))
    queries, products, relevance = pairs.queries, pairs.products, pairs.relevance

    def evaluate() -> dict[str, Any]:
        embedded = embed_pairs(
            accelerator,
            model,
            tokenizer=base.tokenizer,
            settings=base.settings,
            queries=queries,
            products=products,
            max_texts=settings.optim.per_device_eval_batch_size,
            budget=budget,
        )
        if relevance is None:
            pool = joint_pool(embedded.queries, embedded.products)
            return {"mrr": pool.mrr, "precision@1": pool.precision_at_1}
        found = score_pairs(embedded.scores(), relevance)
        return {
            "roc_auc": found.roc_auc,
            "average_precision": found.average_precision,
            "best_f1": found.best_f1,
            "best_f1_threshold": found.best_f1_threshold,
            **({} if found.spearman is None else {"spearman": found.spearman}),
            **({} if found.note is None else {"note": found.note}),
        }

    return evaluate


def _identity(
    settings: TrainSettings, data: TrainingData, base: BaseModel, total_steps: int, accelerator: Any
) -> dict[str, Any]:
    """Return what must be the same for a run to go on from another's checkpoint."""
    groups = (settings.model, settings.lora, settings.optim)
    chosen = {name: value for group in groups for name, value in saved_form(group).items()}
    weights = [file_sha256(path) for path in sorted(base.source.path.glob("*.safetensors"))]
    return {
        **{name: value for name, value in chosen.items() if name not in FREE_TO_CHANGE},
        "base weights": hashlib.sha256("".join(weights).encode()).hexdigest()[:16],
        "steps in all": total_steps,
        "precision": accelerator.mixed_precision,
        "processes": accelerator.num_processes,
        "training pairs": _digest(data.train),
        "validation pairs": _digest(data.validation),
    }


def _digest(pairs: Pairs) -> str:
    """Return a short hash of the texts and labels of pairs, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for query, product in zip(pairs.queries, pairs.products, strict=True):
        digest.update(f"{query}\x00{product}\x01".encode())
    if pairs.relevance is not None:
        digest.update(pairs.relevance.tobytes())
    return f"{len(pairs)} with hash {digest.hexdigest()}"
