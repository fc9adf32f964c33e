"""`aisle delete`: remove products from an index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from tyro.conf import Positional

from aisle.commands.command import Command
from aisle.commands.output import Output
from aisle.data.rows import is_unicode
from aisle.data.text_files import open_text
from aisle.errors import DataError

if TYPE_CHECKING:
    from aisle.index import Manifest

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class DeleteSettings:
    """Remove products from an index."""

    index_dir: str
    """Folder of the index."""
    product_ids: Positional[tuple[str, ...]] = ()
    """Ids of the products."""
    ids_file: str | None = None
    """File with a product id on each line."""
    ignore_unknown: bool = False
    """Leave ids that are not in the index aside, instead of refusing."""
    keep_versions: Count | None = None
    """Versions of the index to keep from now on, the new one included; as many as before when not given,
    3 for a new index. Versions that the current one was made from stay longest; see rollback."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


def delete(settings: DeleteSettings) -> Manifest:
    """Remove products and return the new version's manifest.

    Raises:
        AisleError: no ids were given, one is not in the index, or the index cannot be changed.
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
    output.say(f"{deleted:,} products deleted")
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
            "delete: give product ids as arguments, or with --ids_file one on each line; found none"
        )
    for product_id in ids:
        if not is_unicode(product_id):
            raise DataError(f"delete: product id {product_id!r} is not valid Unicode; save the ids as UTF-8")
    return ids


COMMAND = Command("delete", DeleteSettings, delete)
