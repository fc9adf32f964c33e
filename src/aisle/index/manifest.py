"""The manifest: a JSON file that describes a version of an index, with checksums of itself and all files."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from aisle.errors import IndexIntegrityError
from aisle.index.layout import MANIFEST_FILE, StrPath, first_version_unfinished, version_numbers
from aisle.types.choices import StoreDtype

__all__ = [
    "EMBEDDINGS_FILE",
    "FORMAT_VERSION",
    "INDEX_FILES",
    "LEXICAL_FOLDER",
    "MANIFEST_FILE",
    "MARKS_FILE",
    "NODES_FILE",
    "PRODUCTS_FILE",
    "QUERIES_FILE",
    "BackendRecord",
    "CurvePoint",
    "FileRecord",
    "Manifest",
    "read_manifest",
    "write_manifest",
]

FORMAT_VERSION = 4
FORMAT_BEFORE_BACKENDS = 3
"""Read as well: `M` and `ef_construction` stand for the backend, which is hnswlib."""
EMBEDDINGS_FILE = "embeddings.npy"
NODES_FILE = "nodes.npy"
PRODUCTS_FILE = "products.arrow"
QUERIES_FILE = "queries.npy"
MARKS_FILE = "marks.npy"
"""(products,) uint8, the mark of each text; missing if the texts were not tokenised (`build_index`)."""
INDEX_FILES = (EMBEDDINGS_FILE, NODES_FILE, PRODUCTS_FILE, QUERIES_FILE)
"""Files of every index; those of the backend and of BM25 come on top."""
LEXICAL_FOLDER = "lexical"

_OWN_CHECKSUM = "manifest_sha256"
_RECALL_KEY = "ann_recall@10"

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class FileRecord:
    """Checksum and size of a file of the index."""

    sha256: Sha256
    """Checksum of the whole file, lower-case hexadecimal."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""


@dataclass(frozen=True)
class CurvePoint:
    """Recall and time measured at an `ef_search`."""

    ef_search: Positive
    """Candidates kept while searching."""
    recall: Share
    """recall@10 against exact search."""
    milliseconds: Annotated[float, Field(ge=0.0)]
    """Mean time of a query, on one thread."""


@dataclass(frozen=True)
class BackendRecord:
    """The graph backend of an index."""

    name: str
    """Name in the registry of `aisle.index.backends`."""
    parameters: dict[str, Any]
    """All its build parameters, as JSON."""


@dataclass(frozen=True)
class Manifest:
    """Everything needed to open, check and query one version of an index."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    version: Positive
    """Number of the version; its files are in `versions/`."""
    created: str
    """When it was made: ISO 8601, UTC."""
    command: str
    """Command that made it: build, upsert, delete, compact or tune."""
    fingerprint: str
    """Fingerprint of the encoder that made the embeddings."""
    encoder: dict[str, Any]
    """Where to find that encoder again, as JSON."""
    text_template: str | None
    """Template that turned a catalogue row into text; None where the text was given."""
    id_column: str | None
    """Column of the catalogue that held the product ids; None where they were given."""
    dim: Positive
    """Components of an embedding."""
    metric: Literal["cosine"]
    """Meaning of a score: inner product of unit vectors."""
    backend: BackendRecord
    """Graph backend, and what it was built with."""
    ef_search: Positive
    """Effort of a search, in the backend's unit, unless the search gives another; for hnswlib the candidates
    that it keeps."""
    count: Positive
    """Products in the index."""
    graph_nodes: Positive
    """Distinct embeddings, each one node of the graph."""
    deleted_nodes: Annotated[int, Field(ge=0)]
    """Nodes of products that are gone; a search passes through them and never gives them."""
    store_dtype: StoreDtype
    """Type of the stored embeddings."""
    files: dict[str, FileRecord]
    """Name -> checksum and size of every other file of the version."""
    ann_recall_at_10: Annotated[Share, Field(alias=_RECALL_KEY)]
    """Share of the exact top 10 that the graph finds at `ef_search`; `ann_recall@10` in JSON."""
    ann_recall_queries: Positive
    """Held-out queries of that measurement."""
    built_recall: Share
    """`ann_recall@10` when the graph was last built as a whole."""
    target_recall: Share | None
    """Recall that `ef_search` was chosen for; None where it was given."""
    recall_curve: tuple[CurvePoint, ...]
    """Every `ef_search` that was measured, lowest first."""
    hybrid_weight: Share | None = None
    """Share of the dense score in a hybrid one, if it was tuned."""
    ancestors: tuple[Positive, ...] = ()
    """Versions that it was made from and that were there then, nearest first."""
    keep_versions: Positive = 3
    """Versions that the index keeps, until a command sets another number."""
    truncated_texts: Annotated[int, Field(ge=0)] | None = None
    """Products whose text is longer than the encoder's maximum length; None where they were not counted."""
    unknown_texts: Annotated[int, Field(ge=0)] | None = None
    """Products whose text has no token in the encoder's vocabulary; None if they were not counted."""
    query_fingerprint: str | None = None
    """Fingerprint of the query tower that the index was built with; None if one tower reads both sides."""
    pruned: tuple[Positive, ...] = ()
    """Versions that were removed when it became the current one."""

    @property
    def parent(self) -> int | None:
        """Return the version that was current when this one was made."""
        return self.ancestors[0] if self.ancestors else None


_SCHEMA = TypeAdapter(Manifest)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest with a checksum of its own contents.

    Raises:
        OSError: The file cannot be written.
    """
    content = asdict(manifest)
    content[_RECALL_KEY] = content.pop("ann_recall_at_10")
    document = {"format_version": FORMAT_VERSION, **content}
    document[_OWN_CHECKSUM] = _checksum(document)
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_manifest(index_dir: StrPath) -> Manifest:
    """Return the manifest of an index directory.

    Raises:
        IndexIntegrityError: There is no manifest, it is not JSON of our schema, it was altered, or it is of a
            format that this version of aisle does not read.
        OSError: The file exists and cannot be read.
    """
    index_dir = Path(index_dir)
    path = index_dir / MANIFEST_FILE
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise IndexIntegrityError(_missing(index_dir)) from None
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"it must be JSON, found: {error}") from None
    if not isinstance(document, dict):
        raise _broken(path, f"it must be a JSON object, found {type(document).__name__}")
    version = document.pop("format_version", None)
    _check_version(path, version)
    recorded = document.pop(_OWN_CHECKSUM, None)
    found = _checksum({"format_version": version, **document})
    if recorded != found:
        raise _broken(path, f"{_OWN_CHECKSUM} says {recorded}, the contents have {found}: it was altered")
    if version == FORMAT_BEFORE_BACKENDS:
        parameters = {name: document.pop(name, None) for name in ("M", "ef_construction")}
        document["backend"] = {"name": "hnsw", "parameters": parameters}
    try:
        # As JSON: strict mode takes a record from a JSON object, not from a dict.
        return _SCHEMA.validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _broken(path, f"{where}: {first['msg']}, found {first['input']!r}") from None


def _check_version(path: Path, version: object) -> None:
    """Raise unless the manifest's format is the one this module reads."""
    if type(version) is not int:
        raise _broken(path, f"format_version must be a whole number, found {version!r}")
    if version > FORMAT_VERSION:
        raise IndexIntegrityError(
            f"{path}: this aisle reads index format {FORMAT_VERSION}, found format {version}, made by a "
            "newer aisle: upgrade aisle, or build the index again with this one"
        )
    if version < FORMAT_BEFORE_BACKENDS:
        raise IndexIntegrityError(
            f"{path}: this aisle reads index format {FORMAT_VERSION}, found format {version}: "
            "build the index again"
        )


def _checksum(document: Mapping[str, object]) -> str:
    """Return the SHA-256 of the document in a spelling that spaces and key order cannot change."""
    spelled = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(spelled.encode("ascii")).hexdigest()


def _broken(path: Path, found: str) -> IndexIntegrityError:
    return IndexIntegrityError(f"{path}: not a valid manifest: {found}; {_mend(path.parent)}")


def _missing(index_dir: Path) -> str:
    if not version_numbers(index_dir) or first_version_unfinished(index_dir):
        return (
            f"{index_dir}: an index holds {MANIFEST_FILE}, found none; "
            "this is not an index, or its build did not finish: build it again"
        )
    return f"{index_dir / MANIFEST_FILE}: missing, so no version is current; {_mend(index_dir)}"


def _mend(index_dir: Path) -> str:
    """Return what to do about a manifest that is lost or damaged."""
    numbers = version_numbers(index_dir)
    if not numbers:
        return "build the index again"
    named = f"version {numbers[0]} is" if len(numbers) == 1 else f"versions {numbers} are"
    command = f"aisle rollback --index_dir {shlex.quote(str(index_dir))}"
    return f"{named} there: go back to the newest with: {command} (--to takes another), or build it again"
