"""Open the products to mine from: an index's, or those of a catalogue with a new BM25 index."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from aisle.commands.indexing.analysers import detected_analyser
from aisle.commands.mine.settings import MineSettings
from aisle.commands.output import Output
from aisle.data.catalog_file import write_catalog
from aisle.data.files import expand_files, iter_rows
from aisle.data.text_files import TextFormat
from aisle.errors import IndexStoreError
from aisle.index import open_index
from aisle.index.analyser import Analyser
from aisle.index.lexical import Bm25Index
from aisle.index.products import read_products, text_of
from aisle.mining.mined_catalog import MinedCatalog
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

DEFAULT_TEMPLATE = "{title}"


def open_catalog(settings: MineSettings, folder: Path, output: Output) -> MinedCatalog:
    """Return the products to mine from.

    Args:
        settings: Settings of the command.
        folder: Folder for the catalogue's file, which must stay as long as the result.
        output: Logs the number of products, and whether the index was reused.

    Raises:
        AisleError: The catalogue or the index cannot be read, or the index has no texts.
    """
    if not settings.catalog:
        found = _indexed(Path(str(settings.index_dir)))
        output.log(
            f"index: {len(found):,} products, searched by words in {found.lexical.analyser.describe()}"
        )
        return found
    products = _written_catalog(settings, folder, output)
    if settings.index_dir is not None:
        found = _indexed(Path(settings.index_dir))
        if _same_products(found.products, products):
            output.log(
                f"--index_dir {settings.index_dir}: has the same products, so its word search is reused"
            )
            return MinedCatalog.of(found.products, found.lexical)
        output.log(
            f"--index_dir {settings.index_dir}: is not used, as its products or their texts differ from "
            "those of --catalog"
        )
    language = settings.language
    analyser = detected_analyser(products) if language == "auto" else Analyser.of(language)
    output.log(f"words (BM25): {analyser.describe()}")
    lexical = Bm25Index.build(text_of(products), analyser=analyser, product_ids=products.column(ID_COLUMN))
    return MinedCatalog.of(products, lexical)


def _indexed(index_dir: Path) -> MinedCatalog:
    index = open_index(index_dir)
    if index.lexical is None:
        raise IndexStoreError(
            f"{index_dir}: was built without the products' texts, which the word search needs; give --catalog"
        )
    return MinedCatalog(index.products, index.lexical, index.tie_ranks)


def _written_catalog(settings: MineSettings, folder: Path, output: Output) -> pa.Table:
    template = settings.text_template or DEFAULT_TEMPLATE
    written = write_catalog(
        iter_rows(
            expand_files(settings.catalog or ()), text=TextFormat.of(settings.delimiter, settings.encoding)
        ),
        folder / "catalog.arrow",
        id_column=settings.id_column,
        text_template=template,
        on_bad_row=settings.on_bad_row,
    )
    output.log(f"catalogue: {len(written):,} products; a product's text is {template!r}")
    if written.bad_rows.total:
        output.log(f"catalogue: {written.bad_rows}")
    return read_products(written.path)


def _same_products(one: pa.Table, other: pa.Table) -> bool:
    """Return whether two tables have the same ids and texts, in any order."""
    if one.num_rows != other.num_rows:
        return False
    columns = [ID_COLUMN, TEXT_COLUMN]
    first, second = (table.select(columns).sort_by(ID_COLUMN).combine_chunks() for table in (one, other))
    return all(first.column(name).equals(second.column(name)) for name in columns)
