"""Make a new version of an index from new and changed rows of its catalogue."""

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

from aisle.bundle.onnx_encoder import OnnxEncoder
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
from aisle.commands.speed_notes import IN_BF16, speed_notes
from aisle.commands.upsert.partial_upsert import Merged, merge_changes
from aisle.commands.upsert.settings import UpsertSettings, upsert_extra
from aisle.data.catalog_file import CatalogFile, write_catalog
from aisle.data.files import expand_files, iter_rows
from aisle.data.partial_changes import write_partial_changes
from aisle.data.text_files import TextFormat
from aisle.errors import ConfigError, ModelError
from aisle.index import Manifest, StoredProducts, open_stored, upsert_products
from aisle.index.manifest import MARKS_FILE
from aisle.index.products import read_products, take_rows
from aisle.search.encoders import encoder_of_index
from aisle.search.load_encoder import LoadedEncoder
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN

COMPARED_ROWS = 8192

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Changes:
    """Number of products that a catalogue adds to an index, replaces, or leaves unchanged."""

    added: int
    replaced: int
    unchanged: int

    def __str__(self) -> str:
        return f"{self.added:,} added, {self.replaced:,} replaced, {self.unchanged:,} unchanged"


def upsert(settings: UpsertSettings) -> Manifest:
    """Add and replace products, and return the manifest of the current version.

    If the catalogue changes nothing, no new version is made.

    Raises:
        AisleError: The catalogue, the index or the encoder cannot be used, or they do not match.
    """
    output = Output(json_only=settings.json)
    if upsert_extra(settings) == "encode":
        quieten_libraries()
    index_dir = Path(settings.index_dir)
    known = open_stored(index_dir.resolve())
    id_column, template = _reading(settings, known.manifest)
    if not settings.catalog:
        raise ConfigError("give the new and changed products with --catalog")
    # Outside the index's folder, because its lock is taken only if there is something to write.
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
    """Read --catalog with the index's column types: whole products, or some of their columns."""
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
    """Embed the new texts and make the new version."""
    has_texts = TEXT_COLUMN in known.products.column_names
    fingerprint = known.manifest.fingerprint
    if merged is not None and not has_texts:
        plan = plan_changed(products, merged, made_by=fingerprint)
    else:
        plan = plan_embeddings(products, known if has_texts else None, made_by=fingerprint)
    # The encoder is loaded only if there are texts to embed.
    encoder = None
    if len(plan.rows):
        encoder = encoder_of_index(
            known.manifest,
            Path(settings.index_dir),
            model=settings.model,
            base_model=settings.base_model,
            trust_remote_code=settings.trust_remote_code,
            to_search=False,
            log=output.log,
        )
        _refuse_int8_on_torch(known.manifest, encoder, settings.index_dir)
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


def _refuse_int8_on_torch(manifest: Manifest, encoder: LoadedEncoder, index_dir: str | Path) -> None:
    """Refuse new texts for an index that was embedded in int8 without a bundle.

    Raises:
        ModelError: The index records int8, and the encoder is not a bundle.
    """
    if manifest.encoder.get("precision") == "int8" and not isinstance(encoder, OnnxEncoder):
        raise ModelError(
            f"{index_dir}: its products were embedded in int8 without a bundle, which aisle no longer does, "
            "so new texts cannot be added; build the index again without --precision int8, or with a bundle "
            f"from `aisle export {encoder.name} --output_dir DIR --precision int8` as --model"
        )


def plan_changed(products: pa.Table, merged: Merged, *, made_by: str) -> EmbeddingPlan:
    """Return the plan for an index without texts: embed the products with a new text."""
    rows = np.flatnonzero(merged.has_new_text)
    plan = plan_embeddings(take_rows(products, rows), None, made_by=made_by)
    source = -1 - merged.row
    source[rows] = plan.source
    return EmbeddingPlan(rows[plan.rows], plan.keys, source)


def _embeddings(
    plan: EmbeddingPlan,
    known: StoredProducts,
    products: pa.Table,
    encoder: LoadedEncoder | None,
    folder: Path,
    max_tokens: int | None,
    output: Output,
) -> Iterator[npt.NDArray[Any]]:
    """Yield all embeddings in order; new texts are embedded first, after the index is locked."""
    if encoder is not None:
        precision = known.manifest.encoder.get("precision", "fp32")
        for note in speed_notes(encoder, precision, texts=len(plan.rows), remedy=IN_BF16):
            output.log(note)
        with output.progress("embedding", len(plan.rows)) as bar:
            embed_shards(
                plan,
                products,
                encoder,
                folder,
                precision=precision,
                max_tokens=max_tokens,
                on_progress=bar.advance,
            )
    yield from embeddings_in_order(plan, known, folder, dim=known.manifest.dim)


def _reading(settings: UpsertSettings, manifest: Manifest) -> tuple[str, str]:
    """Return the id column and the text template for reading the catalogue."""
    built_with = manifest.text_template
    id_column = settings.id_column or manifest.id_column
    template = settings.text_template or built_with
    if built_with is not None and template != built_with:
        raise ConfigError(
            f"--text_template: the index was built with {built_with!r}, found {template!r}; all products of "
            "an index need the same template: leave the flag out, or build the index again"
        )
    missing = {"--id_column": id_column is None, "--text_template": template is None}
    if id_column is None or template is None:
        flags = " and ".join(flag for flag, is_missing in missing.items() if is_missing)
        raise ConfigError(
            f"{settings.index_dir}: was not built from a --catalog, so it does not record how to read a "
            f"catalogue; give {flags} to match its products, or build the index again"
        )
    return id_column, template


def count_changes(old: pa.Table, new: pa.Table) -> Changes:
    """Count the new products that are added, replaced, or equal to the old product in every column.

    Args:
        old: Products of the index.
        new: Products of the catalogue, with unique ids and column types that can be merged with the old.
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
        # Their representations are compared, so that a NaN equals a NaN.
        unchanged += sum(
            repr(before) == repr(after)
            for before, after in zip(both[: len(part)], both[len(part) :], strict=True)
        )
    return Changes(added=len(rows) - len(there), replaced=len(there) - unchanged, unchanged=unchanged)
