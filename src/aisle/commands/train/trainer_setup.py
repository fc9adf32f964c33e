"""Assemble the trainer of a run from its settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from aisle.commands.indexing.text_notes import cut_note
from aisle.commands.train.captured_steps import why_eager
from aisle.commands.train.learnable import check_learnable
from aisle.commands.train.loss_settings import chosen_loss
from aisle.commands.train.read_data import TrainingData
from aisle.commands.train.run_dir import TOKENS
from aisle.commands.train.run_identity import digest_of, run_identity
from aisle.commands.train.settings import OptimSettings, TrainSettings
from aisle.commands.train.trained_tower import COMPUTE_TYPES, tower_to_train
from aisle.data.negatives import KnownPositives
from aisle.data.pairs import Pairs
from aisle.errors import ConfigError
from aisle.io.durable import file_sha256
from aisle.kernels.captured_passes import CudaGraphs
from aisle.kernels.compiled_layers import compile_layers
from aisle.models.fingerprint import TOKENIZER_FILES
from aisle.models.loading import LoadedModel
from aisle.models.prepare_model import weights_without_gradient
from aisle.models.tower import Tower
from aisle.text.batch_layout import WHOLE_BATCH, Layout, device_layout
from aisle.training.accelerator import expect_unused_weights
from aisle.training.batches import BatchPlan, Collator
from aisle.training.distributed import wait_for_all
from aisle.training.forward import Forward, with_captured_passes
from aisle.training.launch_support import is_sharded, refuse_unsupported_flags, strategy_of
from aisle.training.loop import Trainer
from aisle.training.memory_retry import MemoryRetry
from aisle.training.objective import Objective
from aisle.training.optimizer import adamw
from aisle.training.rank_sync import RankSync
from aisle.training.schedule import Schedule
from aisle.training.selection import SELECTION_METRICS, make_evaluator
from aisle.training.step import TrainingStep
from aisle.training.tokenized import TokenizedPairs, open_tokenized, tokenize_pairs, write_tokenized
from aisle.training.train_state import TrainState
from aisle.training.trained_weights import register_trained_weights_only
from aisle.training.validation import embed_texts
from aisle.training.validation_retrieval import known_elsewhere
from aisle.types.text_marks import CUT

SAMPLED_PAIRS = 32
"""Validation pairs to embed before and after training, to check that the model changed."""


def make_trainer(
    settings: TrainSettings,
    data: TrainingData,
    base: LoadedModel,
    accelerator: Any,
    *,
    log: Callable[[str], None],
) -> Trainer:
    """Return the trainer of a run, before its first step.

    Args:
        settings: Resolved settings.
        data: Training and validation pairs.
        base: Base model; its backbone is changed.
        accelerator: Accelerator of the run.
        log: Logs messages for the user.
    """
    optim, run = settings.optim, settings.run
    train_digest, validation_digest = digest_of(data.train), digest_of(data.validation)
    tokenized = partial(_tokenized, settings, base, accelerator, log)
    train, validation = tokenized(data.train, train_digest), tokenized(data.validation, validation_digest)
    cut = int(np.count_nonzero(train.marks & CUT))
    if cut:
        log(cut_note(cut, f"of {len(train.marks):,} distinct training texts"))
    plan, total_steps = _plan(optim, train, ranks=accelerator.num_processes)
    loss, parameters = chosen_loss(settings.objective)
    known = _known_positives(train) if loss.contrasts else None
    for warning in check_learnable(
        loss, parameters, optim, train, plan, known=known, total_steps=total_steps
    ):
        log(f"warning: {warning}")
    objective = Objective(loss, parameters).to(accelerator.device)
    _refuse_flags(optim, objective, accelerator)
    tower = tower_to_train(settings, base, accelerator, log=log)
    layout = _layout(tower, settings, base, accelerator)
    eager_because = why_eager(settings, accelerator, packed=layout.packed)
    if eager_because is None:
        layout = replace(layout, static_length=int(train.texts.lengths().max()))
    elif accelerator.device.type == "cuda":
        log(f"steps are not captured as CUDA graphs, which is slower for small batches: {eager_because}")
    _prepare_for_ddp(tower, settings, train, layout, accelerator, log)
    if optim.torch_compile:
        for backbone in tower.backbones:
            compile_layers(backbone, accelerator.device, backend=optim.torch_compile_backend)
    state = TrainState()
    step = _training_step(
        tower,
        objective,
        settings,
        layout,
        accelerator,
        eager_because=eager_because,
        total_steps=total_steps,
        state=state,
        log=log,
    )
    accelerator.register_for_checkpointing(step.scheduler, state, objective)
    register_trained_weights_only(accelerator)
    embed = partial(
        embed_texts,
        accelerator,
        step.forward.model,
        validation.texts,
        layout=replace(layout, static_length=None),
        max_texts=optim.per_device_eval_batch_size,
    )
    sampled = np.concatenate([validation.queries[:SAMPLED_PAIRS], validation.products[:SAMPLED_PAIRS]])
    selection = run.selection
    assert selection is not None  # resolved before
    return Trainer(
        accelerator=accelerator,
        step=step,
        plan=plan,
        schedule=Schedule(
            total_steps=total_steps,
            eval_steps=run.eval_steps,
            logging_steps=run.logging_steps,
            checkpointing_steps=run.checkpointing_steps,
            checkpoints_to_keep=run.checkpoints_to_keep,
            early_stopping_patience=run.early_stopping_patience,
        ),
        collate=Collator(
            pairs=train,
            layout=layout,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            known=known,
            unit=loss.unit,
        ),
        evaluate=make_evaluator(
            accelerator,
            validation,
            selection,
            embed,
            also_right=lambda: known_elsewhere(data.validation, validation, data.train),
            log=log,
        ),
        sample=lambda: embed(sampled).cpu().numpy(),
        selection_metric=SELECTION_METRICS[selection] if run.keep == "best" else None,
        log=log,
        on_log=lambda _: None,
        on_evaluation=lambda _: None,
        checkpoints_dir=Path(str(run.output_dir)) / "checkpoints",
        identity=run_identity(
            settings,
            base,
            train=train_digest,
            validation=validation_digest,
            total_steps=total_steps,
            accelerator=accelerator,
        ),
        state=state,
    )


def _plan(optim: OptimSettings, train: TokenizedPairs, *, ranks: int) -> tuple[BatchPlan, int]:
    """Return the plan of which pairs share a step, and the number of steps of the run."""
    plan = BatchPlan(
        pairs=len(train),
        batch_size=optim.per_device_train_batch_size,
        num_processes=ranks,
        accumulation=optim.gradient_accumulation_steps,
        seed=optim.seed,
        groups=train.query_keys[train.queries] if optim.group_by_query else None,
    )
    total_steps = optim.max_train_steps or optim.num_train_epochs * plan.steps_per_epoch
    if optim.num_warmup_steps > total_steps:
        raise ConfigError(
            f"--num_warmup_steps {optim.num_warmup_steps}: must be at most the run's {total_steps} steps"
        )
    return plan, total_steps


def _refuse_flags(optim: OptimSettings, objective: Objective, accelerator: Any) -> None:
    in_use = {
        "--learn_temperature": objective.learns,
        "--cached_embeddings": optim.cached_embeddings,
        "--max_tokens_per_sub_batch": optim.max_tokens_per_sub_batch is not None,
    }
    refuse_unsupported_flags(strategy_of(accelerator), [flag for flag, used in in_use.items() if used])


def _prepare_for_ddp(
    tower: Tower,
    settings: TrainSettings,
    train: TokenizedPairs,
    layout: Layout,
    accelerator: Any,
    log: Callable[[str], None],
) -> None:
    """Let DDP accept trained weights without a gradient; call it before the model is prepared."""
    if strategy_of(accelerator) != "DDP" or settings.lora.use_peft:
        return
    pair = np.stack([train.queries[0], train.products[0]])
    one_each = [texts[:1] for texts in layout.by_tower(train.texts, pair)]
    batches = [layout.batch(train.texts, texts).to(accelerator.device) for texts in one_each]
    unused = weights_without_gradient(tower, batches)
    if unused:
        shown = ", ".join(unused[:3]) + (f" and {len(unused) - 3} others" if len(unused) > 3 else "")
        log(f"{len(unused)} weights have no gradient and are not changed: {shown}")
        expect_unused_weights(accelerator)


def _training_step(
    tower: Tower,
    objective: Objective,
    settings: TrainSettings,
    layout: Layout,
    accelerator: Any,
    *,
    eager_because: str | None,
    total_steps: int,
    state: TrainState,
    log: Callable[[str], None],
) -> TrainingStep:
    """Return the training step, with model and optimiser prepared by the accelerator."""
    optim = settings.optim
    rate = float(optim.learning_rate or 0)
    model, optimizer = accelerator.prepare(
        tower, adamw(tower, objective, learning_rate=rate, weight_decay=optim.weight_decay)
    )
    scheduler = get_scheduler(
        optim.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=optim.num_warmup_steps,
        num_training_steps=total_steps,
    )
    # DDP would sum gradients only in the last sub-batch of GradCache, which belongs to one of the towers.
    step_sums = settings.lora.use_peft or (tower.separate_sides and optim.cached_embeddings)
    sync = _rank_sync(accelerator, log) if step_sums else None
    forward = Forward(accelerator, model, wrapper_sums=sync is None, eager_because=eager_because)
    if eager_because is None:
        forward = with_captured_passes(forward, log=log, record=CudaGraphs())
    return TrainingStep(
        accelerator=accelerator,
        forward=forward,
        objective=objective,
        optimizer=optimizer,
        scheduler=scheduler,
        max_grad_norm=optim.max_grad_norm,
        retry=MemoryRetry(
            accelerator=accelerator,
            optimizer=optimizer,
            sync=sync,
            cached_tokens=layout.max_tokens if optim.cached_embeddings else None,
            state=state,
            log=log,
        ),
        sync=sync,
    )


def _rank_sync(accelerator: Any, log: Callable[[str], None]) -> RankSync | None:
    """Return the synchronisation of ranks if each of several ranks has the whole model, else None."""
    if strategy_of(accelerator) != "DDP":
        return None
    sync = RankSync.of_all(accelerator)
    if sync is None:
        log(
            "warning: gloo does not connect the processes (is GLOO_SOCKET_IFNAME the network's interface?); "
            "the run will stop if one of them runs out of memory"
        )
    return sync


def _tokenized(
    settings: TrainSettings,
    base: LoadedModel,
    accelerator: Any,
    log: Callable[[str], None],
    pairs: Pairs,
    digest: str,
) -> TokenizedPairs:
    """Return the tokenised pairs: one process per machine writes them, and all processes memory-map them."""
    folders = [base.source.path, *([] if base.adapter is None else [base.adapter.run.path])]
    files = [folder / name for folder in folders for name in TOKENIZER_FILES]
    tokenizer = [file_sha256(path) for path in files if path.is_file()]
    parts = (part.name for part in fields(TokenizedPairs))
    made_of = (digest, *tokenizer, *vars(base.settings).items(), *parts)
    name = blake2b(repr(made_of).encode(), digest_size=8).hexdigest()
    folder = Path(str(settings.run.output_dir)) / TOKENS / name
    if accelerator.is_local_main_process and not folder.is_dir():
        log(f"tokenising {len(pairs):,} pairs")
        write_tokenized(tokenize_pairs(pairs, base.side_tokenizers), folder)
    wait_for_all(accelerator)
    return open_tokenized(folder)


def _layout(tower: Tower, settings: TrainSettings, base: LoadedModel, accelerator: Any) -> Layout:
    compute_type = COMPUTE_TYPES.get(accelerator.mixed_precision, torch.float32)
    packed = tower.why_padded(compute_type, max_length=base.settings.max_length) is None
    layout = device_layout(
        accelerator.device,
        packed=packed,
        pad_token_id=base.tokenizer.pad_token_id,
        max_tokens=settings.optim.max_tokens_per_sub_batch,
        separate_sides=tower.separate_sides,
    )
    if not is_sharded(accelerator):
        return layout
    # Every rank takes part in gathering sharded layers, so all ranks must run them equally often.
    return replace(layout, max_tokens=WHOLE_BATCH, group_cost=WHOLE_BATCH)


def _known_positives(train: TokenizedPairs) -> KnownPositives:
    return KnownPositives.of(
        train.query_keys[train.queries],
        train.product_keys[train.products],
        train.positive(np.arange(len(train))),
    )
