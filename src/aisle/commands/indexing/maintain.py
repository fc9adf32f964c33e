"""Changes of an index that is there: each makes a new version, or switches to an older one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from aisle.commands.maintain_settings import CompactSettings, DeleteSettings, RollbackSettings, TuneSettings
from aisle.commands.output import Output
from aisle.data.rows import is_unicode
from aisle.data.text_files import open_text
from aisle.errors import ConfigError, DataError
from aisle.index import (
    Manifest,
    compact_index,
    delete_products,
    read_manifest,
    retune_index,
    rollback,
    wants_compacting,
)
from aisle.index.version_folders import current_manifest


def delete(settings: DeleteSettings) -> Manifest:
    """Remove products and return the new version's manifest.

    Raises:
        AisleError: no ids were given, one is not in the index, or the index cannot be changed.
    """
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


def compact(settings: CompactSettings) -> Manifest:
    """Build the graph anew and return the new version's manifest.

    Raises:
        AisleError: the index cannot be read or changed.
    """
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


def tune(settings: TuneSettings) -> Manifest:
    """Measure recall, set `ef_search` and return the new version's manifest.

    Raises:
        AisleError: both a recall and an `ef_search` were given, or the index cannot be read or changed.
    """
    if settings.target_recall is not None and settings.ef_search is not None:
        raise ConfigError("--target_recall and --ef_search: give one of them; the recall decides ef_search")
    output = Output(json_only=settings.json)
    before = read_manifest(Path(settings.index_dir))
    manifest = retune_index(
        Path(settings.index_dir),
        target_recall=settings.target_recall,
        ef_search=settings.ef_search,
        threads=settings.threads,
        keep_versions=settings.keep_versions,
    )
    output.show(curve_table(manifest))
    target = manifest.target_recall
    reached = None if target is None else manifest.ann_recall_at_10 >= target
    if reached is False:
        output.say(
            f"recall@10 of {target} is not reached; build again with a higher --M or --ef_construction"
        )
    curve = [asdict(point) for point in manifest.recall_curve]
    report_change(
        output,
        settings.index_dir,
        manifest,
        before=before,
        target_recall=target,
        reached=reached,
        recall_curve=curve,
    )
    return manifest


def roll_back(settings: RollbackSettings) -> Manifest:
    """Make an older version the current one and return its manifest.

    Raises:
        AisleError: there is no such version, or it is damaged, or the index cannot be changed.
    """
    output = Output(json_only=settings.json)
    index_dir = Path(settings.index_dir)
    before = current_manifest(index_dir)
    manifest = rollback(index_dir, to=settings.to)
    if before is None:
        output.say(f"version {manifest.version} is current; which one was before it is not known")
    else:
        output.say(f"version {manifest.version} is current; it was version {before.version}")
        if settings.to is None and manifest.version != before.parent:
            output.say(f"version {before.parent}, which version {before.version} was made from, is gone")
    report_change(
        output, settings.index_dir, manifest, before=manifest, version_before=before and before.version
    )
    return manifest


def report_change(
    output: Output, index_dir: str, manifest: Manifest, *, before: Manifest, **figures: Any
) -> None:
    """Say what the index is now, and to compact it where that is due.

    Args:
        output: of the command.
        index_dir: as the user named it.
        manifest: of the version that is current now.
        before: of the one that was; the same where no version was made.
        figures: what the command's JSON says besides.
    """
    output.say(
        f"index: {manifest.count:,} products in {index_dir}, version {manifest.version}, "
        f"ann_recall@10 {manifest.ann_recall_at_10:.4f} at ef_search {manifest.ef_search}"
    )
    pruned = manifest.pruned if manifest.version != before.version else ()
    say_pruned(output, pruned, kept=manifest.keep_versions)
    reason = wants_compacting(manifest)
    if reason is not None:
        output.say(f"{reason}; run: {compact_command(index_dir)}")
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


def say_pruned(output: Output, pruned: Sequence[int], *, kept: int) -> None:
    """Say which versions were removed, if any."""
    if pruned:
        versions = "version" if len(pruned) == 1 else "versions"
        numbers = ", ".join(map(str, pruned))
        output.say(f"{versions} {numbers} removed: {kept} are kept (--keep_versions)")


def compact_command(index_dir: str) -> str:
    """Return the command line that compacts an index."""
    return f"aisle compact --index_dir {shlex.quote(index_dir)}"


def curve_table(manifest: Manifest) -> Table:
    """Return recall and time of every `ef_search` that was tried when one was chosen; that one is marked."""
    title = f"recall@10 on {manifest.ann_recall_queries:,} queries, when ef_search was set"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for name in ("ef_search", "recall", "ms per query"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column()
    for point in manifest.recall_curve:
        mark = "in force" if point.ef_search == manifest.ef_search else ""
        table.add_row(str(point.ef_search), f"{point.recall:.4f}", f"{point.milliseconds:.3f}", mark)
    return table


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
