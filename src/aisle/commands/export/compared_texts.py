"""Read the texts on which an exported bundle is compared with its source."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from aisle.commands.export.settings import ExportSettings
from aisle.data.catalog_file import write_catalog
from aisle.data.files import expand_files, iter_rows
from aisle.data.judged_queries import JudgedQueries, check_judged_products, read_judged_queries
from aisle.data.judgements import read_queries
from aisle.data.text_files import TextFormat
from aisle.export.sample_texts import Judgements, SampleTexts, added_texts, sample_shop_texts
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

MOST_TEXTS = 2_000
"""Texts of --catalog and of --queries that are compared, unless they are judged."""


def compared_texts(settings: ExportSettings) -> SampleTexts:
    """Return the texts to compare, from the user's files and the sample shop.

    The sample shop replaces a file that is not given. Some of its texts are added to those of a file.

    Raises:
        DataError: A file cannot be read, or judgements, queries and catalogue do not fit together.
    """
    text_format = TextFormat.of(settings.delimiter, settings.encoding)
    shop = sample_shop_texts()
    added = added_texts(shop)
    more_queries = added.queries if settings.queries else ()
    more_products = added.products if settings.catalog else ()
    ids, products = _products(settings) if settings.catalog else ((), shop.products)
    if settings.qrels is not None and settings.queries is not None:
        judged = _judged(settings, ids)
        return SampleTexts(
            tuple(judged.queries.values()),
            products,
            Judgements(tuple(judged.queries), ids, judged.qrels),
            more_queries,
            more_products,
        )
    queries: Sequence[str] = shop.queries
    if settings.queries is not None:
        texts = read_queries(
            [Path(settings.queries)], query_id_column=settings.query_id_column, text_format=text_format
        )
        queries = _spread(list(texts.values()))
    return SampleTexts(queries, _spread(products), None, more_queries, more_products)


def _products(settings: ExportSettings) -> tuple[Sequence[str], Sequence[str]]:
    """Return the ids and texts of the catalogue, as a build would embed them."""
    text_format = TextFormat.of(settings.delimiter, settings.encoding)
    ids: list[str] = []
    texts: list[str] = []
    with tempfile.TemporaryDirectory(prefix="aisle-catalog-") as folder:
        written = write_catalog(
            iter_rows(expand_files(settings.catalog or ()), text=text_format),
            Path(folder) / "catalog.arrow",
            id_column=settings.id_column,
            text_template=settings.text_template,
            on_bad_row=settings.on_bad_row,
        )
        for batch in written.batches():
            ids += batch.column(ID_COLUMN).to_pylist()
            texts += batch.column(TEXT_COLUMN).to_pylist()
    return ids, texts


def _judged(settings: ExportSettings, product_ids: Sequence[str]) -> JudgedQueries:
    """Read the judged queries, and check that they judge products of the catalogue."""
    judged = read_judged_queries(
        settings.queries or "",
        settings.qrels or (),
        settings.label_map,
        id_column=settings.qrels_id_column,
        query_id_column=settings.query_id_column,
        text_format=TextFormat.of(settings.delimiter, settings.encoding),
    )
    ids = pa.chunked_array([pa.array(product_ids, pa.string())])
    check_judged_products(judged, ids, catalogue="--catalog")
    return judged


def _spread(texts: Sequence[str]) -> Sequence[str]:
    """Return at most `MOST_TEXTS` texts, from everywhere in the list."""
    step = max(1, -(-len(texts) // MOST_TEXTS))
    return texts[::step]
