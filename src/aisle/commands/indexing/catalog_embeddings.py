"""Embed a catalogue into a memory-mapped file, once for each encoder and content."""

from __future__ import annotations

import shutil
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.commands.indexing.embedding import (
    embed_shards,
    embeddings_in_order,
    plan_embeddings,
    product_digests,
)
from aisle.commands.output import Output
from aisle.commands.speed_notes import IN_BF16, speed_notes
from aisle.errors import ModelError
from aisle.index import StoredProducts
from aisle.index.array_files import read_array, write_embeddings
from aisle.io.durable import replacing
from aisle.search.load_encoder import LoadedEncoder
from aisle.training.process_group import Processes
from aisle.types.encoder_protocol import Precision

__all__ = ["Embeddings", "catalog_embeddings"]

Embeddings = npt.NDArray[np.float32]


def catalog_embeddings(
    products: pa.Table,
    encoder: LoadedEncoder,
    folder: Path,
    *,
    precision: Precision,
    processes: Processes,
    output: Output,
    role: str = "base",
    remedy: str | None = IN_BF16,
    known: StoredProducts | None = None,
) -> Embeddings:
    """Return the (count, dim) float32 embeddings of a catalogue, memory-mapped; call on every process.

    Earlier embeddings are read from `folder` if texts, order, encoder and compute type are the same.
    Otherwise the processes share the work; if one is killed, its finished shards are used by the next call.

    Args:
        products: Products of the index, with their texts.
        encoder: Embeds the texts.
        folder: Folder of the embeddings; files of the same encoder for other contents are removed.
        precision: Compute type.
        processes: Processes that were launched together; they share a file system.
        output: Shows progress.
        role: What the model is for, in messages.
        remedy: What the user can do to compute in half precision; None if nothing.
        known: Version of an index with embeddings of the same encoder, which are taken over by text.

    Raises:
        ModelError: An embedding is not finite or not of unit norm.
        IndexStoreError: The file cannot be written.
        OSError: A shard cannot be written.
    """
    made_by = repr((encoder.fingerprint, precision, encoder.dim))
    plan = plan_embeddings(products, known, made_by=made_by)
    encoder_key = blake2b(made_by.encode(), digest_size=8).hexdigest()
    path = folder / f"{encoder_key}-{_content_key(products)}.npy"
    shape = (products.num_rows, encoder.dim)
    if path.is_file():
        output.log(f"{role}: embeddings of {shape[0]:,} products are kept in {folder}")
        return read_array(path, shape=shape, dtype="float32")
    shards = path.with_suffix(".shards")
    shares = -(-len(plan.rows) // processes.count)
    for note in speed_notes(encoder, precision, texts=len(plan.rows), remedy=remedy):
        output.log(f"{role}: {note}")
    with output.progress(f"embedding with {encoder.name}", shares) as bar:
        embed_shards(
            plan,
            products,
            encoder,
            shards,
            precision=precision,
            max_tokens=None,
            process_index=processes.index,
            num_processes=processes.count,
            on_progress=bar.advance,
        )
    processes.wait()
    if processes.is_main:
        chunks = embeddings_in_order(plan, known, shards, dim=encoder.dim)
        try:
            with replacing(path) as staged:
                write_embeddings(staged, chunks, products=products, dim=encoder.dim, store_dtype="float32")
        except ModelError as error:
            raise ModelError(f"{role}: {encoder.name}: {error}") from None
        for other in folder.glob(f"*{encoder_key}-*"):  # also what a crash left half-written
            if other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
            elif other != path:
                other.unlink(missing_ok=True)
    processes.wait()
    return read_array(path, shape=shape, dtype="float32")


def _content_key(products: pa.Table) -> str:
    """Return a key that is equal for equal texts in the same order, whether they are known or embedded."""
    return blake2b(product_digests(products).tobytes(), digest_size=16).hexdigest()
