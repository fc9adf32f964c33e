"""What an index is and whether it is whole: versions, info, verify."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich import box
from rich.table import Table
from rich.text import Text

from aisle.commands.indexing.folder_sizes import bytes_in, shown_bytes
from aisle.commands.indexing.maintain import compact_command, curve_table
from aisle.commands.indexing.text_notes import counted
from aisle.commands.maintain_settings import InfoSettings, VerifySettings, VersionsSettings
from aisle.commands.output import Output
from aisle.errors import IndexIntegrityError, IndexStoreError
from aisle.index import (
    Manifest,
    SearchIndex,
    Version,
    list_versions,
    open_index,
    read_manifest,
    wants_compacting,
)
from aisle.index.array_files import read_queries
from aisle.index.layout import version_directory
from aisle.index.lexical import analyser_of
from aisle.index.manifest import GRAPH_FILE, MANIFEST_FILE, PRODUCTS_FILE, file_problem
from aisle.index.products import ID_COLUMN, TEXT_COLUMN, read_products
from aisle.index.tuning import tune
from aisle.index.version_folders import remembered_keep_versions

RECALL_TOLERANCE = 0.01
"""The same graph and queries give the same recall but for ties that another machine rounds apart."""


def versions(settings: VersionsSettings) -> None:
    """Show the versions of an index, oldest first.

    Raises:
        IndexIntegrityError: there is no index.
    """
    output = Output(json_only=settings.json)
    index_dir = Path(settings.index_dir).resolve()
    found = list_versions(index_dir)
    sizes = {version.number: bytes_in(version_directory(index_dir, version.number)) for version in found}
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)  # fits into 80 columns
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
            output.say(f"version {version.number}: {version.problem}")
    if not any(version.current for version in found):
        output.say(f"none is current: {_manifest_problem(index_dir)}")
    total = bytes_in(index_dir)
    kept = remembered_keep_versions(index_dir)
    output.say(f"{shown_bytes(total)} in all; versions share the files that did not change; {kept} are kept")
    output.document(
        {
            "index_dir": settings.index_dir,
            "bytes": total,
            "keep_versions": kept,
            "versions": [_version_document(version, sizes[version.number]) for version in found],
        }
    )


def info(settings: InfoSettings) -> Manifest:
    """Show what the manifest of an index says, and return it.

    Raises:
        IndexStoreError: there is no such index or version, or it is damaged.
    """
    output = Output(json_only=settings.json)
    index_dir = Path(settings.index_dir).resolve()
    current = read_manifest(index_dir)
    manifest = current if settings.version is None else _manifest_of(index_dir, settings.version)
    folder = version_directory(index_dir, manifest.version)
    columns = _columns(folder, manifest)
    analyser = analyser_of(folder, manifest)
    size = bytes_in(folder)
    words = "no BM25: texts were not given" if analyser is None else analyser.describe()
    output.show(_facts(settings.index_dir, manifest, columns, size, words=words, current=manifest == current))
    output.show(curve_table(manifest))
    reason = wants_compacting(manifest)
    if reason is not None:
        output.say(f"{reason}; run: {compact_command(settings.index_dir)}")
    content = asdict(manifest)
    content["ann_recall@10"] = content.pop("ann_recall_at_10")
    output.document(
        {
            "index_dir": settings.index_dir,
            "current": manifest == current,
            "parent": manifest.parent,
            **content,
            "columns": columns,
            "analyser": analyser and analyser.record(),
            "bytes": size,
            "wants_compacting": reason,
        }
    )
    return manifest


@dataclass(frozen=True)
class Checked:
    """What the check of one version gave."""

    number: int
    recall: float | None
    """recall@10 as it was measured now; None where the version is not whole."""
    problem: str | None
    """What is wrong, with the file named."""


def verify(settings: VerifySettings) -> None:
    """Check files, counts and recall of the current version, or of all.

    Raises:
        IndexIntegrityError: a file is missing, truncated or altered, or the recall is not that on record.
    """
    output = Output(json_only=settings.json)
    index_dir = Path(settings.index_dir).resolve()
    current = read_manifest(index_dir)
    numbers = [current.version]
    if settings.all_versions:
        numbers = sorted({*numbers, *(version.number for version in list_versions(index_dir))})
    checked = []
    with output.progress("verify", len(numbers)) as bar:
        for number in numbers:
            checked.append(_check(index_dir, number, current))
            bar.advance()
    problems = [version.problem for version in checked if version.problem is not None]
    for version in checked:
        if version.problem is None:
            output.say(f"version {version.number}: OK, ann_recall@10 {version.recall:.4f}")
    output.document(
        {
            "index_dir": settings.index_dir,
            "ok": not problems,
            "versions": [
                {
                    "version": version.number,
                    "ok": version.problem is None,
                    "ann_recall@10": version.recall,
                    "problem": version.problem,
                }
                for version in checked
            ],
        }
    )
    if problems:
        raise IndexIntegrityError("\n".join(problems))


def _check(index_dir: Path, number: int, current: Manifest) -> Checked:
    """Return whether a version is whole and as good as its manifest says."""
    folder = version_directory(index_dir, number)
    try:
        index = open_index(index_dir, version=number)
        if number == current.version and index.manifest != current:
            raise IndexIntegrityError(
                f"{index_dir / MANIFEST_FILE}: differs from {folder / MANIFEST_FILE}, of which it must be a "
                "copy; go back to a whole version with rollback, or build the index again"
            )
        if index.lexical is not None and index.lexical.texts != len(index):
            raise IndexIntegrityError(
                f"{folder}: the manifest says {len(index)} products, the lexical index has "
                f"{index.lexical.texts}; build the index again"
            )
        recall = _recall(index)
    except IndexStoreError as error:
        return Checked(number, None, str(error))
    recorded = index.manifest.ann_recall_at_10
    if abs(recall - recorded) <= RECALL_TOLERANCE:
        return Checked(number, recall, None)
    problem = (
        f"{folder / GRAPH_FILE}: gives recall@10 {recall:.4f}, the manifest says {recorded:.4f}; build the "
        "index again"
    )
    return Checked(number, recall, problem)


def _recall(index: SearchIndex) -> float:
    """Return recall@10 on the held-out queries, measured now."""
    queries = read_queries(index.directory, dim=index.dim)
    ef_search = index.manifest.ef_search
    return tune(index.graph, index.embeddings, queries, tie_ranks=index.tie_ranks, ef_search=ef_search).recall


def _manifest_of(index_dir: Path, number: int) -> Manifest:
    found = {version.number: version for version in list_versions(index_dir)}
    if number not in found:
        raise IndexStoreError(f"--version {number}: {index_dir} has no such version; it has {sorted(found)}")
    manifest = found[number].manifest
    if manifest is None:
        raise IndexIntegrityError(str(found[number].problem))
    return manifest


def _columns(folder: Path, manifest: Manifest) -> dict[str, str]:
    """Return the payload's columns, which filters use, and their types."""
    problem = file_problem(folder / PRODUCTS_FILE, manifest.files[PRODUCTS_FILE], verify="sizes")
    if problem is not None:
        raise IndexIntegrityError(problem)
    schema: pa.Schema = read_products(folder / PRODUCTS_FILE, count=manifest.count).schema
    return {field.name: str(field.type) for field in schema if field.name not in {ID_COLUMN, TEXT_COLUMN}}


def _facts(
    index_dir: str, manifest: Manifest, columns: dict[str, str], size: int, *, words: str, current: bool
) -> Table:
    encoder = {name: value for name, value in manifest.encoder.items() if value is not None}
    target = "" if manifest.target_recall is None else f", for a recall of {manifest.target_recall}"
    weight = manifest.hybrid_weight
    facts = {
        "index": index_dir,
        "version": f"{manifest.version}{' (current)' if current else ''}, made by {manifest.command} on "
        f"{_when(manifest)} UTC{_from(manifest)}",
        "products": f"{manifest.count:,} in {shown_bytes(size)}",
        "encoder": encoder.pop("model", "not recorded"),
        "": ", ".join(f"{name} {value!r}" for name, value in encoder.items()),
        "fingerprint": manifest.fingerprint,
        "id column": manifest.id_column or "none: ids were given",
        "text template": manifest.text_template or "none: texts were given",
        "texts": counted(manifest),
        "columns": ", ".join(
            f"{name} {'(no value yet)' if kind == 'null' else kind}" for name, kind in columns.items()
        )
        or "none",
        "words (BM25)": words,
        "embeddings": f"{manifest.dim} x {manifest.store_dtype}, {manifest.metric}",
        "graph": f"{manifest.graph_nodes:,} nodes and {manifest.deleted_nodes:,} of deleted products, "
        f"M {manifest.M}, ef_construction {manifest.ef_construction}",
        "ef_search": f"{manifest.ef_search}{target}",
        "ann_recall@10": f"{manifest.ann_recall_at_10:.4f}; "
        f"{manifest.built_recall:.4f} when the graph was built",
        "hybrid weight": "the default" if weight is None else f"{weight:.2f} for embeddings",
    }
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, fact in facts.items():
        if fact:
            table.add_row(name, Text(str(fact)))
    return table


def _cells(manifest: Manifest, *, kept: Container[int]) -> list[str]:
    recall = f"{manifest.ann_recall_at_10:.4f}"
    parent = "" if manifest.parent is None else str(manifest.parent)
    if manifest.parent is not None and manifest.parent not in kept:
        parent += " gone"
    return [parent, manifest.command, _when(manifest)[:16], f"{manifest.count:,}", recall]


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


def _from(manifest: Manifest) -> str:
    return "" if manifest.parent is None else f", from version {manifest.parent}"


def _manifest_problem(index_dir: Path) -> str:
    try:
        read_manifest(index_dir)
    except IndexIntegrityError as error:
        return str(error)
    return "its folder is gone; go to another version with rollback"


def _when(manifest: Manifest) -> str:
    return manifest.created[:19].replace("T", " ")
