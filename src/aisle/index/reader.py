"""Open an index, or only its products and embeddings; refuse damaged files and the wrong encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from aisle.errors import FingerprintMismatchError, IndexIntegrityError, IndexStoreError
from aisle.index.array_files import read_array
from aisle.index.backends import NodeVectors
from aisle.index.dense_search import Graph
from aisle.index.integrity import file_problem, recorded_backend, verify_files
from aisle.index.layout import StrPath, version_directory
from aisle.index.lexical import LEXICAL_FILES, Bm25Index
from aisle.index.manifest import (
    EMBEDDINGS_FILE,
    LEXICAL_FOLDER,
    MARKS_FILE,
    NODES_FILE,
    PRODUCTS_FILE,
    Manifest,
    read_manifest,
)
from aisle.index.products import rank_ids, read_products
from aisle.index.query_adapter import read_adapter
from aisle.index.row_groups import RowGroups
from aisle.index.scoring import FloatArray
from aisle.index.search_index import SearchIndex
from aisle.index.stored_calibration import read_calibration
from aisle.index.version_folders import current_directory
from aisle.types.columns import ID_COLUMN

__all__ = [
    "StoredProducts",
    "check_adapter",
    "check_fingerprint",
    "open_index",
    "open_stored",
    "query_tower_note",
]

OPEN_ATTEMPTS = 10


@dataclass(frozen=True, eq=False)
class StoredProducts:
    """Products of a version and their embeddings, memory-mapped."""

    manifest: Manifest
    directory: Path
    """Folder of the version's files."""
    products: pa.Table
    embeddings: FloatArray


def open_index(
    index_dir: StrPath,
    *,
    fingerprint: str | None = None,
    verify: Literal["checksums", "sizes"] = "checksums",
    version: int | None = None,
) -> SearchIndex:
    """Check that an index is complete and made by the right encoder, and return it.

    The result is a single version. It stays usable after another version becomes current, and after its files
    are removed.

    Args:
        index_dir: Directory of the index.
        fingerprint: Fingerprint of the encoder that will embed the queries; None skips the check.
        verify: "checksums" reads every file once. "sizes" is for files that were checked before: it does not
            detect a changed byte, on which hnswlib may crash.
        version: Number of the version; None is the current one.

    Raises:
        IndexIntegrityError: Directory, manifest or a file is missing, truncated, altered or of another
            format.
        FingerprintMismatchError: Another encoder made the index.
        IndexStoreError: A file cannot be read, or the index keeps being replaced.
    """
    resolved = Path(index_dir).resolve()
    for _ in range(OPEN_ATTEMPTS):
        manifest = _manifest(resolved, version)
        try:
            folder = current_directory(resolved, manifest)
            return _open_version(folder, manifest, fingerprint=fingerprint, verify=verify)
        except (IndexStoreError, OSError) as error:
            # The version may have been removed while it was opened, if newer versions were made meanwhile.
            if version is None and _manifest(resolved, None).version != manifest.version:
                continue
            if isinstance(error, IndexStoreError):
                raise
            raise IndexStoreError(
                f"{index_dir}: could not be read: {error}; check its permissions"
            ) from error
    raise IndexStoreError(f"{index_dir}: replaced {OPEN_ATTEMPTS} times while it was opened; try again later")


def open_stored(index_dir: StrPath, *, also: Sequence[str] = ()) -> StoredProducts:
    """Check the stored products and embeddings of the current version, and return them.

    Args:
        index_dir: Directory of the index.
        also: Further files of the version to check.

    Raises:
        IndexIntegrityError: There is no index, or one of its files is missing or altered.
    """
    index_dir = Path(index_dir)
    manifest = read_manifest(index_dir)
    folder = current_directory(index_dir, manifest)
    marks = [MARKS_FILE] if MARKS_FILE in manifest.files else []
    for name in (PRODUCTS_FILE, EMBEDDINGS_FILE, *marks, *also):
        if name not in manifest.files:
            raise IndexIntegrityError(f"{folder}: the manifest must list {name}; build the index again")
        problem = file_problem(folder / name, manifest.files[name], verify="checksums")
        if problem is not None:
            raise IndexIntegrityError(problem)
    return StoredProducts(
        manifest,
        folder,
        read_products(folder / PRODUCTS_FILE, count=manifest.count),
        read_array(
            folder / EMBEDDINGS_FILE, shape=(manifest.count, manifest.dim), dtype=manifest.store_dtype
        ),
    )


def _manifest(index_dir: Path, version: int | None) -> Manifest:
    if not index_dir.is_dir():
        raise IndexIntegrityError(
            f"{index_dir}: must be an index directory, found none; build the index first"
        )
    try:
        return read_manifest(index_dir if version is None else version_directory(index_dir, version))
    except OSError as error:
        raise IndexStoreError(f"{index_dir}: could not be read: {error}; check its permissions") from error


def _open_version(
    folder: Path, manifest: Manifest, *, fingerprint: str | None, verify: Literal["checksums", "sizes"]
) -> SearchIndex:
    """Return the index of a version's folder."""
    check_fingerprint(folder, manifest, fingerprint)
    verify_files(folder, manifest, verify=verify)
    embeddings = read_array(
        folder / EMBEDDINGS_FILE, shape=(manifest.count, manifest.dim), dtype=manifest.store_dtype
    )
    node_of_row = read_array(folder / NODES_FILE, shape=(manifest.count,), dtype="int64")
    products = read_products(folder / PRODUCTS_FILE, count=manifest.count)
    # Every search reads ids, which takes microseconds with a single chunk and milliseconds with a hundred.
    at = products.schema.get_field_index(ID_COLUMN)
    ids = products.column(at).combine_chunks()
    products = products.set_column(at, ID_COLUMN, pa.chunked_array([ids], ids.type))
    tie_ranks = rank_ids(products)
    labels = manifest.graph_nodes + manifest.deleted_nodes
    groups = RowGroups.of(node_of_row, tie_ranks, nodes=labels)
    chosen, parameters = recorded_backend(folder, manifest)
    backend = chosen.load(folder, NodeVectors(embeddings, groups), parameters)
    found = (len(backend), len(groups), groups.live)
    if found != (labels, labels, manifest.graph_nodes):
        stored = " and ".join(chosen.files) or f"backend {chosen.name}"
        raise IndexIntegrityError(
            f"{folder}: the manifest records {labels} graph nodes, {manifest.graph_nodes} of them in use; "
            f"{stored} has {found[0]}, and {NODES_FILE} {found[1]} with {found[2]} in use; build the "
            "index again"
        )
    has_texts = any(name.startswith(f"{LEXICAL_FOLDER}/") for name in manifest.files)
    return SearchIndex(
        manifest=manifest,
        embeddings=embeddings,
        graph=Graph(backend, groups),
        products=products,
        tie_ranks=tie_ranks,
        directory=folder,
        lexical=_lexical(folder, manifest) if has_texts else None,
        calibration=read_calibration(folder, manifest),
        query_adapter=read_adapter(folder, manifest),
    )


def _lexical(folder: Path, manifest: Manifest) -> Bm25Index:
    unlisted = [name for name in LEXICAL_FILES if f"{LEXICAL_FOLDER}/{name}" not in manifest.files]
    if unlisted:
        raise IndexIntegrityError(
            f"{folder}: the manifest must list {LEXICAL_FOLDER}/{unlisted[0]}; build the index again"
        )
    return Bm25Index.load(folder / LEXICAL_FOLDER)


def check_fingerprint(index_dir: Path, manifest: Manifest, fingerprint: str | None) -> None:
    """Check that the encoder of the queries made the index."""
    if fingerprint is not None and fingerprint != manifest.fingerprint:
        raise FingerprintMismatchError(
            f"{index_dir}: an index is searched with its own encoder: made by {manifest.fingerprint} "
            f"({manifest.encoder}), queried with {fingerprint}; build the index again with the new encoder, "
            "or query with the old one"
        )


def check_adapter(index_dir: Path, manifest: Manifest, query_fingerprint: str | None) -> None:
    """Check that the encoder of the queries is that of the index's query adapter, if it has one.

    That is the base of a function of embeddings, or the query tower of an adapter of kind lora.
    """
    record = manifest.query_adapter
    if record is None or query_fingerprint == record.encoder_fingerprint:
        return
    is_tower = record.kind == "lora"
    adapter = "query adapter is" if is_tower else "query adapter was trained on embeddings of"
    raise FingerprintMismatchError(
        f"{index_dir}: its {adapter} the query tower {record.encoder_fingerprint}, and the queries are "
        f"embedded by {query_fingerprint}; use that encoder, go back to a version without the adapter (aisle "
        "rollback), or train another (aisle adapt)"
    )


def query_tower_note(manifest: Manifest, fingerprint: str | None) -> str | None:
    """Return a note if another query tower embeds the queries than the index records; None otherwise.

    It may: a query tower is trained on its own for the products that an index has.

    Args:
        manifest: Manifest of the index.
        fingerprint: Fingerprint of the query tower that embeds the queries.
    """
    if fingerprint == manifest.query_tower:
        return None
    return (
        f"queries are embedded by the query tower {str(fingerprint)[:12]}; the index was built with the "
        f"query tower {manifest.query_tower[:12]}, and has products of the same product tower "
        f"{manifest.fingerprint[:12]}"
    )
