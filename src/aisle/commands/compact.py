"""`aisle compact`: build the graph of an index again, without deleted products."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from aisle.commands.command import Command
from aisle.commands.output import Output

if TYPE_CHECKING:
    from aisle.index import Manifest

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class CompactSettings:
    """Build the graph of an index again after many changes.

    The nodes of deleted products are left out. Nothing is embedded.
    """

    index_dir: str
    """Folder of the index."""
    threads: Count | None = None
    """Threads that build the graph; all cores when not given, 1 gives the same files every time."""
    keep_versions: Count | None = None
    """Versions of the index to keep from now on, the new one included; as many as before when not given,
    3 for a new index. Versions that the current one was made from stay longest; see rollback."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


def compact(settings: CompactSettings) -> Manifest:
    """Build the graph anew and return the new version's manifest.

    Raises:
        AisleError: the index cannot be read or changed.
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
    output.say(
        f"{before.deleted_nodes:,} nodes of deleted products removed; "
        f"ann_recall@10 was {before.ann_recall_at_10:.4f}"
    )
    report_change(output, settings.index_dir, manifest, before=before, nodes_removed=before.deleted_nodes)
    return manifest


COMMAND = Command("compact", CompactSettings, compact)
