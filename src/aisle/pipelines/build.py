"""From a catalogue to an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from aisle.config.index import BuildSettings
from aisle.data.catalog import CatalogRead, distinct_products, read_catalog
from aisle.data.files import expand_files, iter_rows
from aisle.data.pairs import PairColumns
from aisle.data.sources import iter_split, resolve_dataset
from aisle.errors import ConfigError
from aisle.index import build_index, refuse_occupied
from aisle.index.manifest import Manifest
from aisle.models.encoder import Encoder, fastest_precision
from aisle.models.loading import Overrides, load_encoder
from aisle.pipelines.encoders import encoder_record
from aisle.pipelines.output import Output, quieten_libraries

CHUNK = 8192
"""Texts that are tokenised, sorted by length and embedded together: bounds memory, not the result."""


def build(settings: BuildSettings) -> Manifest:
    """Embed the catalogue, write the index and return its manifest.

    Raises:
        AisleError: the catalogue, the model or the folder cannot be used.
    """
    output = Output(json_only=settings.json)
    quieten_libraries()
    overrides = Overrides(
        pooling=settings.pooling,
        query_prompt=settings.query_prompt,
        product_prompt=settings.product_prompt,
        max_length=settings.max_length,
    )
    refuse_occupied(Path(settings.index_dir), overwrite=settings.overwrite_index_dir)
    read = _read(settings)
    catalog = read.catalog
    output.say(f"catalogue: {len(catalog):,} products")
    if read.bad_rows.total:
        output.say(str(read.bad_rows))
    if read.conflicting_texts:
        output.say(f"{read.conflicting_texts:,} product ids have a second, other text; the first is taken")
    encoder = load_encoder(
        settings.model,
        base_model=settings.base_model,
        overrides=overrides,
        revision=settings.model_revision,
        trust_remote_code=settings.trust_remote_code,
    )
    precision = settings.precision or fastest_precision(encoder, catalog.texts)
    output.say(f"encoder: {encoder.name}, {encoder.dim} dim, computing in {precision} on {encoder.device}")
    with output.progress("embedding", len(catalog)) as bar:
        manifest = build_index(
            Path(settings.index_dir),
            product_ids=catalog.product_ids,
            payload=catalog.payload,
            embeddings=embed_in_chunks(
                encoder,
                catalog.texts,
                max_tokens=settings.max_tokens,
                precision=precision,
                on_progress=bar.advance,
            ),
            dim=encoder.dim,
            fingerprint=str(encoder.fingerprint),
            encoder=encoder_record(
                model=settings.model,
                revision=encoder.revision,
                base_model=settings.base_model,
                precision=precision,
                overrides=overrides,
            ),
            text_template=settings.text_template if settings.catalog else None,
            M=settings.M,
            ef_construction=settings.ef_construction,
            ef_search=settings.ef_search,
            store_dtype=settings.store_dtype,
            overwrite=settings.overwrite_index_dir,
            threads=settings.threads,
        )
    output.say(
        f"index: {manifest.count:,} products in {settings.index_dir}, "
        f"ann_recall@10 {manifest.ann_recall_at_10:.4f} at ef_search {manifest.ef_search}"
    )
    output.document(
        {
            "index_dir": settings.index_dir,
            "products": manifest.count,
            "dim": manifest.dim,
            "fingerprint": manifest.fingerprint,
            "ann_recall@10": manifest.ann_recall_at_10,
            "bad_rows": read.bad_rows.total,
        }
    )
    return manifest


def embed_in_chunks(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    max_tokens: int | None,
    precision: str,
    on_progress: Callable[[int], None] | None,
) -> Iterator[np.ndarray]:
    """Yield the embeddings of products, a chunk at a time, in order: (n, dim) float32, unit L2 norm."""
    for start in range(0, len(texts), CHUNK):
        yield encoder.encode_products(
            texts[start : start + CHUNK], max_tokens=max_tokens, precision=precision, on_progress=on_progress
        )


def _read(settings: BuildSettings) -> CatalogRead:
    if bool(settings.catalog) == bool(settings.pairs):
        raise ConfigError("give the products with one of --catalog or --pairs")
    if settings.catalog:
        return read_catalog(
            iter_rows(expand_files(settings.catalog)),
            id_column=settings.id_column,
            text_template=settings.text_template,
            on_bad_row=settings.on_bad_row,
        )
    columns = PairColumns(
        query=None,
        product=settings.product_column,
        label=None,
        query_id=None,
        product_id=settings.product_id_column,
    )
    names = settings.pairs or ()
    if len(names) > 1:
        rows = iter_rows(expand_files(names))
    else:
        rows = iter_split(resolve_dataset(names[0]), settings.split)
    return distinct_products(rows, columns=columns, on_bad_row=settings.on_bad_row)
