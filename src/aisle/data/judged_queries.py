"""Read queries with their judgements, and check that both and the catalogue use the same ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute

from aisle.data.judgements import read_qrels, read_queries
from aisle.data.text_files import PLAIN_TEXT, TextFormat
from aisle.errors import DataError
from aisle.types.ids import no_common_ids

CHUNK_IDS = 65_536
"""Ids of a catalogue that are held as Python strings at a time."""


@dataclass(frozen=True)
class JudgedQueries:
    """Queries with judgements.

    Args:
        queries: Query id -> text of each judged query.
        qrels: Query id -> product id -> relevance.
        unknown: Ids of judged queries without a text.
        unjudged: Number of queries with a text and no judgement; they are left out.
        source: Name of the judgements' file.
        notes: Remarks of the reader, for people.
    """

    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, float]]
    unknown: tuple[str, ...] = ()
    unjudged: int = 0
    source: str = "the judgements"
    notes: tuple[str, ...] = ()


def read_judged_queries(
    queries_file: str,
    qrels_files: Sequence[str],
    label_map: Mapping[str, float] | None,
    *,
    id_column: str | None = None,
    query_id_column: str | None = None,
    text_format: TextFormat = PLAIN_TEXT,
) -> JudgedQueries:
    """Return the judged queries.

    Args:
        queries_file: File with the ids and texts of queries.
        qrels_files: Files with their judgements, which are joined.
        label_map: Gain of each label; None if the labels are numbers.
        id_column: Column of the judgements with the product ids; None finds it.
        query_id_column: Column of both files with the query ids; None finds it.
        text_format: Delimiter and encoding of text files.

    Raises:
        DataError: A file cannot be read, or no judged query has a text.
    """
    notes: list[str] = []
    qrels = read_qrels(
        map(Path, qrels_files),
        label_map=label_map,
        query_id_column=query_id_column,
        product_id_column=id_column,
        text_format=text_format,
        log=notes.append,
    )
    source = ", ".join(qrels_files)
    texts = read_queries([Path(queries_file)], query_id_column=query_id_column, text_format=text_format)
    queries = {query_id: text for query_id, text in texts.items() if query_id in qrels}
    if not queries:
        raise DataError(
            no_common_ids("query", one=source, ours=qrels, other=queries_file, theirs=texts, count=len(texts))
        )
    return JudgedQueries(
        queries,
        qrels,
        unknown=tuple(query_id for query_id in qrels if query_id not in queries),
        unjudged=len(texts) - len(queries),
        source=source,
        notes=tuple(notes),
    )


def check_judged_products(judged: JudgedQueries, product_ids: pa.ChunkedArray, *, catalogue: str) -> None:
    """Refuse judgements if all their relevant products are missing from a catalogue.

    Args:
        judged: Queries and judgements.
        product_ids: Product ids of the catalogue.
        catalogue: Name of the catalogue in messages.

    Raises:
        DataError: The catalogue has no relevant product of any judged query.
    """
    relevant = {
        product: None
        for query_id in judged.queries
        for product, relevance in judged.qrels[query_id].items()
        if relevance > 0
    }
    # Judgements without any relevant product are reported by the metrics.
    if relevant and not known_products(relevant, product_ids):
        raise DataError(
            no_common_ids(
                "relevant product",
                one=judged.source,
                ours=relevant,
                other=catalogue,
                theirs=iter_ids(product_ids),
                count=len(product_ids),
            )
        )


def known_products(ids: Mapping[str, object], product_ids: pa.ChunkedArray) -> list[str]:
    """Return the `ids` that a catalogue has; its own ids, which may be millions, stay in Arrow."""
    asked = pa.array(list(ids), pa.string())
    known = pyarrow.compute.is_in(asked, value_set=product_ids.combine_chunks())
    found: list[str] = asked.filter(known).to_pylist()
    return found


def iter_ids(product_ids: pa.ChunkedArray) -> Iterator[str]:
    """Yield the ids of a catalogue; a chunk of them is held as Python strings at a time."""
    for start in range(0, len(product_ids), CHUNK_IDS):
        yield from product_ids.slice(start, CHUNK_IDS).to_pylist()
