"""Keep the query adapter of the version before in a new build, if vectors and catalogue are alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from aisle.bundle.onnx_encoder import OnnxEncoder
from aisle.commands.indexing.version_changes import manifest_before
from aisle.errors import IndexStoreError
from aisle.index import Manifest
from aisle.index.adapt_index import with_adapter
from aisle.index.array_files import link_files
from aisle.index.integrity import file_problem
from aisle.index.layout import version_directory
from aisle.index.manifest import PRODUCTS_FILE, TOWER_FOLDER, AdapterRecord
from aisle.index.products import read_products
from aisle.index.query_adapter import QueryAdapter, read_adapter
from aisle.search.load_encoder import LoadedEncoder
from aisle.types.columns import ID_COLUMN

FEWEST_SHARED = 0.5
"""Fewest of the products that an adapter was measured on, as a share, that the new catalogue must have."""


@dataclass(frozen=True, eq=False)
class KeptAdapter:
    """Query adapter of a new version.

    Args:
        record: Record of the adapter; None if the version has none.
        adapter: The adapter; None if the version has none, or a query tower.
        lost: Reason why the adapter of the version before is not kept; None if it is, or if it had none.
    """

    record: AdapterRecord | None = None
    adapter: QueryAdapter | None = None
    lost: str | None = None

    def applied_to(self, manifest: Manifest) -> Manifest:
        """Return the manifest of the new version, with the adapter."""
        return manifest if self.record is None else with_adapter(manifest, self.record)

    def encoder(self, encoder: LoadedEncoder, folder: Path, *, trust_remote_code: bool) -> LoadedEncoder:
        """Return the encoder of queries of a staged version, with its query tower if the adapter is that.

        Args:
            encoder: Encoder of the version.
            folder: Folder of the staged version.
            trust_remote_code: Whether to run Python code from the query tower's folder.
        """
        if self.record is None or self.record.kind != "lora" or isinstance(encoder, OnnxEncoder):
            return encoder

        from aisle.models.query_tower import with_query_tower

        return with_query_tower(encoder, folder / TOWER_FOLDER, trust_remote_code=trust_remote_code)


def keep_adapter(
    index_dir: Path,
    folder: Path,
    manifest: Manifest,
    *,
    query_fingerprint: str | None,
    log: Callable[[str], None],
) -> KeptAdapter:
    """Link the query adapter of the current version into a staged version; log whether it is kept.

    Args:
        index_dir: Index directory; its current version is the version before.
        folder: Folder of the staged version.
        manifest: Manifest of the staged version.
        query_fingerprint: Fingerprint of the query tower of the new version's encoder.
        log: Function that prints a line.
    """
    before = manifest_before(index_dir)
    if before is None or before.query_adapter is None:
        return KeptAdapter()
    if before.query_adapter.kind == "lora" and query_fingerprint == before.query_adapter.fingerprint:
        log(f"the encoder has the query tower of version {before.version} built in")
        return KeptAdapter()
    source = version_directory(index_dir, before.version)
    lost = (
        _what_changed(before, manifest, query_fingerprint)
        or _damage(source, before)
        or _lost_products(index_dir, folder, before)
    )
    if lost is not None:
        log(f"the query adapter of version {before.version} is not kept, because {lost}; run aisle adapt")
        return KeptAdapter(lost=lost)
    link_files(source, folder, before.adapter_files)
    log(f"the query adapter is kept from version {before.version}")
    return KeptAdapter(before.query_adapter, read_adapter(source, before))


def _damage(source: Path, before: Manifest) -> str | None:
    """Return the problem with the adapter's files in a version, or None."""
    problems = (
        file_problem(source / name, before.files[name], verify="checksums") for name in before.adapter_files
    )
    return next((problem for problem in problems if problem is not None), None)


def _what_changed(before: Manifest, now: Manifest, query_fingerprint: str | None) -> str | None:
    """Return what changed in the embeddings of queries or products since a version, or None."""
    assert before.query_adapter is not None  # the caller checks
    base = before.query_adapter.base_fingerprint
    if (before.fingerprint, before.dim, base) != (now.fingerprint, now.dim, query_fingerprint):
        return "another encoder makes the embeddings"
    if before.text_template != now.text_template:
        return f"the texts had another template, {before.text_template!r}"
    return None


def _lost_products(index_dir: Path, folder: Path, before: Manifest) -> str | None:
    """Return the share of products that are left if it is too small for the adapter's gain to hold, or None.

    The products are those of the version that the adapter was measured on, or of the version before if that
    version was removed.
    """
    assert before.query_adapter is not None  # the caller checks
    now = read_products(folder / PRODUCTS_FILE).column(ID_COLUMN)
    for version in (before.query_adapter.version, before.version):
        try:
            ids = read_products(version_directory(index_dir, version) / PRODUCTS_FILE).column(ID_COLUMN)
        except (IndexStoreError, OSError):
            continue
        left = pc.sum(pc.is_in(ids, value_set=now)).as_py() or 0
        if left < FEWEST_SHARED * len(ids):
            return f"only {left:,} of the {len(ids):,} products of version {version} are in the new catalogue"
        return None
    return None
