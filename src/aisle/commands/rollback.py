"""`aisle rollback`: make an older version of an index the current one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.output import Output
from aisle.commands.shared_settings import ConfigFile, Count, IndexDir, Json

if TYPE_CHECKING:
    from aisle.index import Manifest


@dataclass(frozen=True)
class RollbackSettings:
    """Make an older version of an index the current one.

    The version's files are checked first. If the manifest.json of the index is lost or
    damaged, the newest version becomes current.
    """

    index_dir: IndexDir
    to: Count | None = None
    """Number of the version. If not given: the version that the current version was made from."""
    json: Json = False
    config: ConfigFile = None


def roll_back(settings: RollbackSettings) -> Manifest:
    """Make an older version the current one and return its manifest.

    Raises:
        AisleError: There is no such version, it is damaged, or the index cannot be changed.
    """
    from aisle.commands.indexing.report_change import report_change
    from aisle.index import rollback
    from aisle.index.version_folders import current_manifest

    output = Output(json_only=settings.json)
    index_dir = Path(settings.index_dir)
    before = current_manifest(index_dir)
    manifest = rollback(index_dir, to=settings.to)
    if before is None:
        output.log(f"version {manifest.version} is current; the previous version is unknown")
    else:
        output.log(f"version {manifest.version} is current; it was version {before.version}")
        if settings.to is None and manifest.version != before.parent:
            output.log(f"version {before.parent}, which version {before.version} was made from, is gone")
    report_change(
        output, settings.index_dir, manifest, before=manifest, version_before=before and before.version
    )
    return manifest


COMMAND = Command("rollback", RollbackSettings, roll_back)
