"""Embeddings of queries from a cache on disk: each distinct query is encoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aisle.errors import TrainingError
from aisle.io.embedding_cache import KEY_BYTES, MISSING, EmbeddingCache, key_of
from aisle.training.frozen_vectors import MOST_TEXTS, cache_folder
from aisle.types.encoder_protocol import Encoder

__all__ = ["cached_queries"]

ENCODED_AT_A_TIME = 2048


def cached_queries(
    parent: Path,
    encoder: Encoder,
    texts: Sequence[str],
    *,
    precision: str,
    log: Callable[[str], None],
    on_progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the embeddings of queries, (queries, dim); those that the cache lacks are encoded and added.

    Args:
        parent: Folder of all caches; the encoder has its own folder in it.
        encoder: Encoder of the queries, with a fingerprint.
        texts: Texts of the queries.
        precision: Precision in which the encoder computes, and its library if that is not torch.
        log: Logs messages for the user.
        on_progress: Called with the number of queries that were encoded since the last call.

    Raises:
        TrainingError: The cache cannot be read or written.
    """
    keys = np.frombuffer(b"".join(key_of(text.encode()) for text in texts), dtype=f"S{KEY_BYTES}")
    fingerprint = str(encoder.query_fingerprint)
    folder = cache_folder(parent, fingerprint=fingerprint, precision=f"queries-{precision}")
    try:
        cache = EmbeddingCache(folder / str(encoder.dim), dim=encoder.dim)
        _, first = np.unique(keys, return_index=True)
        missing = np.sort(first[cache.find(keys[first]) == MISSING])
        for path in cache.newly_damaged():
            log(f"warning: {path}: is no whole file of vectors, and is not read; remove it")
        log(f"{len(first):,} distinct queries; encoding the {len(missing):,} that {folder} lacks")
        for start in range(0, len(missing), MOST_TEXTS):
            part = missing[start : start + MOST_TEXTS]
            cache.add(keys[part], _encoded(encoder, [texts[number] for number in part], on_progress))
        places = cache.find(keys)
    except OSError as error:
        raise TrainingError(
            f"{folder}: the embeddings of the queries cannot be kept ({error}); free some space, or give a "
            "folder that can be written with --embedding_cache"
        ) from None
    if (places == MISSING).any():
        raise TrainingError(f"{folder}: embeddings that were just written are gone; run the command again")
    return cache.take(places)


def _encoded(
    encoder: Encoder, texts: Sequence[str], on_progress: Callable[[int], None] | None
) -> npt.NDArray[np.float32]:
    parts = []
    for start in range(0, len(texts), ENCODED_AT_A_TIME):
        part = texts[start : start + ENCODED_AT_A_TIME]
        parts.append(encoder.encode_queries(part))
        if on_progress is not None:
            on_progress(len(part))
    return np.concatenate(parts)
