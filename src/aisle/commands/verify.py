"""`aisle verify`: check the files, the counts and the recall of an index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aisle.commands.command import Command
from aisle.commands.output import Output
from aisle.commands.shared_settings import ConfigFile, IndexDir, Json
from aisle.errors import IndexIntegrityError, IndexStoreError

if TYPE_CHECKING:
    from aisle.index import Manifest, SearchIndex

RECALL_TOLERANCE = 0.01
"""Largest difference from the recorded recall: rounding on another machine can break ties otherwise."""


@dataclass(frozen=True)
class VerifySettings:
    """Check the files, counts and recall of an index.

    The checksum of every file is compared with the manifest, and recall is measured again.
    """

    index_dir: IndexDir
    all_versions: bool = False
    """Check every version. Otherwise the current version is checked."""
    json: Json = False
    config: ConfigFile = None


@dataclass(frozen=True)
class Checked:
    """Result of the check of a version."""

    number: int
    recall: float | None
    """recall@10, measured now; None if the version is damaged."""
    problem: str | None
    """Problem, with the name of the file; None if there is no problem."""


def verify(settings: VerifySettings) -> None:
    """Check files, counts and recall of the current version, or of all versions.

    Raises:
        IndexIntegrityError: A file is missing, truncated or altered, or recall differs from the manifest.
    """
    from aisle.index import list_versions, read_manifest

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
            output.log(f"version {version.number}: OK, ann_recall@10 {version.recall:.4f}")
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
    """Return the result of comparing a version's files, counts and recall with its manifest."""
    from aisle.index import open_index
    from aisle.index.layout import version_directory
    from aisle.index.manifest import MANIFEST_FILE

    folder = version_directory(index_dir, number)
    try:
        index = open_index(index_dir, version=number)
        if number == current.version and index.manifest != current:
            raise IndexIntegrityError(
                f"{index_dir / MANIFEST_FILE}: differs from {folder / MANIFEST_FILE}, but must be a "
                "copy of it; go back to an undamaged version with rollback, or build the index again"
            )
        if index.lexical is not None and index.lexical.texts != len(index):
            raise IndexIntegrityError(
                f"{folder}: the manifest records {len(index)} products, the lexical index has "
                f"{index.lexical.texts}; build the index again"
            )
        recall = _recall(index)
    except IndexStoreError as error:
        return Checked(number, None, str(error))
    recorded = index.manifest.ann_recall_at_10
    if abs(recall - recorded) <= RECALL_TOLERANCE:
        return Checked(number, recall, None)
    where = ", ".join(str(folder / name) for name in index.graph.backend.files) or folder
    problem = (
        f"{where}: gives recall@10 {recall:.4f}, the manifest records {recorded:.4f}; build the index again"
    )
    return Checked(number, recall, problem)


def _recall(index: SearchIndex) -> float:
    """Return recall@10 on the held-out queries, measured now."""
    from aisle.index.array_files import read_queries
    from aisle.index.tuning import tune

    queries = read_queries(index.directory, dim=index.dim)
    ef_search = index.manifest.ef_search
    return tune(index.graph, index.embeddings, queries, tie_ranks=index.tie_ranks, ef_search=ef_search).recall


COMMAND = Command("verify", VerifySettings, verify)
