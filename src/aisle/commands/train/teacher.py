"""Score the pairs of a run with its teacher, each once, into a cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aisle.commands.train.loss_settings import chosen_loss
from aisle.commands.train.run_dir import TEACHER
from aisle.commands.train.settings import TrainSettings
from aisle.data.adjacency import Ints
from aisle.data.pairs import Pairs
from aisle.data.scored_products import ScoredProducts
from aisle.errors import ModelError, TrainingError
from aisle.io.embedding_cache import EmbeddingCache
from aisle.training.batch_plan import BatchPlan
from aisle.training.teacher_lists import batch_pairs, listed_pairs, scored_products_of
from aisle.training.teacher_scores import Bar, ScoredTexts, teacher_scores
from aisle.training.tokenized import TokenizedPairs


@dataclass(frozen=True)
class TaughtPairs:
    """Training pairs with the scores of a teacher, where the loss needs them.

    Attributes:
        train: Training pairs.
        scored: Products that the teacher scored for each query, for a loss that takes lists of them.
        fingerprint: Fingerprint of the teacher; None if the scores are in the data, or not needed.
    """

    train: TokenizedPairs
    scored: ScoredProducts | None = None
    fingerprint: str | None = None


def taught_pairs(
    train: TokenizedPairs,
    pairs: Pairs,
    plan: BatchPlan,
    *,
    total_steps: int,
    settings: TrainSettings,
    accelerator: Any,
    log: Callable[[str], None],
    progress: Callable[[str, int], AbstractContextManager[Bar]],
) -> TaughtPairs:
    """Return the training pairs with the scores of --teacher, or of their columns; call on all ranks.

    Args:
        train: Tokenised training pairs.
        pairs: The same pairs, with their texts.
        plan: Pairs of each batch, for the lists of --teacher_lists in_batch.
        total_steps: Steps of the run.
        settings: Resolved settings.
        accelerator: Accelerator of the run.
        log: Logs messages for the user.
        progress: Function that returns a progress bar, given its label and the number of pairs.

    Raises:
        ModelError: The teacher cannot be loaded.
        TrainingError: The cache cannot be read or written, or memory ran out.
    """
    takes_lists = chosen_loss(settings.objective)[0].takes_lists
    name = settings.distillation.teacher
    if name is None:
        return TaughtPairs(train, scored_products_of(train) if takes_lists else None)
    from aisle.models.torch_reranker import load_torch_reranker

    try:
        teacher = load_torch_reranker(name, device=accelerator.device.type)
    except ModelError as error:
        why = str(error).removeprefix(f"{name}: ")
        raise ModelError(f"--teacher {name}: must be a cross-encoder, a folder or a Hub id; {why}") from None
    queries, products = listed_pairs(train)
    if settings.distillation.teacher_lists == "in_batch":
        of_batches = batch_pairs(train, plan, total_steps=total_steps)
        queries, products = np.append(queries, of_batches[0]), np.append(products, of_batches[1])
    scores = teacher_scores(
        teacher.score,
        _cache(settings, teacher.fingerprint),
        _texts(train, pairs, queries, products),
        accelerator=accelerator,
        log=log,
        progress=progress,
    )
    count = len(train)
    train = replace(
        train,
        teacher_scores=scores[:count],
        negative_scores=scores[count : count + len(train.negatives)],
    )
    scored = ScoredProducts.of(queries, products, scores) if takes_lists else None
    return TaughtPairs(train, scored, teacher.fingerprint)


def _cache(settings: TrainSettings, fingerprint: str) -> EmbeddingCache:
    """Return the cache of a teacher's scores; another teacher has another folder."""
    given = settings.distillation.teacher_cache
    parent = Path(str(settings.run.output_dir)) / TEACHER if given is None else Path(given)
    try:
        return EmbeddingCache(parent / fingerprint[:32], dim=1)
    except OSError as error:
        raise TrainingError(
            f"--teacher_cache {parent}: cannot be used ({error}); give a folder that can be written"
        ) from None


def _texts(train: TokenizedPairs, pairs: Pairs, queries: Ints, products: Ints) -> ScoredTexts:
    """Return pairs to score, given the numbers of their texts; a teacher reads texts without prompts."""
    return ScoredTexts(
        _by_number(len(train.texts), (train.queries, pairs.queries)),
        _by_number(
            len(train.texts),
            (train.products, pairs.products),
            (train.negatives, [text for row in pairs.hard_negatives or [] for text in row]),
        ),
        queries,
        products,
    )


def _by_number(count: int, *sides: tuple[Ints, Sequence[str]]) -> list[str | None]:
    """Return the texts by their numbers; None for a number without a text on this side."""
    found: list[str | None] = [None] * count
    for numbers, texts in sides:
        for number, text in zip(numbers.tolist(), texts, strict=True):
            found[number] = text
    return found
