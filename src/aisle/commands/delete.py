"""`aisle delete`: remove products from an index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.output import Output
from aisle.commands.shared_settings import ConfigFile, IndexDir, Json, KeepVersions
from aisle.config.annotations import Positional
from aisle.data.rows import is_unicode
from aisle.data.text_files import open_text
from aisle.errors import DataError

if TYPE_CHECKING:
    from aisle.index import Manifest


@dataclass(frozen=True)
class DeleteSettings:
    """Remove products from an index."""

    index_dir: IndexDir
    product_ids: Positional[tuple[str, ...]] = ()
    """Ids of the products to remove."""
    ids_file: str | None = None
    """Text file with a product id on each line."""
    ignore_unknown: bool = False
    """Skip ids that are not in the index. Otherwise such an id is an error."""
    keep_versions: KeepVersions = None
    json: Json = False
    config: ConfigFile = None


def delete(settings: DeleteSettings) -> Manifest:
    """Remove products and return the new version's manifest.

    Raises:
        AisleError: No ids were given, an id is not in the index, or the index cannot be changed.
    """
    from aisle.commands.indexing.report_change import report_change
    from aisle.index import delete_products, read_manifest

    output = Output(json_only=settings.json)
    before = read_manifest(Path(settings.index_dir))
    manifest = delete_products(
        Path(settings.index_dir),
        _ids_of(settings),
        ignore_unknown=settings.ignore_unknown,
        keep_versions=settings.keep_versions,
    )
    deleted = before.count - manifest.count
    output.log(f"{deleted:,} products deleted")
    report_change(output, settings.index_dir, manifest, before=before, deleted=deleted)
    return manifest


def _ids_of(settings: DeleteSettings) -> list[str]:
    ids = list(settings.product_ids)
    if settings.ids_file is not None:
        with open_text(Path(settings.ids_file).expanduser(), newline="") as lines:
            ids += [line.strip() for line in lines]
    ids = [product_id for product_id in ids if product_id]
    if not ids:
        raise DataError(
            "delete: no product ids; give them as arguments, or in --ids_file with an id on each line"
        )
    for product_id in ids:
        if not is_unicode(product_id):
            raise DataError(f"delete: product id {product_id!r} is not valid Unicode; save the ids as UTF-8")
    return ids


COMMAND = Command("delete", DeleteSettings, delete)
