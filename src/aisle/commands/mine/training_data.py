"""Read the training data of `mine`: pairs with texts, pairs by id, or DPR's json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from aisle.commands.mine.settings import MineSettings, data_settings
from aisle.commands.train.data_settings import DataSettings
from aisle.commands.train.read_part import named_columns, peek_row, read_part
from aisle.data.catalog_texts import CatalogTexts
from aisle.data.column_aliases import PAIR_PRODUCT
from aisle.data.files import expand_files, iter_rows
from aisle.data.pair_cells import listed_ids
from aisle.data.pair_columns import find_pair_columns
from aisle.data.pairs import Pairs
from aisle.data.rows import BadRows, Row, find_column
from aisle.data.text_files import TextFormat
from aisle.data.train_formats import RowFormat, row_format
from aisle.errors import DataError
from aisle.mining.mined_catalog import MinedCatalog
from aisle.types.ids import NearIds, no_common_ids

__all__ = ["TrainingFiles"]


@dataclass(frozen=True)
class TrainingFiles:
    """Files with training data, which can be read several times.

    Attributes:
        files: Paths of the files.
        text: Format of text files.
        settings: How to read the pairs.
        head: First good row; None if none of the first rows is good.
        layout: How rows become pairs; None for rows of pairs.
    """

    files: tuple[Path, ...]
    text: TextFormat
    settings: DataSettings
    head: Row | None
    layout: RowFormat | None

    @classmethod
    def of(cls, settings: MineSettings) -> TrainingFiles:
        """Return the files of the settings, with the layout that their first good row has.

        Raises:
            DataError: A file cannot be read, or lacks a column of the named format.
        """
        files = tuple(expand_files(settings.train_file))
        text = TextFormat.of(settings.delimiter, settings.encoding)
        head, _ = peek_row(iter_rows(files, text=text))
        how = data_settings(settings)
        if head is not None:
            group, subgroup = (
                name if name in head.values else None
                for name in (settings.group_column, settings.subgroup_column)
            )
            how = replace(how, group_column=group, subgroup_column=subgroup)
        if how.product_id_column is None and head is not None and settings.id_column in head.values:
            how = replace(how, product_id_column=settings.id_column)
        wanted = named_columns(how, head)
        layout = None if head is None else row_format(head, how.train_format, wanted=wanted)
        return cls(files, text, how, head, layout)

    @property
    def is_dpr(self) -> bool:
        """Whether the data are DPR's json."""
        return self.layout is not None and self.layout.joins_titles

    def rows(self) -> Iterator[Row]:
        """Yield the rows of the files as they are."""
        return iter_rows(self.files, text=self.text)

    def pairs(self, catalog: MinedCatalog, log: Callable[[str], None], *, name: str = "train") -> Pairs:
        """Return the pairs; the texts of products that are named by id come from the catalogue.

        Args:
            catalog: Catalogue that pairs name products of.
            log: Logs the number of pairs and their columns.
            name: Name of the pairs, for the log.

        Raises:
            DataError: Rows are bad, or no pairs are left.
        """
        products = self._texts_by_id(catalog) if self._names_products_by_id() else None
        pairs = read_part(self.rows(), self.settings, products, name=name, log=log).pairs
        if pairs.texts_of_groups:
            raise DataError(
                "The training data have a text with its group in a row, and hard negatives are for pairs of "
                "a query and a product; name the texts' columns with --query_column and --product_column."
            )
        return pairs

    def _names_products_by_id(self) -> bool:
        if self.head is None or self.layout is not None:
            return False
        return find_column(self.head, self.settings.product_column, PAIR_PRODUCT) is None

    def _texts_by_id(self, catalog: MinedCatalog) -> CatalogTexts:
        wanted: set[str] = set()
        columns = None
        for row in self.rows():
            if row.problem is None:
                columns = columns or find_pair_columns(row, named_columns(self.settings, row), by_id=True)
                wanted.update(listed_ids(row.values, columns))
        near, texts = NearIds(wanted), catalog.texts_of(wanted)
        for ids in catalog.ids():
            near.look_at(ids)
        if wanted and not texts:
            everything = (product_id for ids in catalog.ids() for product_id in ids)
            raise DataError(
                no_common_ids(
                    "product",
                    one="the training data",
                    ours=sorted(wanted),
                    other="the catalogue",
                    theirs=everything,
                    count=len(catalog),
                )
            )
        none_bad = BadRows(0, len(catalog), {}, ())
        return CatalogTexts(texts, near.found, len(catalog), none_bad)
