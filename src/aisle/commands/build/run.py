"""Build an index from a catalogue: embed the texts, build the graph, measure recall, commit the version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from aisle.commands.build.settings import BuildSettings, backend_parameters, overrides_of
from aisle.commands.indexing.analysers import choose_analyser
from aisle.commands.indexing.catalog import columns_before, log_columns, read_products_of
from aisle.commands.indexing.embedding import (
    EmbeddingPlan,
    VersionBefore,
    embed_shards,
    embeddings_in_order,
    plan_embeddings,
    precision_for,
    version_before,
)
from aisle.commands.indexing.hybrid_weight import choose_weight
from aisle.commands.indexing.kept_adapter import keep_adapter
from aisle.commands.indexing.kept_calibration import keep_calibration
from aisle.commands.indexing.marks import stage_marks
from aisle.commands.indexing.report_change import log_pruned, more_links, recall_text
from aisle.commands.indexing.stand_in_queries import stand_in_queries
from aisle.commands.indexing.text_notes import log_texts
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.speed_notes import speed_notes
from aisle.data.catalog_file import CatalogFile
from aisle.errors import ModelError
from aisle.index import (
    GraphSettings,
    IndexIdentity,
    Manifest,
    Writer,
    finish_version,
    index_writer,
    refuse_foreign,
)
from aisle.index.array_files import write_embeddings
from aisle.index.manifest import EMBEDDINGS_FILE, PRODUCTS_FILE
from aisle.index.products import read_products
from aisle.search.encoders import encoder_record, source_in_fp32
from aisle.search.load_encoder import LoadedEncoder, extra_for, load_encoder
from aisle.training.process_group import Processes, launched_processes
from aisle.types.encoder_protocol import Precision

PLAN_FILE = "plan.npz"


def build(settings: BuildSettings) -> Manifest | None:
    """Embed the catalogue and write the index; return its manifest, or None in a process that only embeds.

    Raises:
        AisleError: The catalogue, the model or the folder cannot be used.
    """
    refuse_foreign(Path(settings.index_dir).resolve())
    processes = launched_processes()
    output = Output(json_only=settings.json, silent=not processes.is_main)
    if extra_for(settings.model) == "encode":
        quieten_libraries()
    index_dir = Path(settings.index_dir).resolve()
    if not processes.is_main:
        _help(settings, index_dir, processes)
        return None
    with index_writer(index_dir, command="build", keep_versions=settings.keep_versions) as writer:
        catalog = read_products_of(settings, writer.staging, columns_before(index_dir), output.log)
        output.log(f"catalogue: {len(catalog):,} products")
        if catalog.bad_rows.total:
            output.log(str(catalog.bad_rows))
        log_columns(catalog, output)
        if catalog.conflicting_texts:
            output.log(
                f"{catalog.conflicting_texts:,} product ids have more than one text; the first text is used"
            )
        encoder = _load(settings, processes)
        for note in (encoder.note, _note_on_dimensions(settings)):
            if note is not None:
                output.log(note)
        products = read_products(catalog.path)
        manifest, figures = _embed_and_finish(settings, writer, products, encoder, processes, output)
        manifest = writer.commit(manifest)
    _report(settings, manifest, catalog, output, figures)
    return manifest


def _embed_and_finish(
    settings: BuildSettings,
    writer: Writer,
    products: pa.Table,
    encoder: LoadedEncoder,
    processes: Processes,
    output: Output,
) -> tuple[Manifest, dict[str, Any]]:
    """Stage embeddings, graph, BM25 and measurements; return the manifest to commit and figures to report."""
    before = VersionBefore(None, "--embed_all is set")
    if not settings.embed_all:
        before = version_before(
            writer.index_dir, encoder, precision=settings.precision, store_dtype=settings.store_dtype
        )
    known = before.known
    precision = settings.precision or precision_for(encoder, products, known)
    output.log(f"encoder: {encoder.name}, {encoder.dim} dim, computing in {precision} on {encoder.device}")
    plan = plan_embeddings(
        products, known, made_by=repr((encoder.fingerprint, precision, settings.max_tokens, encoder.dim))
    )
    if before.refused is not None:
        output.log(f"all products are embedded again: {before.refused}")
    if plan.texts_reused:
        output.log(f"{plan.texts_reused:,} products are as in version {known and known.manifest.version}")
    _share(plan, precision, writer, processes)
    _embed(settings, plan, products, encoder, writer.shards, precision, processes, output)
    processes.wait()
    write_embeddings(
        writer.staging / EMBEDDINGS_FILE,
        embeddings_in_order(plan, known, writer.shards, dim=encoder.dim),
        products=products,
        dim=encoder.dim,
        store_dtype=settings.store_dtype,
    )
    analyser = choose_analyser(settings, writer.index_dir, products, log=output.log)
    stage_marks(writer, plan, known, products, encoder)
    with output.progress("graph", products.num_rows) as bar:
        manifest = finish_version(
            writer,
            identity=IndexIdentity(
                dim=encoder.dim,
                fingerprint=str(encoder.fingerprint),
                query_fingerprint=_separate_query_tower(encoder),
                encoder=encoder_record(
                    model=settings.model,
                    revision=encoder.revision,
                    base_model=settings.base_model,
                    precision=precision,
                    dimensions=settings.dimensions,
                    overrides=overrides_of(settings),
                    source=source_in_fp32(encoder),
                ),
                text_template=settings.text_template if settings.catalog else None,
                id_column=settings.id_column if settings.catalog else None,
                store_dtype=settings.store_dtype,
            ),
            settings=GraphSettings(
                settings.backend,
                backend_parameters(settings),
                settings.ef_search,
                settings.target_recall,
                1 if settings.deterministic else settings.threads,
            ),
            analyser=analyser,
            command="build",
            queries=encoder.encode_queries(stand_in_queries(products)),
            on_progress=bar.advance,
        )
    figures = {
        "texts_embedded": len(plan.rows),
        "products_reused": plan.texts_reused,
        "embedded_anew_because": before.refused,
    }
    kept = keep_adapter(
        writer.index_dir,
        writer.staging,
        manifest,
        query_fingerprint=encoder.query_fingerprint,
        log=output.log,
    )
    figures["query_adapter_not_kept_because"] = kept.lost
    manifest = kept.applied_to(manifest)
    weight = choose_weight(
        settings,
        index_dir=writer.index_dir,
        folder=writer.staging,
        manifest=manifest,
        encoder=kept.encoder(encoder, writer.staging, trust_remote_code=settings.trust_remote_code),
        adapter=kept.adapter,
        analyser=analyser,
        log=output.log,
    )
    figures["hybrid_weight_not_kept_because"] = weight.lost
    figures["calibration_not_kept_because"] = keep_calibration(
        writer.index_dir,
        writer.staging,
        manifest,
        analyser=analyser,
        hybrid_weight=weight.value,
        log=output.log,
    )
    return replace(manifest, hybrid_weight=weight.value), figures


def _embed(
    settings: BuildSettings,
    plan: EmbeddingPlan,
    products: pa.Table,
    encoder: LoadedEncoder,
    folder: Path,
    precision: Precision,
    processes: Processes,
    output: Output,
) -> None:
    """Embed this process's shards; the progress bar shows the main process's share."""
    for note in speed_notes(encoder, precision, texts=len(plan.rows), remedy="give --precision bf16"):
        output.log(note)
    shares = -(-len(plan.rows) // processes.count)
    with output.progress("embedding", shares) as bar:
        embed_shards(
            plan,
            products,
            encoder,
            folder,
            precision=precision,
            max_tokens=settings.max_tokens,
            process_index=processes.index,
            num_processes=processes.count,
            on_progress=bar.advance,
        )


def _share(plan: EmbeddingPlan, precision: Precision, writer: Writer, processes: Processes) -> None:
    """Write the plan to a file for the other processes, which wait for it."""
    if processes.count == 1:
        return
    np.savez(
        writer.staging.parent / PLAN_FILE,
        rows=plan.rows,
        keys=np.array(plan.keys, dtype="U32"),
        precision=np.array(precision),
    )
    processes.wait()


def _help(settings: BuildSettings, index_dir: Path, processes: Processes) -> None:
    """Embed this process's share of the main process's plan; the processes share a file system."""
    encoder = _load(settings, processes)
    processes.wait()
    writer = Writer(index_dir, number=0, keep_versions=0)
    with np.load(writer.staging.parent / PLAN_FILE, allow_pickle=False) as shared:
        plan = EmbeddingPlan(shared["rows"], tuple(shared["keys"].tolist()), np.empty(0, np.int64))
        precision: Precision = shared["precision"].item()
    silent = Output(silent=True)
    products = read_products(writer.staging / PRODUCTS_FILE)
    _embed(settings, plan, products, encoder, writer.shards, precision, processes, silent)
    processes.wait()


def _separate_query_tower(encoder: LoadedEncoder) -> str | None:
    """Return the fingerprint of the query tower; None if one tower reads both sides."""
    return None if encoder.query_fingerprint == encoder.fingerprint else encoder.query_fingerprint


def _load(settings: BuildSettings, processes: Processes) -> LoadedEncoder:
    if extra_for(settings.model) == "encode":
        from aisle.training.cpu_threads import use_cpu_threads  # imports torch

        use_cpu_threads(processes=processes.count)
    encoder = load_encoder(
        settings.model,
        base_model=settings.base_model,
        overrides=overrides_of(settings),
        revision=settings.model_revision,
        device=processes.device,
        trust_remote_code=settings.trust_remote_code,
    )
    if not encoder.settings.normalize:
        raise ModelError(
            f"--model {settings.model}: was trained with --similarity dot, and an index compares cosines, so "
            "its order would differ from the model's; train with --similarity cosine"
        )
    return encoder.truncated(settings.dimensions)


def _note_on_dimensions(settings: BuildSettings) -> str | None:
    """Return a note if the model was trained for other values of --dimensions, else None."""
    if settings.dimensions is None or extra_for(settings.model) != "encode":
        return None
    from aisle.models.matryoshka import dimensions_note
    from aisle.models.model_source import find_model

    source = find_model(settings.model, revision=settings.model_revision)
    return dimensions_note(source.path, settings.dimensions)


def _report(
    settings: BuildSettings,
    manifest: Manifest,
    catalog: CatalogFile,
    output: Output,
    figures: Mapping[str, Any],
) -> None:
    target = manifest.target_recall
    if target is not None and manifest.ann_recall_at_10 < target:
        output.log(
            f"recall@10 of {target} is not reached: {manifest.ann_recall_at_10:.4f} at ef_search "
            f"{manifest.ef_search}; build with {more_links(manifest)}"
        )
    output.log(
        f"index: {manifest.count:,} products in {settings.index_dir}, version {manifest.version}, "
        f"{recall_text(manifest)}"
    )
    log_texts(output, manifest)
    log_pruned(output, manifest.pruned, kept=manifest.keep_versions)
    output.document(
        {
            "index_dir": settings.index_dir,
            "version": manifest.version,
            "products": manifest.count,
            "dim": manifest.dim,
            "fingerprint": manifest.fingerprint,
            "backend": asdict(manifest.backend),
            "ef_search": manifest.ef_search,
            "ann_recall@10": manifest.ann_recall_at_10,
            "recall_curve": [asdict(point) for point in manifest.recall_curve],
            "hybrid_weight": manifest.hybrid_weight,
            "bad_rows": catalog.bad_rows.total,
            "type_changes": [change.document() for change in catalog.type_changes],
            "column_notes": list(catalog.notes),
            "truncated_texts": manifest.truncated_texts,
            "unknown_texts": manifest.unknown_texts,
            "keep_versions": manifest.keep_versions,
            "pruned": list(manifest.pruned),
            **figures,
        }
    )
