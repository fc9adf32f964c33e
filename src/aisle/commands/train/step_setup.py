"""Assemble the training step of a run: tower, batch layout, optimiser, and what keeps ranks together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import get_scheduler

from aisle.commands.train.captured_steps import why_eager
from aisle.commands.train.layout_choice import choose_layout
from aisle.commands.train.loss_settings import check_matryoshka, chosen_loss
from aisle.commands.train.settings import TrainSettings
from aisle.commands.train.trained_tower import model_to_train
from aisle.errors import ConfigError
from aisle.kernels.captured_passes import CudaGraphs
from aisle.kernels.compiled_layers import compile_layers
from aisle.losses.parameters import Temperature
from aisle.models.bi_encoder import BiEncoder
from aisle.models.cross_encoder import CrossEncoder
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.models.loading import LoadedModel
from aisle.models.prepare_model import weights_without_gradient
from aisle.models.tower import Tower
from aisle.text.batch_layout import Layout
from aisle.training.accelerator import expect_unused_weights
from aisle.training.forward import Forward, with_captured_passes
from aisle.training.launch_support import refuse_unsupported_flags, strategy_of
from aisle.training.memory_retry import MemoryRetry
from aisle.training.objective import Objective
from aisle.training.optimizer import adamw
from aisle.training.rank_sync import RankSync
from aisle.training.step import TrainingStep
from aisle.training.tokenized import TokenizedPairs
from aisle.training.train_state import TrainState
from aisle.training.trained_weights import register_trained_weights_only


def make_step(
    settings: TrainSettings,
    base: LoadedModel | LoadedCrossEncoder,
    train: TokenizedPairs,
    accelerator: Any,
    *,
    total_steps: int,
    state: TrainState,
    log: Callable[[str], None],
) -> tuple[TrainingStep, Layout, str | None]:
    """Return the training step of a run, the layout of its batches, and why texts are padded; None if packed.

    Args:
        settings: Resolved settings.
        base: Base model; its backbone is changed.
        train: Training pairs.
        accelerator: Accelerator of the run; it saves the step's parts in checkpoints.
        total_steps: Steps of the run.
        state: Training state, saved with them.
        log: Logs messages for the user.

    Raises:
        AisleError: The model lacks what a setting needs, or the way of launching does not support a flag.
    """
    _refuse_flags(settings, accelerator)
    tower = model_to_train(settings, base, accelerator, log=log)
    check_matryoshka(settings.objective, dim=tower.dim, log=log)
    if train.texts_of_groups and tower.separate_sides:
        raise ConfigError(
            "--group_column: rows of a text with its group train a single tower, because all texts are read "
            "as products, and this model has separate towers; start from a model with one, or give pairs"
        )
    objective = _objective(settings, train, dim=tower.dim, device=accelerator.device)
    layout, padded_because = choose_layout(tower, settings, base, accelerator, log=log)
    few_weights = settings.lora.use_peft or settings.head.freeze_encoder
    # DDP would sum gradients only in the last sub-batch of GradCache, which belongs to one of the towers, and
    # would wait for a rank that embeds no text of the trained tower.
    step_sums = few_weights or tower.separate_sides
    sync = _rank_sync(accelerator, log) if step_sums else None
    # On CPU a launch with one process has a wrapper too, which has nothing to sum.
    wrapper_sums = sync is None and strategy_of(accelerator) != "one process"
    eager_because = why_eager(settings, accelerator, packed=layout.packed, wrapper_sums=wrapper_sums)
    if eager_because is None:
        layout = replace(layout, static_length=int(train.texts.lengths().max()))
    elif accelerator.device.type == "cuda":
        log(f"steps are not captured as CUDA graphs, which is slower for small batches: {eager_because}")
    _prepare_for_ddp(tower, settings, train, layout, accelerator, log)
    if settings.optim.torch_compile:
        for backbone in tower.backbones:
            compile_layers(backbone, accelerator.device, backend=settings.optim.torch_compile_backend)
    step = _training_step(
        tower,
        objective,
        settings,
        layout,
        accelerator,
        sync=sync,
        wrapper_sums=wrapper_sums,
        eager_because=eager_because,
        total_steps=total_steps,
        state=state,
        log=log,
    )
    accelerator.register_for_checkpointing(step.scheduler, state, objective)
    register_trained_weights_only(accelerator)
    return step, layout, padded_because


def _objective(
    settings: TrainSettings, train: TokenizedPairs, *, dim: int, device: torch.device
) -> Objective:
    """Return the loss of the run; the vectors of groups are random, and the same on all ranks."""
    loss, parameters = chosen_loss(settings.objective)
    class_weights = None
    if loss.needs_groups:
        generator = torch.Generator().manual_seed(settings.optim.seed)
        class_weights = torch.randn(int(train.groups.max()) + 1, dim, generator=generator)
        class_weights /= math.sqrt(dim)
    dims = settings.objective.matryoshka_dims or ()
    # With a trained encoder the loss takes no time, and its last bits are those of earlier versions.
    few_operations = settings.head.freeze_encoder and device.type == "cpu"
    return Objective(loss, parameters, dims, class_weights, few_operations=few_operations).to(device)


def _refuse_flags(settings: TrainSettings, accelerator: Any) -> None:
    optim = settings.optim
    loss, parameters = chosen_loss(settings.objective)
    in_use = {
        "--head": settings.head.head != "none",
        "--two_towers": settings.towers.two_towers and not settings.towers.tie,
        "--learn_temperature": isinstance(parameters, Temperature) and parameters.learn_temperature,
        "--loss arcface": loss.needs_groups,
        "--cached_embeddings": optim.cached_embeddings,
        "--max_tokens_per_sub_batch": optim.max_tokens_per_sub_batch is not None,
    }
    refuse_unsupported_flags(strategy_of(accelerator), [flag for flag, used in in_use.items() if used])


def _prepare_for_ddp(
    tower: Tower | BiEncoder | CrossEncoder,
    settings: TrainSettings,
    train: TokenizedPairs,
    layout: Layout,
    accelerator: Any,
    log: Callable[[str], None],
) -> None:
    """Let DDP accept trained weights without a gradient; call it before the model is prepared."""
    if strategy_of(accelerator) != "DDP" or settings.lora.use_peft or settings.head.freeze_encoder:
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
    tower: Tower | BiEncoder | CrossEncoder,
    objective: Objective,
    settings: TrainSettings,
    layout: Layout,
    accelerator: Any,
    *,
    sync: RankSync | None,
    wrapper_sums: bool,
    eager_because: str | None,
    total_steps: int,
    state: TrainState,
    log: Callable[[str], None],
) -> TrainingStep:
    """Return the training step, with model and optimiser prepared by the accelerator."""
    optim = settings.optim
    rate = float(optim.learning_rate or 0)
    model, optimizer = accelerator.prepare(
        tower,
        adamw(
            tower,
            objective,
            learning_rate=rate,
            weight_decay=optim.weight_decay,
            fused_on_cpu=settings.head.freeze_encoder,
        ),
    )
    scheduler = get_scheduler(
        optim.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=optim.num_warmup_steps,
        num_training_steps=total_steps,
    )
    forward = Forward(accelerator, model, wrapper_sums=wrapper_sums, eager_because=eager_because)
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
        measured=settings.run.batch_metrics,
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
