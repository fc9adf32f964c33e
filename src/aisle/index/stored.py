"""What a version stores without its graph: products and embeddings, for a rebuild of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from aisle.errors import IndexIntegrityError
from aisle.index.exact import FloatArray
from aisle.index.layout import StrPath
from aisle.index.manifest import (
    EMBEDDINGS_FILE,
    MARKS_FILE,
    PRODUCTS_FILE,
    Manifest,
    file_problem,
    read_manifest,
)
from aisle.index.products import read_products
from aisle.index.store import read_array
from aisle.index.version_folders import current_directory

__all__ = ["StoredProducts", "open_stored"]


@dataclass(frozen=True, eq=False)
class StoredProducts:
    """Products of a version and their embeddings, memory-mapped."""

    manifest: Manifest
    directory: Path
    """Folder of the version's files."""
    products: pa.Table
    embeddings: FloatArray


def open_stored(index_dir: StrPath, *, also: Sequence[str] = ()) -> StoredProducts:
    """Return what the current version stores, after checking the files that hold it.

    Args:
        index_dir: of the index.
        also: further files of the version to check.

    Raises:
        IndexIntegrityError: there is no index, or a file of it is missing or altered.
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
