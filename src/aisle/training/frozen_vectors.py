"""Vectors of a frozen encoder: each distinct text is encoded once, by one rank, and cached on disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from aisle.errors import TrainingError
from aisle.io.embedding_cache import KEY_BYTES, MISSING, EmbeddingCache, key_of
from aisle.models.tower import Tower
from aisle.text.batch_layout import Layout
from aisle.text.tokens import TokenizedTexts
from aisle.training.distributed import wait_for_all
from aisle.training.out_of_memory import advising_on_memory

MOST_TEXTS = 65_536
"""Most texts to encode before their vectors are written."""
MOST_SECONDS = 60.0
"""Longest time in seconds to encode before the vectors are written: an interrupted run loses no more."""
ADVICE = "Give a lower --max_tokens_per_sub_batch or --max_length"


@dataclass(frozen=True)
class FrozenVectors:
    """Vectors of tokenised texts, read from a cache.

    Args:
        cache: Cache with all of them.
        places: (texts,) place of each text in the cache.
    """

    cache: EmbeddingCache
    places: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors of some texts: (rows, dim) float32."""
        return self.cache.take(self.places[rows])


def frozen_vectors(
    cache: EmbeddingCache,
    texts: TokenizedTexts,
    tower: Tower,
    *,
    layout: Layout,
    accelerator: Any,
    log: Callable[[str], None],
) -> FrozenVectors:
    """Return the frozen encoder's vectors of texts; those that the cache lacks are encoded and added.

    Each of n ranks is responsible for every n-th text; call on all ranks.

    Args:
        cache: Cache of the tower's frozen encoder.
        texts: Distinct tokenised texts.
        tower: Tower with a frozen encoder, unwrapped, on its device.
        layout: Layout of texts for the backbone.
        accelerator: Accelerator of the run.
        log: Logs messages for the user.

    Raises:
        TrainingError: The cache cannot be written, or memory ran out.
    """
    keys = keys_of(texts)
    _, first = np.unique(keys, return_index=True)
    by_length = first[np.argsort(-texts.lengths(first), kind="stable")]
    missing = cache.find(keys[by_length]) == MISSING
    for path in cache.newly_damaged():
        log(f"warning: {path}: is no whole file of vectors, and is not read; remove it")
    log(f"frozen encoder: {len(by_length):,} texts; encoding the {missing.sum():,} that {cache.folder} lacks")
    # The share of a rank does not depend on what is missing, which other runs may be adding just now.
    turns = np.arange(len(by_length)) % accelerator.num_processes
    mine = by_length[missing & (turns == accelerator.process_index)]
    with advising_on_memory("encoding texts", ADVICE):
        _add(cache, texts, keys, mine, tower, layout=layout, accelerator=accelerator)
    wait_for_all(accelerator)
    if accelerator.process_index == 0:
        _compact(cache, log)
    cache.refresh()
    places = cache.find(keys)
    if (places == MISSING).any():
        raise TrainingError(f"{cache.folder}: vectors that were just written are gone; start the run again")
    return FrozenVectors(cache, places)


def keys_of(texts: TokenizedTexts) -> np.ndarray:
    """Return the key of each text: a hash of its tokens, prompt included, after it is cut: (texts,) S16."""
    keys = b"".join(key_of(np.asarray(texts[number], dtype="<i4").tobytes()) for number in range(len(texts)))
    return np.frombuffer(keys, dtype=f"S{KEY_BYTES}")


def _add(
    cache: EmbeddingCache,
    texts: TokenizedTexts,
    keys: np.ndarray,
    numbers: np.ndarray,
    tower: Tower,
    *,
    layout: Layout,
    accelerator: Any,
) -> None:
    """Encode texts, and add their vectors to the cache, in several segments if it takes long."""
    done: list[np.ndarray] = []
    vectors: list[np.ndarray] = []
    started = time.monotonic()

    def write() -> None:
        try:
            cache.add(keys[np.concatenate(done)], np.concatenate(vectors))
        except OSError as error:
            raise TrainingError(
                f"{cache.folder}: the vectors of the frozen encoder cannot be written: {error}; free some "
                "space, or give another folder with --embedding_cache. Vectors written before are kept"
            ) from None
        done.clear()
        vectors.clear()

    with torch.no_grad(), accelerator.autocast():
        for rows in layout.rows(texts.lengths(numbers)):
            batch = layout.batch(texts, numbers[rows]).to(accelerator.device)
            vectors.append(tower.encode(batch).cpu().numpy())
            done.append(numbers[rows])
            if sum(map(len, done)) >= MOST_TEXTS or time.monotonic() - started >= MOST_SECONDS:
                write()
                started = time.monotonic()
    if done:
        write()


def _compact(cache: EmbeddingCache, log: Callable[[str], None]) -> None:
    try:
        if cache.compact():
            log(f"merged the small files of vectors in {cache.folder}")
    except OSError as error:
        log(f"warning: {cache.folder}: its small files cannot be merged ({error}); they are still read")


def cache_folder(parent: Path, *, fingerprint: str, precision: str) -> Path:
    """Return the folder of an encoder's vectors: another encoder or precision has another folder.

    Args:
        parent: Folder of all caches.
        fingerprint: Fingerprint of the frozen encoder, its settings included.
        precision: Precision in which it computes.
    """
    return parent / f"{fingerprint[:32]}-{precision}"
