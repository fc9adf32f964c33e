"""Assemble the trainer of a run from its settings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aisle.commands.indexing.text_notes import cut_note
from aisle.commands.train.learnable import check_learnable
from aisle.commands.train.loss_settings import chosen_loss
from aisle.commands.train.read_data import TrainingData
from aisle.commands.train.reranker_evaluation import reranker_evaluation
from aisle.commands.train.run_identity import digest_of, run_identity
from aisle.commands.train.selected_metric import selected_metric
from aisle.commands.train.settings import OptimSettings, RunSettings, TrainSettings
from aisle.commands.train.step_setup import make_step
from aisle.commands.train.teacher import taught_pairs
from aisle.commands.train.tokenized_files import tokenized
from aisle.commands.train.vector_files import open_vector_cache, with_vectors
from aisle.data.negatives import KnownPositives
from aisle.data.subgroups import Subgroups
from aisle.errors import ConfigError
from aisle.models.cross_encoder_loading import LoadedCrossEncoder
from aisle.models.loading import LoadedModel
from aisle.system.memory import keep_freed_memory
from aisle.text.batch_layout import Layout, encoded_layout
from aisle.text.tokens import TokenizedTexts
from aisle.training.batch_plan import BatchPlan
from aisle.training.batches import Collator
from aisle.training.loop import Trainer
from aisle.training.schedule import Schedule
from aisle.training.selection import make_evaluator
from aisle.training.step import TrainingStep
from aisle.training.teacher_scores import Bar
from aisle.training.tokenized import TokenizedPairs
from aisle.training.train_state import TrainState
from aisle.training.validation import embed_texts
from aisle.training.validation_retrieval import known_elsewhere
from aisle.types.choices import Selection
from aisle.types.text_marks import CUT

SAMPLED_PAIRS = 32
"""Validation pairs to embed before and after training, to check that the model changed."""


def make_trainer(
    settings: TrainSettings,
    data: TrainingData,
    base: LoadedModel | LoadedCrossEncoder,
    accelerator: Any,
    *,
    log: Callable[[str], None],
    progress: Callable[[str, int], AbstractContextManager[Bar]],
) -> Trainer:
    """Return the trainer of a run, before its first step.

    Args:
        settings: Resolved settings.
        data: Training and validation pairs.
        base: Base model; its backbone is changed.
        accelerator: Accelerator of the run.
        log: Logs messages for the user.
        progress: Function that returns a progress bar, given its label and its total.
    """
    digests = {"train": digest_of(data.train), "validation": digest_of(data.validation)}
    tokenize = partial(tokenized, settings=settings, base=base, accelerator=accelerator, log=log)
    train = tokenize(data.train, digests["train"])
    validation = tokenize(data.validation, digests["validation"])
    cut = int(np.count_nonzero(train.marks & CUT))
    if cut:
        log(cut_note(cut, f"of {len(train.marks):,} distinct training texts"))
    plan, total_steps = _plan(settings.optim, train, ranks=accelerator.num_processes)
    settings = replace(settings, optim=_with_warmup(settings.optim, total_steps))
    loss, parameters = chosen_loss(settings.objective)
    known = _known_positives(train) if loss.contrasts else None
    taught = taught_pairs(
        train,
        data.train,
        plan,
        total_steps=total_steps,
        settings=settings,
        accelerator=accelerator,
        log=log,
        progress=progress,
    )
    train, scored = taught.train, taught.scored
    for warning in check_learnable(
        loss, parameters, settings.optim, train, plan, known=known, scored=scored, total_steps=total_steps
    ):
        log(f"warning: {warning}")

    state = TrainState()
    step, layout, padded_because = make_step(
        settings, base, train, accelerator, total_steps=total_steps, state=state, log=log
    )
    train_texts, validation_texts = train.texts, validation.texts
    if settings.head.freeze_encoder:
        keep_freed_memory()
        encoder: Any = base
        cache = open_vector_cache(settings, encoder, accelerator)
        encode = partial(with_vectors, cache=cache, accelerator=accelerator, log=log)
        tower: Any = step.forward.unwrapped
        train_texts = encode(train_texts, tower, layout)
        validation_texts = encode(validation_texts, tower, layout)
        layout = encoded_layout(layout)
    if isinstance(base, LoadedCrossEncoder):
        evaluate, sample = reranker_evaluation(
            settings, data, base, validation, step, layout, accelerator, log=log
        )
    else:
        evaluate, sample = _evaluation(
            settings, data, validation, validation_texts, step, layout, accelerator, log
        )
    return Trainer(
        accelerator=accelerator,
        step=step,
        plan=plan,
        schedule=_schedule(settings.run, total_steps),
        collate=Collator(
            pairs=train,
            layout=layout,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            known=known,
            unit=loss.unit,
            texts=train_texts,
            measured=settings.run.batch_metrics,
            scored=scored,
        ),
        evaluate=evaluate,
        sample=sample,
        selection_metric=selected_metric(settings) if settings.run.keep == "best" else None,
        log=log,
        on_log=lambda _: None,
        on_evaluation=lambda _: None,
        checkpoints_dir=Path(str(settings.run.output_dir)) / "checkpoints",
        identity=run_identity(
            settings,
            base,
            **digests,
            total_steps=total_steps,
            accelerator=accelerator,
            teacher=taught.fingerprint,
        ),
        state=state,
        padded_because=padded_because,
    )


def _plan(optim: OptimSettings, train: TokenizedPairs, *, ranks: int) -> tuple[BatchPlan, int]:
    """Return the plan of which pairs share a step, and the number of steps of the run."""
    plan = BatchPlan(
        pairs=len(train),
        batch_size=optim.per_device_train_batch_size,
        num_processes=ranks,
        accumulation=optim.gradient_accumulation_steps,
        seed=optim.seed,
        groups=_kept_together(optim, train),
        together=optim.texts_per_group if train.texts_of_groups else None,
    )
    total_steps = optim.max_train_steps or optim.num_train_epochs * plan.steps_per_epoch
    if optim.num_warmup_steps > total_steps:
        raise ConfigError(
            f"--num_warmup_steps {optim.num_warmup_steps}: must be at most the run's {total_steps} steps"
        )
    return plan, total_steps


def _kept_together(optim: OptimSettings, train: TokenizedPairs) -> np.ndarray | None:
    """Return the group of each row that a batch keeps together: its text's group, or its query."""
    if train.texts_of_groups:
        return train.groups
    return train.query_keys[train.queries] if optim.group_by_query else None


def _with_warmup(optim: OptimSettings, total_steps: int) -> OptimSettings:
    """Return the settings with the number of warm-up steps that --warmup_share means, rounded down."""
    if optim.warmup_share is None:
        return optim
    return replace(optim, num_warmup_steps=int(optim.warmup_share * total_steps))


def _evaluation(
    settings: TrainSettings,
    data: TrainingData,
    validation: TokenizedPairs,
    texts: TokenizedTexts,
    step: TrainingStep,
    layout: Layout,
    accelerator: Any,
    log: Callable[[str], None],
) -> tuple[Callable[[], dict[str, Any]], Callable[[], np.ndarray]]:
    """Return functions that evaluate the current model and embed a few texts with it, on all ranks."""
    embed = partial(
        embed_texts,
        accelerator,
        step.forward.model,
        texts,
        layout=replace(layout, static_length=None),
        max_texts=settings.optim.per_device_eval_batch_size,
    )
    evaluate = make_evaluator(
        accelerator,
        validation,
        _selection(settings.run),
        embed,
        also_right=lambda: np.concatenate(
            [known_elsewhere(data.validation, validation, other) for other in (data.train, data.validation)],
            axis=1,
        ),
        log=log,
        sample=settings.run.eval_sample,
        seed=settings.optim.seed,
    )
    sampled = np.concatenate([validation.queries[:SAMPLED_PAIRS], validation.products[:SAMPLED_PAIRS]])
    return evaluate, lambda: embed(sampled).cpu().numpy()


def _selection(run: RunSettings) -> Selection:
    assert run.selection is not None  # resolved before
    return run.selection


def _schedule(run: RunSettings, total_steps: int) -> Schedule:
    return Schedule(
        total_steps=total_steps,
        eval_steps=run.eval_steps,
        logging_steps=run.logging_steps,
        checkpointing_steps=run.checkpointing_steps,
        checkpoints_to_keep=run.checkpoints_to_keep,
        early_stopping_patience=run.early_stopping_patience,
        eval_epochs=run.eval_epochs,
    )


def _known_positives(train: TokenizedPairs) -> KnownPositives:
    queries, products = train.query_keys[train.queries], train.product_keys[train.products]
    positive = train.positive(np.arange(len(train)))
    known = KnownPositives.of(queries, products, positive)
    if not len(train.subgroups):
        return known
    rows = np.repeat(np.arange(len(train)), np.diff(train.negative_offsets))
    subgroups = Subgroups.of(
        np.concatenate([train.subgroups, train.subgroups[rows]]),
        np.concatenate([queries, queries[rows]]),
        np.concatenate([products, train.product_keys[train.negatives]]),
        np.concatenate([~positive, np.ones(len(rows), bool)]),
    )
    return replace(known, subgroups=subgroups)
