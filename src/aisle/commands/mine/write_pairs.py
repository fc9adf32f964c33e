"""Write pairs with their mined hard negatives, as jsonl or parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aisle.data.pairs import Pairs
from aisle.io.arrow_writer import writing
from aisle.io.durable import replacing
from aisle.mining.hard_negatives import Mined
from aisle.mining.known_products import POSITIVE_ABOVE

HARD_NEGATIVES, HARD_NEGATIVE_IDS = "hard_negatives", "hard_negative_ids"
COLUMNS = ("query_id", "query", "product_id", "product", "relevance")
"""Columns of pairs that are written if there are any, before those of the hard negatives."""
BATCH_PAIRS = 10_000


def write_pairs(pairs: Pairs, mined: Mined, path: Path) -> None:
    """Write the pairs in one step, in their order; pairs that are no positives have no hard negatives.

    Args:
        pairs: Pairs to write.
        mined: Hard negatives of their queries.
        path: Path of the file, .jsonl or .parquet.

    Raises:
        DataError: The file cannot be written.
    """
    with (
        writing(path, what="pairs", mend="Free some space or name another file."),
        replacing(path) as beside,
    ):
        if path.name.lower().endswith(".parquet"):
            _write_parquet(pairs, mined, beside)
        else:
            with beside.open("w", encoding="utf-8", newline="\n") as stream:
                for batch in _batches(pairs, mined):
                    stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(batch))


def _write_parquet(pairs: Pairs, mined: Mined, path: Path) -> None:
    writer = None
    try:
        for batch in _batches(pairs, mined):
            writer = writer or pq.ParquetWriter(path, batch.schema)
            writer.write_table(batch)
    finally:
        if writer is not None:
            writer.close()


def _batches(pairs: Pairs, mined: Mined) -> Iterator[pa.Table]:
    stored = pairs.table.with_format("arrow")
    names = [name for name in COLUMNS if name in stored.column_names]
    for start in range(0, len(pairs), BATCH_PAIRS):
        table = stored[start : start + BATCH_PAIRS].select(names)
        queries = table.column("query").to_pylist()
        relevance = table.column("relevance").to_pylist() if "relevance" in names else [1.0] * len(queries)
        found = [
            mined.negatives[query] if level > POSITIVE_ABOVE else []
            for query, level in zip(queries, relevance, strict=True)
        ]
        listed = {
            HARD_NEGATIVES: [[negative.text for negative in negatives] for negatives in found],
            HARD_NEGATIVE_IDS: [[negative.product_id for negative in negatives] for negatives in found],
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
