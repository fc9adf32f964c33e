"""`aisle tune`: measure the recall of an index again and set ef_search."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.output import Output
from aisle.commands.shared_settings import ConfigFile, Count, Fraction, IndexDir, Json, KeepVersions

if TYPE_CHECKING:
    from aisle.index import Manifest


@dataclass(frozen=True)
class TuneSettings:
    """Measure the recall of an index again and set ef_search.

    Nothing is embedded, and the graph stays as it is.
    """

    index_dir: IndexDir
    target_recall: Fraction | None = None
    """recall@10, compared with exact search, that sets ef_search. 0.98 if neither flag is given."""
    ef_search: Count | None = None
    """ef_search to set; its recall is measured."""
    threads: Count | None = None
    """Threads for measuring recall. If not given: all cores. Times are always measured on one thread."""
    keep_versions: KeepVersions = None
    json: Json = False
    config: ConfigFile = None


def tune_problems(settings: TuneSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    if settings.target_recall is not None and settings.ef_search is not None:
        return ["--target_recall and --ef_search: give one of them; the recall decides ef_search"]
    return []


def tune(settings: TuneSettings) -> Manifest:
    """Measure recall, set `ef_search` and return the new version's manifest.

    Raises:
        AisleError: The index cannot be read or changed.
    """
    from aisle.commands.indexing.report_change import curve_table, more_links, report_change
    from aisle.index import read_manifest, retune_index

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
        output.log(f"recall@10 of {target} is not reached; build again with {more_links(manifest)}")
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


COMMAND = Command("tune", TuneSettings, tune, problems=tune_problems)
