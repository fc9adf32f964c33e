"""From new and changed rows of a catalogue to a new version of its index."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aisle.commands.indexing.catalog import columns_of, log_columns
from aisle.commands.indexing.embedding import (
    EmbeddingPlan,
    embed_shards,
    embeddings_in_order,
    plan_embeddings,
)
from aisle.commands.indexing.marks import marks_in_order
from aisle.commands.indexing.report_change import report_change
from aisle.commands.indexing.text_notes import log_texts
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.upsert.partial_upsert import Merged, merge_changes
from aisle.commands.upsert.settings import UpsertSettings
from aisle.data.catalog_file import CatalogFile, write_catalog
from aisle.data.files import expand_files, iter_rows
from aisle.data.partial_changes import write_partial_changes
from aisle.data.text_files import TextFormat
from aisle.errors import ConfigError
from aisle.index import Manifest, StoredProducts, open_stored, upsert_products
from aisle.index.manifest import MARKS_FILE
from aisle.index.products import read_products, take_rows
from aisle.models.encoder import TorchEncoder
from aisle.search.encoders import encoder_of_index
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

COMPARED_ROWS = 8192

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Changes:
    """How many products a catalogue adds to an index, replaces in it, or has just as they are there."""

    added: int
    replaced: int
    unchanged: int

    def __str__(self) -> str:
        return f"{self.added:,} added, {self.replaced:,} replaced, {self.unchanged:,} unchanged"


def upsert(settings: UpsertSettings) -> Manifest:
    """Add and replace products, and return the manifest of the version that is then current.

    A catalogue that changes nothing makes no version.

    Raises:
        AisleError: catalogue, index and encoder cannot be used, or do not fit each other.
    """
    output = Output(json_only=settings.json)
    quieten_libraries()
    index_dir = Path(settings.index_dir)
    known = open_stored(index_dir.resolve())
    id_column, template = _reading(settings, known.manifest)
    if not settings.catalog:
        raise ConfigError("give the new and changed products with --catalog")
    # Not in the index's folder: the lock is taken when there is something to write.
    with tempfile.TemporaryDirectory(prefix="aisle-upsert-") as folder:
        catalog = _read(settings, known, id_column, template, Path(folder) / "products.arrow")
        if catalog.bad_rows.total:
            output.log(str(catalog.bad_rows))
        log_columns(catalog, output)
        products, merged = read_products(catalog.path), None
        if settings.partial:
            path = Path(folder) / "merged.arrow"
            merged = merge_changes(known.products, products, path, template=template, id_column=id_column)
            products = read_products(path)
        changes = count_changes(known.products, products)
        output.log(f"catalogue: {len(catalog):,} products, {changes}")
        manifest = known.manifest
        if changes.added or changes.replaced:
            manifest = _write(settings, known, products, merged, Path(folder), output)
        else:
            output.log("nothing to write")
    log_texts(output, manifest)
    report_change(
        output,
        settings.index_dir,
        manifest,
        before=known.manifest,
        added=changes.added,
        replaced=changes.replaced,
        unchanged=changes.unchanged,
        bad_rows=catalog.bad_rows.total,
    )
    return manifest


def _read(
    settings: UpsertSettings, known: StoredProducts, id_column: str, template: str, path: Path
) -> CatalogFile:
    """Return the rows of --catalog, whole products or some of their columns, as the index has them."""
    text = TextFormat.of(settings.delimiter, settings.encoding)
    files = expand_files(settings.catalog)
    columns = columns_of(known.products, version=known.manifest.version, binding=True)
    if settings.partial:
        return write_partial_changes(
            iter_rows(files, fill=False, text=text),
            path,
            id_column=id_column,
            known=columns,
            ids=known.products.column(ID_COLUMN),
            on_bad_row=settings.on_bad_row,
        )
    return write_catalog(
        iter_rows(files, text=text),
        path,
        id_column=id_column,
        text_template=template,
        on_bad_row=settings.on_bad_row,
        known=columns,
    )


def _write(
    settings: UpsertSettings,
    known: StoredProducts,
    products: pa.Table,
    merged: Merged | None,
    folder: Path,
    output: Output,
) -> Manifest:
    """Embed the texts that are new and make the new version."""
    has_texts = TEXT_COLUMN in known.products.column_names
    fingerprint = known.manifest.fingerprint
    if merged is not None and not has_texts:
        plan = plan_changed(products, merged, made_by=fingerprint)
    else:
        plan = plan_embeddings(products, known if has_texts else None, made_by=fingerprint)
    # Without a text to embed no encoder is needed.
    encoder = None
    if len(plan.rows):
        encoder = encoder_of_index(
            known.manifest,
            Path(settings.index_dir),
            model=settings.model,
            base_model=settings.base_model,
            trust_remote_code=settings.trust_remote_code,
        )
    embeddings = _embeddings(plan, known, products, encoder, folder, settings.max_tokens, output)
    counted = MARKS_FILE in known.manifest.files
    return upsert_products(
        Path(settings.index_dir),
        products=products if has_texts else products.drop_columns([TEXT_COLUMN]),
        embeddings=embeddings,
        fingerprint=fingerprint,
        marks=partial(marks_in_order, plan, known, folder, products, encoder) if counted else None,
        threads=settings.threads,
        keep_versions=settings.keep_versions,
    )


def plan_changed(products: pa.Table, merged: Merged, *, made_by: str) -> EmbeddingPlan:
    """Return what to embed where the index has no texts: those of the products whose text is made again."""
    rows = np.flatnonzero(merged.has_new_text)
    plan = plan_embeddings(take_rows(products, rows), None, made_by=made_by)
    source = -1 - merged.row
    source[rows] = plan.source
    return EmbeddingPlan(rows[plan.rows], plan.keys, source)


def _embeddings(
    plan: EmbeddingPlan,
    known: StoredProducts,
    products: pa.Table,
    encoder: TorchEncoder | None,
    folder: Path,
    max_tokens: int | None,
    output: Output,
) -> Iterator[npt.NDArray[Any]]:
    """Yield the embeddings in order; what is new is embedded first, once the index is locked."""
    if encoder is not None:
        with output.progress("embedding", len(plan.rows)) as bar:
            embed_shards(
                plan,
                products,
                encoder,
                folder,
                precision=known.manifest.encoder.get("precision", "fp32"),
                max_tokens=max_tokens,
                on_progress=bar.advance,
            )
    yield from embeddings_in_order(plan, known, folder, dim=known.manifest.dim)


def _reading(settings: UpsertSettings, manifest: Manifest) -> tuple[str, str]:
    """Return the id column and the text template to read the catalogue with."""
    built_with = manifest.text_template
    id_column = settings.id_column or manifest.id_column
    template = settings.text_template or built_with
    if built_with is not None and template != built_with:
        raise ConfigError(
            f"--text_template: the index was built with {built_with!r}, found {template!r}; products of one "
            "index are embedded alike: leave the flag out, or build the index again"
        )
    missing = {"--id_column": id_column is None, "--text_template": template is None}
    if id_column is None or template is None:
        flags = " and ".join(flag for flag, is_missing in missing.items() if is_missing)
        raise ConfigError(
            f"{settings.index_dir}: was not built from a --catalog, so how to read one is not known; give "
            f"{flags} as they fit its products, or build the index again"
        )
    return id_column, template


def count_changes(old: pa.Table, new: pa.Table) -> Changes:
    """Return how many of the new products the old ones lack, differ from, or equal in every column.

    Args:
        old: of the index.
        new: of the catalogue, ids unique, types that unite with the old ones.
    """
    new = new.select([name for name in new.column_names if name != TEXT_COLUMN or name in old.column_names])
    place = pc.index_in(new.column(ID_COLUMN), value_set=old.column(ID_COLUMN))
    rows = place.combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    there = np.flatnonzero(rows >= 0)
    unchanged = 0
    for start in range(0, len(there), COMPARED_ROWS):
        part = there[start : start + COMPARED_ROWS]
        both = pa.concat_tables(
            [take_rows(old, rows[part]), take_rows(new, part)], promote_options="permissive"
        ).to_pylist()
        # As they are written: a NaN equals a NaN.
        unchanged += sum(
            repr(before) == repr(after)
            for before, after in zip(both[: len(part)], both[len(part) :], strict=True)
        )
    return Changes(added=len(rows) - len(there), replaced=len(there) - unchanged, unchanged=unchanged)
