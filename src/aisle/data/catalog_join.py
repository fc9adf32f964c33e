"""Read from a catalogue the texts of products that judgements or pairs name by id."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path

from aisle.data.catalog_file import write_catalog
from aisle.data.catalog_texts import CatalogTexts
from aisle.data.rows import OnBadRow, Row
from aisle.errors import DataError
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN
from aisle.types.ids import NearIds, no_common_ids

__all__ = ["read_catalog_texts"]


def read_catalog_texts(
    rows: Iterable[Row],
    *,
    wanted: Collection[str],
    judgements: str,
    catalog: str,
    id_column: str,
    text_template: str,
    on_bad_row: OnBadRow,
) -> CatalogTexts:
    """Return the texts of the wanted products, exactly as a build of the catalogue would embed them.

    Args:
        rows: Rows of the catalogue.
        wanted: Ids of the judged products; only their texts are kept in memory.
        judgements: Name of the source of these ids, for messages.
        catalog: Name of the catalogue, for messages.
        id_column: Column of ids in the catalogue.
        text_template: Template of the text that is embedded.
        on_bad_row: What to do with bad rows of the catalogue.

    Raises:
        ConfigError: The template is malformed.
        DataError: The catalogue cannot be read, or has no wanted id.
    """
    texts: dict[str, str] = {}
    near, asked = NearIds(wanted), frozenset(wanted)
    with tempfile.TemporaryDirectory(prefix="aisle-catalog-") as folder:
        written = write_catalog(
            rows,
            Path(folder) / "catalog.arrow",
            id_column=id_column,
            text_template=text_template,
            on_bad_row=on_bad_row,
        )
        for batch in written.batches():
            ids = batch.column(ID_COLUMN).to_pylist()
            near.look_at(ids)
            found = [row for row, identity in enumerate(ids) if identity in asked]
            column = batch.column(TEXT_COLUMN)
            texts.update((ids[row], column[row].as_py()) for row in found)
        if asked and not texts:
            raise DataError(
                no_common_ids(
                    "product",
                    one=judgements,
                    ours=sorted(asked),
                    other=catalog,
                    theirs=(
                        one for batch in written.batches() for one in batch.column(ID_COLUMN).to_pylist()
                    ),
                    count=len(written),
                )
            )
    return CatalogTexts(texts, near.found, len(written), written.bad_rows)
