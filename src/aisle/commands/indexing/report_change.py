"""Report a changed index: its size and recall, removed versions, and whether to compact it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

from aisle.commands.output import Output
from aisle.index import Manifest, wants_compacting
from aisle.index.backends import backend_named, has_efforts


def report_change(
    output: Output, index_dir: str, manifest: Manifest, *, before: Manifest, **figures: Any
) -> None:
    """Log the index's current version, and advice to compact it if needed; print the JSON document.

    Args:
        output: Output of the command.
        index_dir: Index directory, as the user typed it.
        manifest: Manifest of the current version.
        before: Manifest of the version before; equal to `manifest` if no new version was made.
        figures: Further entries of the JSON document.
    """
    output.log(
        f"index: {manifest.count:,} products in {index_dir}, version {manifest.version}, "
        f"{recall_text(manifest)}"
    )
    pruned = manifest.pruned if manifest.version != before.version else ()
    log_pruned(output, pruned, kept=manifest.keep_versions)
    reason = wants_compacting(manifest)
    if reason is not None:
        output.log(f"{reason}; run: {compact_command(index_dir)}")
    output.document(
        {
            "index_dir": index_dir,
            "version": manifest.version,
            "products": manifest.count,
            "ef_search": manifest.ef_search,
            "ann_recall@10": manifest.ann_recall_at_10,
            "wants_compacting": reason,
            "keep_versions": manifest.keep_versions,
            "pruned": list(pruned),
            **figures,
        }
    )


def log_pruned(output: Output, pruned: Sequence[int], *, kept: int) -> None:
    """Log which versions were removed, if any."""
    if pruned:
        versions = "version" if len(pruned) == 1 else "versions"
        numbers = ", ".join(map(str, pruned))
        output.log(f"{versions} {numbers} removed: {kept} are kept (--keep_versions)")


def recall_text(manifest: Manifest) -> str:
    """Return the measured recall as text, with its `ef_search` if the backend has that setting."""
    recall = f"ann_recall@10 {manifest.ann_recall_at_10:.4f}"
    if not has_efforts(backend_named(manifest.backend.name)):
        return f"{recall}, by backend {manifest.backend.name}"
    return f"{recall} at ef_search {manifest.ef_search}"


def more_links(manifest: Manifest) -> str:
    """Return advice on the flags of build that raise recall if no `ef_search` reaches the target."""
    return f"a higher {' or '.join(f'--{name}' for name in manifest.backend.parameters)}"


def compact_command(index_dir: str) -> str:
    """Return the command line that compacts an index."""
    return f"aisle compact --index_dir {shlex.quote(index_dir)}"


def curve_table(manifest: Manifest) -> Table:
    """Return a table of recall and time for every `ef_search` that was tried; the chosen value is marked."""
    title = f"recall@10 on {manifest.ann_recall_queries:,} queries, when ef_search was set"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("ef_search", "recall", "ms per query"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column()
    for point in manifest.recall_curve:
        mark = "in force" if point.ef_search == manifest.ef_search else ""
        table.add_row(str(point.ef_search), f"{point.recall:.4f}", f"{point.milliseconds:.3f}", mark)
    return table
