"""The manifest: a JSON file that describes a version of an index, with checksums of itself and all files."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from aisle.errors import IndexIntegrityError
from aisle.index.adapter_record import AdapterRecord
from aisle.index.layout import MANIFEST_FILE, StrPath, first_version_unfinished, version_numbers
from aisle.io.json_object import InvalidJsonError, read_object, record_of
from aisle.io.record_schema import ALIAS, Limits, Number, Positive, Sha256, record_validator
from aisle.types.choices import StoreDtype

__all__ = [
    "ADAPTER_FILE",
    "CALIBRATION_FILE",
    "EMBEDDINGS_FILE",
    "FORMAT_VERSION",
    "INDEX_FILES",
    "LEXICAL_FOLDER",
    "MANIFEST_FILE",
    "MARKS_FILE",
    "NODES_FILE",
    "PRODUCTS_FILE",
    "QUERIES_FILE",
    "TOWER_FOLDER",
    "AdapterRecord",
    "BackendRecord",
    "CurvePoint",
    "FileRecord",
    "Manifest",
    "manifest_text",
    "read_manifest",
    "write_manifest",
]

FORMAT_VERSION = 4
FORMAT_BEFORE_BACKENDS = 3
"""Earlier format, also readable: the backend is hnswlib, given by `M` and `ef_construction`."""
EMBEDDINGS_FILE = "embeddings.npy"
NODES_FILE = "nodes.npy"
PRODUCTS_FILE = "products.arrow"
QUERIES_FILE = "queries.npy"
MARKS_FILE = "marks.npy"
"""File of the mark of each text, (products,) uint8; missing if texts were not tokenised (`build_index`)."""
CALIBRATION_FILE = "calibration.json"
"""File of the probabilities of relevance by score; missing until `aisle calibrate` measured them."""
ADAPTER_FILE = "query_adapter.npz"
"""File of the weights of the query adapter; missing if queries are not adapted, or by a query tower."""
TOWER_FOLDER = "query_tower"
"""Folder of the query tower of an adapter of kind lora: a whole model."""
INDEX_FILES = (EMBEDDINGS_FILE, NODES_FILE, PRODUCTS_FILE, QUERIES_FILE)
"""Files of every index; the backend and BM25 add their own."""
LEXICAL_FOLDER = "lexical"

_OWN_CHECKSUM = "manifest_sha256"
_RECALL_KEY = "ann_recall@10"

Milliseconds = Annotated[float, Limits(ge=0.0)]
Share = Annotated[float, Limits(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class FileRecord:
    """Checksum and size of a file of the index."""

    sha256: Sha256
    """Checksum of the whole file, in lower-case hexadecimal."""
    size: Number
    """Size in bytes."""


@dataclass(frozen=True)
class CurvePoint:
    """Recall and time measured at an `ef_search`."""

    ef_search: Positive
    """Candidates kept while searching."""
    recall: Share
    """recall@10 against exact search."""
    milliseconds: Milliseconds
    """Mean time of a query, on one thread."""


@dataclass(frozen=True)
class BackendRecord:
    """The graph backend of an index."""

    name: str
    """Name in the registry of `aisle.index.backends`."""
    parameters: dict[str, Any]
    """All build parameters of the backend, as JSON."""


@dataclass(frozen=True)
class Manifest:
    """Everything needed to open, check and query one version of an index."""

    version: Positive
    """Number of the version; its files are in a folder of `versions/`."""
    created: str
    """Time when the version was made: ISO 8601, UTC."""
    command: str
    """Command that made the version: build, upsert, delete, compact, tune, calibrate or adapt."""
    fingerprint: str
    """Fingerprint of the encoder that made the embeddings."""
    encoder: dict[str, Any]
    """Source of the encoder, as JSON, to load it again."""
    text_template: str | None
    """Template that turned a catalogue row into text; None if texts were given directly."""
    id_column: str | None
    """Column of product ids in the catalogue; None if ids were given directly."""
    dim: Positive
    """Components of an embedding."""
    metric: Literal["cosine"]
    """Meaning of a score: inner product of unit vectors."""
    backend: BackendRecord
    """Graph backend and its build parameters."""
    ef_search: Positive
    """Default search effort, in the backend's unit; for hnswlib the number of candidates kept."""
    count: Positive
    """Number of products in the index."""
    graph_nodes: Positive
    """Number of distinct embeddings; each is a node of the graph."""
    deleted_nodes: Number
    """Nodes of removed products; a search passes through them and never returns them."""
    store_dtype: StoreDtype
    """Number type of the stored embeddings."""
    files: dict[str, FileRecord]
    """Checksum and size of every other file of the version, by name."""
    ann_recall_at_10: Share = field(metadata={ALIAS: _RECALL_KEY})
    """Share of the exact top 10 that the graph finds at `ef_search`; `ann_recall@10` in JSON."""
    ann_recall_queries: Positive
    """Number of held-out queries in that measurement."""
    built_recall: Share
    """`ann_recall@10` after the last full build of the graph."""
    target_recall: Share | None
    """Recall that `ef_search` was chosen to reach; None if the user set `ef_search`."""
    recall_curve: tuple[CurvePoint, ...]
    """Measurements for every `ef_search` that was tried, lowest first."""
    hybrid_weight: Share | None = None
    """Weight of the dense score in hybrid search; None if it was not tuned."""
    ancestors: tuple[Positive, ...] = ()
    """Ancestors of the version that still existed when it was made, nearest first."""
    keep_versions: Positive = 3
    """Number of versions that the index keeps, until a command changes it."""
    truncated_texts: Number | None = None
    """Number of products with a text above the encoder's maximum length; None if they were not counted."""
    unknown_texts: Number | None = None
    """Number of products with no known token in their text; None if they were not counted."""
    query_fingerprint: str | None = None
    """Fingerprint of the query tower at the build, or of the query adapter if that is a tower; None if one
    tower reads both sides."""
    query_adapter: AdapterRecord | None = None
    """Adapter of query embeddings; None if queries are searched as the encoder embeds them."""
    pruned: tuple[Positive, ...] = ()
    """Versions that were removed when this version became current."""

    @property
    def query_tower(self) -> str:
        """Fingerprint of the query tower at the build; that of the encoder if one tower reads both sides."""
        return self.query_fingerprint or self.fingerprint

    @property
    def adapter_files(self) -> tuple[str, ...]:
        """Names of the files of the query adapter."""
        return tuple(
            name for name in self.files if name == ADAPTER_FILE or name.startswith(f"{TOWER_FOLDER}/")
        )

    @property
    def parent(self) -> int | None:
        """Version that was current when this version was made."""
        return self.ancestors[0] if self.ancestors else None


_VALIDATOR = record_validator(Manifest)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest, with a checksum of its contents.

    Raises:
        OSError: The file cannot be written.
    """
    path.write_text(manifest_text(manifest), encoding="utf-8")


def manifest_text(manifest: Manifest) -> str:
    """Return the manifest as JSON, with a checksum of its contents."""
    content = asdict(manifest)
    content[_RECALL_KEY] = content.pop("ann_recall_at_10")
    document = {"format_version": FORMAT_VERSION, **content}
    document[_OWN_CHECKSUM] = _checksum(document)
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def read_manifest(index_dir: StrPath) -> Manifest:
    """Return the manifest of an index directory.

    Raises:
        IndexIntegrityError: The manifest is missing, does not follow the schema, was altered, or has a format
            that this version of aisle does not read.
        OSError: The file exists but cannot be read.
    """
    index_dir = Path(index_dir)
    path = index_dir / MANIFEST_FILE
    try:
        document = read_object(path)
    except (FileNotFoundError, NotADirectoryError):
        raise IndexIntegrityError(_missing(index_dir)) from None
    except InvalidJsonError as error:
        raise _broken(path, str(error)) from None
    version = document.pop("format_version", None)
    _check_version(path, version)
    recorded = document.pop(_OWN_CHECKSUM, None)
    found = _checksum({"format_version": version, **document})
    if recorded != found:
        raise _broken(path, f"{_OWN_CHECKSUM} is {recorded}, the contents have {found}: it was altered")
    if version == FORMAT_BEFORE_BACKENDS:
        parameters = {name: document.pop(name, None) for name in ("M", "ef_construction")}
        document["backend"] = {"name": "hnsw", "parameters": parameters}
    try:
        manifest: Manifest = record_of(document, _VALIDATOR)
    except InvalidJsonError as error:
        raise _broken(path, str(error)) from None
    return manifest


def _check_version(path: Path, version: object) -> None:
    """Check that this module reads the manifest's format."""
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
    """Return the SHA-256 of the document, independent of spaces and key order."""
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
    """Return advice on a lost or damaged manifest."""
    numbers = version_numbers(index_dir)
    if not numbers:
        return "build the index again"
    named = f"version {numbers[0]} is" if len(numbers) == 1 else f"versions {numbers} are"
    command = f"aisle rollback --index_dir {shlex.quote(str(index_dir))}"
    return f"{named} there: go back to the newest with: {command} (--to takes another), or build it again"
