"""`aisle compact`: build the graph of an index again, without deleted products."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.output import Output
from aisle.commands.shared_settings import ConfigFile, Count, IndexDir, Json, KeepVersions

if TYPE_CHECKING:
    from aisle.index import Manifest


@dataclass(frozen=True)
class CompactSettings:
    """Build the graph of an index again after many changes.

    The nodes of deleted products are left out. Nothing is embedded.
    """

    index_dir: IndexDir
    threads: Count | None = None
    """Threads that build the graph. If not given: all cores. 1 gives the same files every time."""
    keep_versions: KeepVersions = None
    json: Json = False
    config: ConfigFile = None


def compact(settings: CompactSettings) -> Manifest:
    """Build the graph again and return the new version's manifest.

    Raises:
        AisleError: The index cannot be read or changed.
    """
    from aisle.commands.indexing.report_change import report_change
    from aisle.index import compact_index, read_manifest

    output = Output(json_only=settings.json)
    before = read_manifest(Path(settings.index_dir))
    with output.progress("graph", before.count) as bar:
        manifest = compact_index(
            Path(settings.index_dir),
            threads=settings.threads,
            keep_versions=settings.keep_versions,
            on_progress=bar.advance,
        )
    output.log(
        f"{before.deleted_nodes:,} nodes of deleted products removed; "
        f"ann_recall@10 was {before.ann_recall_at_10:.4f}"
    )
    report_change(output, settings.index_dir, manifest, before=before, nodes_removed=before.deleted_nodes)
    return manifest


COMMAND = Command("compact", CompactSettings, compact)
