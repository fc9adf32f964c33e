"""The products that a build's settings name, written to a file."""

from __future__ import annotations

from pathlib import Path

from aisle.config.index import BuildSettings
from aisle.data.catalog_file import CatalogFile, write_catalog, write_distinct_products
from aisle.data.files import expand_files, iter_rows
from aisle.data.pairs import PairColumns
from aisle.data.sources import iter_split, resolve_dataset


def read_products_of(settings: BuildSettings, path: Path) -> CatalogFile:
    """Return the products of --catalog or --pairs, read, checked and written to `path`.

    Raises:
        AisleError: they cannot be read, or a row is bad and bad rows are errors.
    """
    if settings.catalog:
        return write_catalog(
            iter_rows(expand_files(settings.catalog)),
            path,
            id_column=settings.id_column,
            text_template=settings.text_template,
            on_bad_row=settings.on_bad_row,
        )
    columns = PairColumns(
        query=None,
        product=settings.product_column,
        label=None,
        query_id=None,
        product_id=settings.product_id_column,
    )
    names = settings.pairs or ()
    if len(names) > 1:
        rows = iter_rows(expand_files(names))
    else:
        rows = iter_split(resolve_dataset(names[0]), settings.split)
    return write_distinct_products(rows, path, columns=columns, on_bad_row=settings.on_bad_row)
