"""Train a query adapter for an index, measure it on held-out queries, and publish it if it gains."""

from __future__ import annotations

import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aisle.commands.adapt.index_pairs import SplitPairs, read_split_pairs
from aisle.commands.adapt.settings import AdaptSettings
from aisle.commands.adapt.write_run import check_output_dir, write_adapted_run
from aisle.commands.indexing.report_change import report_change
from aisle.commands.output import Output, quieten_libraries
from aisle.errors import DataError
from aisle.index import Manifest, SearchIndex, read_manifest
from aisle.index.adapt_index import adapt_index
from aisle.index.manifest import CALIBRATION_FILE, AdapterRecord
from aisle.index.query_adapter import QueryAdapter
from aisle.search.encoders import encoder_of_index
from aisle.search.load_encoder import LoadedEncoder
from aisle.training.adapter_measure import AdapterGain, Gain, measure_adapter
from aisle.training.adapter_queries import AdapterQueries, match_queries
from aisle.training.adapter_training import train_adapter
from aisle.training.query_vectors import cached_queries

FEWEST_HELD_OUT = 20
"""Fewest held-out queries: the interval of a mean of fewer is too narrow."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Judged queries of an index, and their embeddings by the encoder."""

    queries: AdapterQueries
    pairs: int
    embeddings: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Trained:
    """What training gave: the adapter, if any, and its figures."""

    adapter: QueryAdapter | None
    gain: AdapterGain | None
    figures: dict[str, Any]

    @property
    def kept(self) -> bool:
        """Whether the adapter is published."""
        return self.gain is not None and self.gain.all_products.proven


def adapt(settings: AdaptSettings) -> Manifest:
    """Train an adapter, publish it as a new version if it gains, and return the current manifest.

    Raises:
        AisleError: The index, its encoder or the pairs cannot be used.
    """
    output = Output(json_only=settings.json)
    quieten_libraries()
    pairs = read_split_pairs(settings, log=output.log)
    before = read_manifest(settings.index_dir)
    check_output_dir(settings, before)
    trained: list[_Trained] = []

    def train(index: SearchIndex) -> tuple[QueryAdapter, AdapterRecord] | None:
        encoder = encoder_of_index(
            index.manifest,
            Path(settings.index_dir),
            model=settings.model,
            base_model=settings.base_model,
            trust_remote_code=settings.trust_remote_code,
            log=output.log,
        )
        parts = _parts(settings, index, encoder, pairs, output)
        trained.append(_train(settings, index, parts, output))
        return _published(trained[0], index, encoder, parts)

    manifest = adapt_index(settings.index_dir, train, keep_versions=settings.keep_versions)
    _explain(trained[0], before, output)
    figures = trained[0].figures
    adapter, record = trained[0].adapter, manifest.query_adapter
    if settings.output_dir is not None and trained[0].kept and adapter is not None and record is not None:
        write_adapted_run(settings, manifest, adapter, record)
        figures["run_dir"] = settings.output_dir
        output.log(f"run with two towers: {settings.output_dir}")
    report_change(
        output,
        settings.index_dir,
        manifest,
        before=before,
        published=trained[0].kept,
        query_adapter=manifest.query_adapter and asdict(manifest.query_adapter),
        **figures,
    )
    return manifest


def _parts(
    settings: AdaptSettings,
    index: SearchIndex,
    encoder: LoadedEncoder,
    pairs: SplitPairs,
    output: Output,
) -> dict[str, _Part]:
    """Return the queries for training, validation and measurement, each text embedded once."""
    matched = {
        "training": match_queries(pairs.train.pairs, index, by_id=pairs.train.by_id),
        "validation": match_queries(pairs.validation.pairs, index, by_id=pairs.validation.by_id),
        "held-out": match_queries(pairs.held_out.pairs, index, by_id=pairs.held_out.by_id),
    }
    unknown = sum(found.unknown for found in matched.values())
    if unknown:
        example = next(found.example for found in matched.values() if found.example is not None)
        output.log(f"{unknown:,} pairs are left out: the index has no product such as {example[:80]!r}")
    irrelevant = sum(found.without_relevant for found in matched.values())
    if irrelevant:
        output.log(f"{irrelevant:,} queries are left out: the index has no product that is relevant to them")
    for name, found in matched.items():
        fewest = FEWEST_HELD_OUT if name == "held-out" else 1
        if len(found.queries) < fewest:
            raise DataError(
                f"{settings.index_dir}: {len(found.queries)} {name} queries have a relevant product in the "
                f"index, and at least {fewest} must; pairs name products by the ids of the index, or by the "
                "texts that were embedded. Give more judged pairs"
            )
    texts = [text for found in matched.values() for text in found.queries.texts]
    embeddings = _embedded(settings, encoder, texts, output)
    ends = np.cumsum([len(found.queries) for found in matched.values()])
    return {
        name: _Part(found.queries, found.pairs, part)
        for (name, found), part in zip(matched.items(), np.split(embeddings, ends[:-1]), strict=True)
    }


def _embedded(
    settings: AdaptSettings, encoder: LoadedEncoder, texts: list[str], output: Output
) -> npt.NDArray[np.float32]:
    given = settings.embedding_cache
    kept = tempfile.TemporaryDirectory() if given is None else nullcontext(given)
    bundle = getattr(encoder, "bundle", None)
    with kept as folder, output.progress("embedding queries", len(set(texts))) as bar:
        return cached_queries(
            Path(folder),
            encoder,
            texts,
            precision="fp32" if bundle is None else f"onnx-{bundle.precision}",
            log=output.log,
            on_progress=bar.advance,
        )


def _train(settings: AdaptSettings, index: SearchIndex, parts: dict[str, _Part], output: Output) -> _Trained:
    started = time.perf_counter()
    train, validation, held_out = parts["training"], parts["validation"], parts["held-out"]
    output.log(
        f"training on {train.pairs:,} pairs of {len(train.queries):,} queries; {len(validation.queries):,} "
        f"queries choose the epoch, and {len(held_out.queries):,} are held out"
    )
    adapter = train_adapter(
        index,
        train.queries,
        train.embeddings,
        validation=validation.queries,
        validation_embeddings=validation.embeddings,
        options=settings.options(),
        log=output.log,
    )
    figures: dict[str, Any] = {"train_seconds": round(time.perf_counter() - started, 1)}
    if adapter is None:
        return _Trained(None, None, figures)
    seen = np.union1d(train.queries.relevant_rows, validation.queries.relevant_rows)
    gain = measure_adapter(index, adapter, held_out.queries, held_out.embeddings, seen=seen)
    figures["ndcg@10"] = asdict(gain.all_products)
    figures["ndcg@10_unseen"] = gain.unseen_products and asdict(gain.unseen_products)
    return _Trained(adapter, gain, figures)


def _published(
    trained: _Trained, index: SearchIndex, encoder: LoadedEncoder, parts: dict[str, _Part]
) -> tuple[QueryAdapter, AdapterRecord] | None:
    """Return the adapter and its record if it is published."""
    adapter, gain = trained.adapter, trained.gain
    if adapter is None or gain is None or not gain.all_products.proven:
        return None
    measured, base = gain.all_products, str(encoder.query_fingerprint)
    return adapter, AdapterRecord(
        kind=adapter.kind,
        size=adapter.size,
        fingerprint=adapter.fingerprint(base=base, index=index.manifest.fingerprint),
        base_fingerprint=base,
        version=index.manifest.version,
        train_queries=len(parts["training"].queries),
        train_pairs=parts["training"].pairs,
        held_out_queries=measured.queries,
        ndcg_before=measured.before,
        ndcg_after=measured.after,
        gain_low=float(measured.difference.low or 0.0),
        gain_high=float(measured.difference.high or 0.0),
    )


def _explain(trained: _Trained, before: Manifest, output: Output) -> None:
    """Say what the adapter gains, and whether it is published."""
    if trained.gain is None:
        output.log("not published: no epoch is better on the validation queries than the index as it is")
        return
    output.log(_shown("held-out queries", trained.gain.all_products))
    unseen = trained.gain.unseen_products
    if unseen is None:
        output.log(
            "products that no training query judged relevant: fewer than two held-out queries have any"
        )
    else:
        output.log(_shown("products that no training query judged relevant", unseen))
        if (unseen.difference.high or 0.0) < 0:
            output.log("warning: for those products, the adapter makes the search worse")
    if not trained.kept:
        output.log(
            "not published: the interval of the gain must lie above 0; more judged pairs may help, or "
            "training the encoder (aisle train)"
        )
        return
    output.log(f"published; go back to version {before.version} with aisle rollback")
    if CALIBRATION_FILE in before.files:
        output.log("the calibration is not kept, because scores have changed; run aisle calibrate")
    if before.hybrid_weight is not None:
        output.log("the weight of hybrid search was tuned without the adapter")


def _shown(name: str, gain: Gain) -> str:
    difference = gain.difference
    return (
        f"{name}: nDCG@10 {gain.before:.4f} before, {gain.after:.4f} after: {difference.value:+.4f} "
        f"[{difference.low:+.4f}, {difference.high:+.4f}] over {gain.queries:,} queries, {gain.better:,} "
        f"better and {gain.worse:,} worse"
    )
