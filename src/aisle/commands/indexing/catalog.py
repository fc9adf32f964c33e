"""Read the products of a build from --catalog or --pairs, and write them to a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from aisle.commands.build.settings import BuildSettings
from aisle.commands.output import Output
from aisle.commands.passage_pairs import passage_pairs
from aisle.data.catalog_file import CatalogFile, write_catalog, write_distinct_products
from aisle.data.dataset_sources import iter_split, resolve_dataset, splits_of
from aisle.data.files import expand_files, iter_rows
from aisle.data.pairs import PairColumns
from aisle.data.payload import KnownColumns
from aisle.data.text_files import TextFormat
from aisle.errors import IndexStoreError
from aisle.index import read_manifest
from aisle.index.manifest import MANIFEST_FILE, PRODUCTS_FILE
from aisle.index.products import read_products
from aisle.index.version_folders import current_directory
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN


def read_products_of(
    settings: BuildSettings,
    folder: Path,
    known: KnownColumns | None,
    log: Callable[[str], None],
) -> CatalogFile:
    """Read and check the products of --catalog or --pairs, write them to a file and return it.

    Args:
        settings: Settings of the build.
        folder: Folder of the staged version, for the file.
        known: Columns of the version before, for comparing types.
        log: Logs the layout of --pairs if its rows are not pairs.

    Raises:
        AisleError: The products cannot be read, or a row is bad and bad rows are errors.
    """
    path, text = folder / PRODUCTS_FILE, TextFormat.of(settings.delimiter, settings.encoding)
    if settings.catalog:
        return write_catalog(
            iter_rows(expand_files(settings.catalog), text=text),
            path,
            id_column=settings.id_column,
            text_template=settings.text_template,
            text_columns=settings.text_columns,
            on_bad_row=settings.on_bad_row,
            known=known,
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
        rows = iter_rows(expand_files(names), text=text)
    else:
        source = resolve_dataset(names[0], config=settings.dataset_config_name)
        rows = iter_split(source, splits_of(source).get(settings.split, settings.split), text=text)
    rows, columns = passage_pairs(rows, columns, log)
    return write_distinct_products(rows, path, columns=columns, on_bad_row=settings.on_bad_row)


def columns_of(products: pa.Table, *, version: int, binding: bool) -> KnownColumns:
    """Return the columns of an index's products, for reading a catalogue with the same types."""
    types = {
        field.name: field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        for field in products.schema
        if field.name not in {ID_COLUMN, TEXT_COLUMN}
    }
    return KnownColumns(types, version, binding)


def columns_before(index_dir: Path) -> KnownColumns | None:
    """Return the columns of the current version; None if there is no readable version."""
    if not (index_dir / MANIFEST_FILE).exists():
        return None
    try:
        manifest = read_manifest(index_dir)
        products = read_products(current_directory(index_dir, manifest) / PRODUCTS_FILE)
    except (IndexStoreError, OSError):
        return None  # the build logs the reason when it looks for embeddings to reuse
    return columns_of(products, version=manifest.version, binding=False)


def log_columns(catalog: CatalogFile, output: Output) -> None:
    """Log the columns that changed their type, and the columns that look like numbers but stay text."""
    for change in catalog.type_changes:
        output.log(str(change))
    for note in catalog.notes:
        output.log(note)
