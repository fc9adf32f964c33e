"""Open the products to mine from: those of an index or of a catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from aisle.commands.indexing.analysers import detected_analyser
from aisle.commands.mine.settings import MineSettings
from aisle.commands.output import Output
from aisle.commands.train.data_settings import DataSettings
from aisle.data.catalog_file import write_catalog
from aisle.data.files import expand_files, iter_rows
from aisle.data.text_files import TextFormat
from aisle.errors import DataError, IndexStoreError
from aisle.index import open_index
from aisle.index.analyser import Analyser
from aisle.index.lexical import Bm25Index
from aisle.index.products import read_products, text_of
from aisle.index.search_index import SearchIndex
from aisle.mining.mined_catalog import MinedCatalog
from aisle.mining.product_groups import GroupColumns
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

DEFAULT_TEMPLATE = "{title}"


@dataclass(frozen=True, eq=False)
class SearchedCatalog:
    """Products to mine from, and the index that was given.

    Attributes:
        catalog: Products.
        index: Index of --index_dir; None if not given.
        is_index: Whether the products are those of the index, in its order.
    """

    catalog: MinedCatalog
    index: SearchIndex | None
    is_index: bool


def open_catalog(settings: MineSettings, folder: Path, output: Output) -> SearchedCatalog:
    """Return the products to mine from.

    Args:
        settings: Settings of the command.
        folder: Folder for the catalogue's file, which must stay as long as the result.
        output: Logs the number of products, and whether the index was reused.

    Raises:
        AisleError: The catalogue or the index cannot be read, or the index has no texts.
    """
    if not settings.catalog:
        index = _indexed(Path(str(settings.index_dir)))
        output.log(f"index: {len(index):,} products")
        return SearchedCatalog(MinedCatalog(index.products, index.tie_ranks), index, is_index=True)
    products = _written_catalog(settings, folder, output)
    if settings.index_dir is None:
        return SearchedCatalog(MinedCatalog.of(products), None, is_index=False)
    index = _indexed(Path(settings.index_dir))
    if _same_products(index.products, products, settings):
        output.log(f"--index_dir {settings.index_dir}: has the same products, so its search is reused")
        return SearchedCatalog(MinedCatalog(index.products, index.tie_ranks), index, is_index=True)
    output.log(
        f"--index_dir {settings.index_dir}: is not searched, as its products or their texts differ from "
        "those of --catalog"
    )
    return SearchedCatalog(MinedCatalog.of(products), index, is_index=False)


def word_search(settings: MineSettings, searched: SearchedCatalog, output: Output) -> Bm25Index:
    """Return BM25 over the products: that of the index, or a new one."""
    if searched.is_index and searched.index is not None and searched.index.lexical is not None:
        output.log(f"words (BM25): those of the index, in {searched.index.lexical.analyser.describe()}")
        return searched.index.lexical
    products, language = searched.catalog.products, settings.language
    analyser = detected_analyser(products) if language == "auto" else Analyser.of(language)
    output.log(f"words (BM25): {analyser.describe()}")
    return Bm25Index.build(text_of(products), analyser=analyser, product_ids=products.column(ID_COLUMN))


def group_columns(settings: MineSettings, catalog: MinedCatalog, data: DataSettings) -> GroupColumns:
    """Return the columns of groups that the catalogue has.

    Raises:
        DataError: Neither the catalogue nor the training data have the column that a setting names.
    """
    there = set(catalog.products.column_names)
    named = {"group_column": settings.group_column, "subgroup_column": settings.subgroup_column}
    for flag, name in named.items():
        if name is not None and name not in there and getattr(data, flag) is None:
            raise DataError(f"--{flag} {name}: neither the catalogue nor the training data have this column")
    return GroupColumns(*(name if name in there else None for name in named.values()))


def _indexed(index_dir: Path) -> SearchIndex:
    index = open_index(index_dir)
    if index.lexical is None:
        raise IndexStoreError(
            f"{index_dir}: was built without the products' texts, which are needed to compare products; give "
            "--catalog"
        )
    return index


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


def _same_products(one: pa.Table, other: pa.Table, settings: MineSettings) -> bool:
    """Return whether two tables have the same ids and texts, in any order, and the first all groups."""
    groups = {settings.group_column, settings.subgroup_column} & set(other.column_names)
    if one.num_rows != other.num_rows or not groups <= set(one.column_names):
        return False
    columns = [ID_COLUMN, TEXT_COLUMN]
    first, second = (table.select(columns).sort_by(ID_COLUMN).combine_chunks() for table in (one, other))
    return all(first.column(name).equals(second.column(name)) for name in columns)
