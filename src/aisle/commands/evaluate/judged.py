"""Queries with their judgements, read from files that have to fit each other and the catalogue."""

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
"""Ids of a catalogue that are Python texts at a time."""


@dataclass(frozen=True)
class Judged:
    """Queries with judgements.

    Args:
        queries: query id -> text, of those that are judged.
        qrels: query id -> product id -> relevance.
        unknown: ids of judged queries that have no text.
        unjudged: queries with a text and no judgement, which are not asked.
        source: name of the judgements' file.
        notes: what has to be known of the reading.
    """

    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, float]]
    unknown: tuple[str, ...] = ()
    unjudged: int = 0
    source: str = "the judgements"
    notes: tuple[str, ...] = ()


def read_judged(
    queries_file: str,
    qrels_files: Sequence[str],
    label_map: Mapping[str, float] | None,
    *,
    id_column: str | None = None,
    query_id_column: str | None = None,
    text_format: TextFormat = PLAIN_TEXT,
) -> Judged:
    """Return the judged queries.

    Args:
        queries_file: ids and texts of queries.
        qrels_files: judgements of them, joined.
        label_map: what each label is worth; None where the labels are numbers.
        id_column: column of the judgements with the product ids; None finds it.
        query_id_column: column of both files with the query ids; None finds it.
        text_format: how text files are written.

    Raises:
        DataError: a file cannot be read, or no judged query has a text.
    """
    notes: list[str] = []
    qrels = read_qrels(
        map(Path, qrels_files),
        label_map=label_map,
        query_id_column=query_id_column,
        product_id_column=id_column,
        text_format=text_format,
        say=notes.append,
    )
    source = ", ".join(qrels_files)
    texts = read_queries([Path(queries_file)], query_id_column=query_id_column, text_format=text_format)
    queries = {query_id: text for query_id, text in texts.items() if query_id in qrels}
    if not queries:
        raise DataError(
            no_common_ids("query", one=source, ours=qrels, other=queries_file, theirs=texts, count=len(texts))
        )
    return Judged(
        queries,
        qrels,
        unknown=tuple(query_id for query_id in qrels if query_id not in queries),
        unjudged=len(texts) - len(queries),
        source=source,
        notes=tuple(notes),
    )


def check_products(judged: Judged, product_ids: pa.ChunkedArray, *, catalogue: str) -> None:
    """Refuse judgements by which every ranking of a catalogue would be worth nothing.

    Args:
        judged: queries and judgements.
        product_ids: of the catalogue.
        catalogue: what to call it.

    Raises:
        DataError: no relevant product of any query that can be asked is in the catalogue.
    """
    relevant = {
        product: None
        for query_id in judged.queries
        for product, relevance in judged.qrels[query_id].items()
        if relevance > 0
    }
    # Without a relevant product at all the metrics say so themselves.
    if relevant and not known_products(relevant, product_ids):
        raise DataError(
            no_common_ids(
                "relevant product",
                one=judged.source,
                ours=relevant,
                other=catalogue,
                theirs=catalogue_texts(product_ids),
                count=len(product_ids),
            )
        )


def known_products(ids: Mapping[str, object], product_ids: pa.ChunkedArray) -> list[str]:
    """Return those of `ids` that a catalogue has; its own ids, which may be millions, stay in Arrow."""
    asked = pa.array(list(ids), pa.string())
    known = pyarrow.compute.is_in(asked, value_set=product_ids.combine_chunks())
    found: list[str] = asked.filter(known).to_pylist()
    return found


def catalogue_texts(product_ids: pa.ChunkedArray) -> Iterator[str]:
    """Yield the ids of a catalogue, a chunk of them as Python texts at a time."""
    for start in range(0, len(product_ids), CHUNK_IDS):
        yield from product_ids.slice(start, CHUNK_IDS).to_pylist()
