"""Write pairs with their mined hard negatives, as jsonl or parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aisle.data.pairs import Pairs
from aisle.io.arrow_writer import writing
from aisle.io.durable import replacing
from aisle.mining.mined import MinedNegative

HARD_NEGATIVES, HARD_NEGATIVE_IDS = "hard_negatives", "hard_negative_ids"
COLUMNS = ("query_id", "query", "product_id", "product", "relevance")
"""Columns of pairs that are written if there are any, before those of the hard negatives."""
BATCH_PAIRS = 10_000

Negatives = Sequence[Sequence[MinedNegative]]


def write_pairs(pairs: Pairs, negatives: Negatives, path: Path) -> None:
    """Write the pairs in one step, in their order; pairs that are not positives have none.

    Args:
        pairs: Pairs to write.
        negatives: Hard negatives of each pair.
        path: Path of the file, .jsonl or .parquet.

    Raises:
        DataError: The file cannot be written.
    """
    with (
        writing(path, what="pairs", mend="Free some space or name another file."),
        replacing(path) as beside,
    ):
        if path.name.lower().endswith(".parquet"):
            _write_parquet(pairs, negatives, beside)
        else:
            with beside.open("w", encoding="utf-8", newline="\n") as stream:
                for batch in _batches(pairs, negatives):
                    stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(batch))


def _write_parquet(pairs: Pairs, negatives: Negatives, path: Path) -> None:
    writer = None
    try:
        for batch in _batches(pairs, negatives):
            writer = writer or pq.ParquetWriter(path, batch.schema)
            writer.write_table(batch)
    finally:
        if writer is not None:
            writer.close()


def _batches(pairs: Pairs, negatives: Negatives) -> Iterator[pa.Table]:
    stored = pairs.table.with_format("arrow")
    names = [name for name in COLUMNS if name in stored.column_names]
    for start in range(0, len(pairs), BATCH_PAIRS):
        table = stored[start : start + BATCH_PAIRS].select(names)
        found = negatives[start : start + BATCH_PAIRS]
        listed = {
            HARD_NEGATIVES: [[negative.text for negative in each] for each in found],
            HARD_NEGATIVE_IDS: [[negative.product_id for negative in each] for each in found],
        }
        for name, values in listed.items():
            table = table.append_column(name, pa.array(values, pa.list_(pa.string())))
        yield table


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows for json, with a relevance in single precision as its shortest decimal."""
    if "relevance" in table.column_names:
        at = table.column_names.index("relevance")
        decimals = table.column("relevance").cast("string").cast("double")
        table = table.set_column(at, "relevance", decimals)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
