"""Collect the marks (cut off, unknown) of a catalogue's texts: new marks, and marks of the version before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.commands.indexing.embedding import MARKS_SUFFIX, SHARD_TEXTS, EmbeddingPlan
from aisle.index import StoredProducts, Writer
from aisle.index.array_files import read_marks, write_array
from aisle.index.manifest import MARKS_FILE
from aisle.index.products import take_rows
from aisle.search.load_encoder import LoadedEncoder
from aisle.types.columns import TEXT_COLUMN


def stage_marks(
    writer: Writer,
    plan: EmbeddingPlan,
    known: StoredProducts | None,
    products: pa.Table,
    encoder: LoadedEncoder,
) -> None:
    """Write the marks of all products' texts into the staged version; see `marks_in_order`."""
    marks = marks_in_order(plan, known, writer.shards, products, encoder)
    write_array(writer.staging / MARKS_FILE, marks)


def marks_in_order(
    plan: EmbeddingPlan,
    known: StoredProducts | None,
    folder: Path,
    products: pa.Table,
    encoder: LoadedEncoder | None,
) -> npt.NDArray[np.uint8]:
    """Return the marks of all products' texts, in order: (products,) uint8, see `types.text_marks`.

    A text that reuses an embedding reuses its mark too; if the version before has no marks, the text is
    tokenised again.

    Args:
        plan: Plan with all its shards in the folder.
        known: Version before.
        folder: Folder of the shards.
        products: Products with their texts.
        encoder: Encoder with the tokenizer; may be None if the version before has marks.
    """
    marks = np.zeros(len(plan.source), np.uint8)
    reused = plan.source < 0
    fresh = [np.load(folder / f"{key}{MARKS_SUFFIX}", allow_pickle=False) for key in plan.keys]
    if fresh:
        marks[~reused] = np.concatenate(fresh)[plan.source[~reused]]
    if known is None or not reused.any():
        return marks
    before = read_marks(known.directory, count=known.manifest.count)
    if before is not None:
        marks[reused] = before[-1 - plan.source[reused]]
        return marks
    if encoder is None:
        raise ValueError("the version before has no marks, and without an encoder its texts cannot be marked")
    rows = np.flatnonzero(reused)
    for start in range(0, len(rows), SHARD_TEXTS):
        part = rows[start : start + SHARD_TEXTS]
        texts = take_rows(products.select([TEXT_COLUMN]), part).column(0).to_pylist()
        marks[part] = encoder.tokenize_products(texts, marked=True).marks
    return marks
