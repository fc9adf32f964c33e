"""Encode the texts of a run with its frozen encoder, once, into a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.commands.train.run_dir import VECTORS
from aisle.commands.train.run_identity import base_fingerprint
from aisle.commands.train.settings import TrainSettings
from aisle.errors import TrainingError
from aisle.io.embedding_cache import EmbeddingCache
from aisle.models.backbone import hidden_size
from aisle.models.heads import output_dim
from aisle.models.loading import LoadedModel
from aisle.models.tower import Tower
from aisle.text.batch_layout import Layout
from aisle.text.tokens import TokenizedTexts
from aisle.training.frozen_vectors import cache_folder, frozen_vectors


def open_vector_cache(settings: TrainSettings, base: LoadedModel, accelerator: Any) -> EmbeddingCache:
    """Return the cache of a run's frozen encoder.

    Args:
        settings: Settings with the folder of the cache.
        base: Model that training starts from: the encoder.
        accelerator: Accelerator of the run.

    Raises:
        TrainingError: The folder cannot be used.
    """
    given = settings.head.embedding_cache
    parent = Path(str(settings.run.output_dir)) / VECTORS if given is None else Path(given)
    folder = cache_folder(parent, fingerprint=base_fingerprint(base), precision=accelerator.mixed_precision)
    try:
        return EmbeddingCache(folder, dim=output_dim(base.heads, hidden_size(base.backbone)))
    except OSError as error:
        raise TrainingError(
            f"--embedding_cache {parent}: cannot be used ({error}); give a folder that can be written"
        ) from None


def with_vectors(
    texts: TokenizedTexts,
    tower: Tower,
    layout: Layout,
    *,
    cache: EmbeddingCache,
    accelerator: Any,
    log: Callable[[str], None],
) -> TokenizedTexts:
    """Return texts with the vectors of a frozen encoder; call on all ranks.

    Args:
        texts: Tokenised texts.
        tower: Tower with the frozen encoder.
        layout: Layout of texts for the backbone.
        cache: Cache of the encoder.
        accelerator: Accelerator of the run.
        log: Logs messages for the user.

    Raises:
        TrainingError: The cache cannot be read or written, or memory ran out.
    """
    vectors = frozen_vectors(cache, texts, tower, layout=layout, accelerator=accelerator, log=log)
    return replace(texts, vectors=vectors)
