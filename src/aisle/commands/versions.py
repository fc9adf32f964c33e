"""`aisle versions`: list the versions of an index."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from aisle.commands.command import Command
from aisle.commands.indexing.folder_sizes import bytes_in, shown_bytes
from aisle.commands.output import Output, shown_time
from aisle.commands.shared_settings import ConfigFile, IndexDir, Json
from aisle.errors import IndexIntegrityError

if TYPE_CHECKING:
    from aisle.index import Manifest, Version


@dataclass(frozen=True)
class VersionsSettings:
    """List the versions of an index."""

    index_dir: IndexDir
    json: Json = False
    config: ConfigFile = None


def versions(settings: VersionsSettings) -> None:
    """Show the versions of an index, oldest first.

    Raises:
        IndexIntegrityError: There is no index.
    """
    from aisle.index import list_versions
    from aisle.index.layout import version_directory
    from aisle.index.version_folders import remembered_keep_versions

    output = Output(json_only=settings.json)
    index_dir = Path(settings.index_dir).resolve()
    found = list_versions(index_dir)
    sizes = {version.number: bytes_in(version_directory(index_dir, version.number)) for version in found}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)  # 80 columns at most
    for name in ("version", "parent", "made by", "when (UTC)", "products", "recall", "size"):
        table.add_column(name, justify="left" if name in {"made by", "when (UTC)"} else "right", no_wrap=True)
    table.add_column()
    for version in found:
        mark = "current" if version.current else ""
        manifest = version.manifest
        cells = ["", "damaged", "", "", ""] if manifest is None else _cells(manifest, kept=sizes)
        table.add_row(str(version.number), *cells, shown_bytes(sizes[version.number]), mark)
    output.show(table)
    for version in found:
        if version.problem is not None:
            output.log(f"version {version.number}: {version.problem}")
    if not any(version.current for version in found):
        output.log(f"no version is current: {_manifest_problem(index_dir)}")
    total = bytes_in(index_dir)
    kept = remembered_keep_versions(index_dir)
    output.log(f"{shown_bytes(total)} in all; versions share the files that did not change; {kept} are kept")
    output.document(
        {
            "index_dir": settings.index_dir,
            "bytes": total,
            "keep_versions": kept,
            "versions": [_version_document(version, sizes[version.number]) for version in found],
        }
    )


def _cells(manifest: Manifest, *, kept: Container[int]) -> list[str]:
    recall = f"{manifest.ann_recall_at_10:.4f}"
    parent = "" if manifest.parent is None else str(manifest.parent)
    if manifest.parent is not None and manifest.parent not in kept:
        parent += " gone"
    return [parent, manifest.command, shown_time(manifest.created)[:16], f"{manifest.count:,}", recall]


def _version_document(version: Version, size: int) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "version": version.number,
        "current": version.current,
        "parent": manifest and manifest.parent,
        "command": manifest and manifest.command,
        "created": manifest and manifest.created,
        "products": manifest and manifest.count,
        "ann_recall@10": manifest and manifest.ann_recall_at_10,
        "bytes": size,
        "problem": version.problem,
    }


def _manifest_problem(index_dir: Path) -> str:
    from aisle.index import read_manifest

    try:
        read_manifest(index_dir)
    except IndexIntegrityError as error:
        return str(error)

    return "its folder is gone; go to another version with rollback"


COMMAND = Command("versions", VersionsSettings, versions)
