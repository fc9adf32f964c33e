"""`aisle info`: show the encoder, the graph, the columns and the recall of an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from aisle.commands.command import Command
from aisle.commands.indexing.folder_sizes import bytes_in, shown_bytes
from aisle.commands.output import Output, shown_time
from aisle.commands.shared_settings import ConfigFile, Count, IndexDir, IndexModel, Json
from aisle.errors import IndexIntegrityError, IndexStoreError

if TYPE_CHECKING:
    from aisle.index import Manifest
    from aisle.index.manifest import AdapterRecord
    from aisle.types.score_calibration import Calibration


@dataclass(frozen=True)
class InfoSettings:
    """Show the encoder, graph, columns and measured recall of an index.

    If a bundle made the index, or --model is a bundle, it also shows whether the bundle may search the index,
    and how it compares with the model that it was exported from.
    """

    index_dir: IndexDir
    version: Count | None = None
    """Number of the version to show. If not given: the current version."""
    model: IndexModel = None
    json: Json = False
    config: ConfigFile = None


def info(settings: InfoSettings) -> Manifest:
    """Show the contents of an index's manifest, and return it.

    Raises:
        IndexStoreError: There is no such index or version, or it is damaged.
        ModelError: --model is a damaged bundle.
    """
    from aisle.commands.indexing.queries_bundle import queries_bundle
    from aisle.commands.indexing.report_change import compact_command, curve_table
    from aisle.index import read_manifest, wants_compacting
    from aisle.index.layout import version_directory
    from aisle.index.lexical import analyser_of
    from aisle.index.stored_calibration import read_calibration

    output = Output(json_only=settings.json)
    index_dir = Path(settings.index_dir).resolve()
    current = read_manifest(index_dir)
    manifest = current if settings.version is None else _manifest_of(index_dir, settings.version)
    folder = version_directory(index_dir, manifest.version)
    columns = _columns(folder, manifest)
    analyser = analyser_of(folder, manifest)
    size = bytes_in(folder)
    words = "no BM25: texts were not given" if analyser is None else analyser.describe()
    facts = _facts(settings.index_dir, manifest, columns, size, words=words, current=manifest == current)
    calibration = read_calibration(folder, manifest)
    facts["calibration"] = "" if calibration is None else _calibrated(calibration)
    facts["query adapter"] = "" if manifest.query_adapter is None else _adapted(manifest.query_adapter)
    bundle = queries_bundle(manifest, settings.model)
    if bundle is not None:
        facts["queries"] = bundle.describe()
    output.show(_table(facts))
    output.show(curve_table(manifest))
    reason = wants_compacting(manifest)
    if reason is not None:
        output.log(f"{reason}; run: {compact_command(settings.index_dir)}")
    content = asdict(manifest)
    content["ann_recall@10"] = content.pop("ann_recall_at_10")
    output.document(
        {
            "index_dir": settings.index_dir,
            "current": manifest == current,
            "parent": manifest.parent,
            **content,
            "columns": columns,
            "bundle": bundle and asdict(bundle),
            "analyser": analyser and analyser.record(),
            "calibration": calibration and asdict(calibration),
            "bytes": size,
            "wants_compacting": reason,
        }
    )
    return manifest


def _manifest_of(index_dir: Path, number: int) -> Manifest:
    from aisle.index import list_versions

    found = {version.number: version for version in list_versions(index_dir)}
    if number not in found:
        raise IndexStoreError(f"--version {number}: {index_dir} has no such version; it has {sorted(found)}")
    manifest = found[number].manifest
    if manifest is None:
        raise IndexIntegrityError(str(found[number].problem))
    return manifest


def _columns(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return the payload's columns, which filters use, and their types."""
    from aisle.index.integrity import file_problem
    from aisle.index.manifest import PRODUCTS_FILE
    from aisle.index.products import read_products
    from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

    problem = file_problem(folder / PRODUCTS_FILE, manifest.files[PRODUCTS_FILE], verify="sizes")
    if problem is not None:
        raise IndexIntegrityError(problem)
    schema = read_products(folder / PRODUCTS_FILE, count=manifest.count).schema
    return {field.name: str(field.type) for field in schema if field.name not in {ID_COLUMN, TEXT_COLUMN}}


def _facts(
    index_dir: str, manifest: Manifest, columns: dict[str, str], size: int, *, words: str, current: bool
) -> dict[str, object]:
    """Return the facts of a version by their names; empty facts are not shown."""
    from aisle.commands.indexing.text_notes import counted
    from aisle.index.backends import backend_named, has_efforts

    encoder = {name: value for name, value in manifest.encoder.items() if value is not None}
    target = "" if manifest.target_recall is None else f", for a recall of {manifest.target_recall}"
    weight, backend = manifest.hybrid_weight, backend_named(manifest.backend.name)
    parameters = "".join(f", {name} {value}" for name, value in manifest.backend.parameters.items())
    return {
        "index": index_dir,
        "version": f"{manifest.version}{' (current)' if current else ''}, made by {manifest.command} on "
        f"{shown_time(manifest.created)} UTC{_from(manifest)}",
        "products": f"{manifest.count:,} in {shown_bytes(size)}",
        "encoder": encoder.pop("model", "not recorded"),
        "": ", ".join(f"{name} {value!r}" for name, value in encoder.items()),
        "fingerprint": manifest.fingerprint,
        "query tower": manifest.query_fingerprint or "",
        "id column": manifest.id_column or "none: ids were given",
        "text template": manifest.text_template or "none: texts were given",
        "texts": counted(manifest),
        "columns": ", ".join(
            f"{name} {'(no value yet)' if kind == 'null' else kind}" for name, kind in columns.items()
        )
        or "none",
        "words (BM25)": words,
        "embeddings": f"{manifest.dim} x {manifest.store_dtype}, {manifest.metric}",
        "graph": f"{manifest.backend.name}: {manifest.graph_nodes:,} nodes and {manifest.deleted_nodes:,} of "
        f"deleted products{parameters}",
        "ef_search": f"{manifest.ef_search}{target}" if has_efforts(backend) else "",
        "ann_recall@10": f"{manifest.ann_recall_at_10:.4f}; "
        f"{manifest.built_recall:.4f} when the graph was built",
        "hybrid weight": "the default" if weight is None else f"{weight:.2f} for embeddings",
    }


def _calibrated(calibration: Calibration) -> str:
    """Return what the calibration was measured on."""
    return (
        f"{', '.join(calibration.modes)}; by {calibration.queries:,} judged queries on version "
        f"{calibration.version} of {calibration.products:,} products, {shown_time(calibration.created)} UTC"
    )


def _adapted(record: AdapterRecord) -> str:
    """Return the kind, the training and the gain of a query adapter."""
    size = "" if record.kind == "linear" else f" of size {record.size}"
    return (
        f"{record.kind}{size}, trained on {record.train_pairs:,} pairs and version {record.version}; "
        f"nDCG@10 of {record.held_out_queries:,} held-out queries {record.ndcg_before:.4f} -> "
        f"{record.ndcg_after:.4f}, gain [{record.gain_low:+.4f}, {record.gain_high:+.4f}]"
    )


def _table(facts: Mapping[str, object]) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        if fact:
            table.add_row(name, Text(str(fact)))
    return table


def _from(manifest: Manifest) -> str:
    return "" if manifest.parent is None else f", from version {manifest.parent}"


COMMAND = Command("info", InfoSettings, info)
