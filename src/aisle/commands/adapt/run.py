"""Train a query adapter for an index, measure it on held-out queries, and publish it if it gains."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aisle.commands.adapt.embedded_parts import Parts, embedded_parts
from aisle.commands.adapt.index_pairs import read_split_pairs
from aisle.commands.adapt.settings import AdaptSettings
from aisle.commands.adapt.towers import check_tower
from aisle.commands.adapt.trained_queries import TrainedQueries, train_kind
from aisle.commands.adapt.write_run import check_output_dir, write_adapted_run
from aisle.commands.indexing.report_change import report_change
from aisle.commands.output import Output, quieten_libraries
from aisle.index import Manifest, SearchIndex, read_manifest
from aisle.index.adapt_index import AdapterToPublish, adapt_index
from aisle.index.manifest import CALIBRATION_FILE, AdapterRecord
from aisle.search.encoders import encoder_of_index
from aisle.search.load_encoder import LoadedEncoder
from aisle.training.adapter_measure import AdapterGain, Gain, measure_adapter

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Measured:
    """What training gave: the adapter, if any, and its figures."""

    trained: TrainedQueries | None
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
    check_tower(settings, before)
    measured: list[_Measured] = []

    def train_for(index: SearchIndex) -> AdapterToPublish | None:
        load = partial(
            encoder_of_index,
            index.manifest,
            Path(settings.index_dir),
            model=settings.model,
            base_model=settings.base_model,
            trust_remote_code=settings.trust_remote_code,
            log=output.log,
        )
        base = load(adapted=False)
        parts = embedded_parts(settings, index, base, pairs, output)
        held_out = parts.held_out
        record = index.manifest.query_adapter
        if record is not None and record.kind == "lora":
            searched = load().encode_queries(held_out.queries.texts)
        else:
            searched = index.adapted(held_out.embeddings)
        measured.append(_train_and_measure(settings, index, base, parts, searched, output))
        return _published(measured[0], index, base, parts)

    manifest = adapt_index(settings.index_dir, train_for, keep_versions=settings.keep_versions)
    _explain(measured[0], before, output)
    figures = measured[0].figures
    trained, record = measured[0].trained, manifest.query_adapter
    if settings.output_dir is not None and measured[0].kept and trained is not None and record is not None:
        write_adapted_run(settings, manifest, trained.model(), record)
        figures["run_dir"] = settings.output_dir
        output.log(f"run with two towers: {settings.output_dir}")
    report_change(
        output,
        settings.index_dir,
        manifest,
        before=before,
        published=measured[0].kept,
        query_adapter=manifest.query_adapter and asdict(manifest.query_adapter),
        **figures,
    )
    return manifest


def _train_and_measure(
    settings: AdaptSettings,
    index: SearchIndex,
    encoder: LoadedEncoder,
    parts: Parts,
    before: Embeddings,
    output: Output,
) -> _Measured:
    """Train, and measure on the held-out queries, given the embeddings they are searched with so far."""
    started = time.perf_counter()
    train, validation, held_out = parts.train, parts.validation, parts.held_out
    output.log(
        f"training on {train.pairs:,} pairs of {len(train.queries):,} queries; {len(validation.queries):,} "
        f"queries choose the epoch, and {len(held_out.queries):,} are held out"
    )
    trained = train_kind(settings, index, encoder, parts, log=output.log)
    figures: dict[str, Any] = {"train_seconds": round(time.perf_counter() - started, 1)}
    if trained is None:
        return _Measured(None, None, figures)
    seen = np.union1d(train.queries.relevant_rows, validation.queries.relevant_rows)
    gain = measure_adapter(index, held_out.queries, before=before, after=trained.held_out, seen=seen)
    figures["ndcg@10"] = asdict(gain.all_products)
    figures["ndcg@10_unseen"] = gain.unseen_products and asdict(gain.unseen_products)
    return _Measured(trained, gain, figures)


def _published(
    measured: _Measured, index: SearchIndex, encoder: LoadedEncoder, parts: Parts
) -> AdapterToPublish | None:
    """Return the adapter with its record if it is published."""
    trained, gain = measured.trained, measured.gain
    if trained is None or gain is None or not gain.all_products.proven:
        return None
    found = gain.all_products
    return trained.to_publish(
        partial(
            AdapterRecord,
            kind=trained.kind,
            size=trained.size,
            base_fingerprint=str(encoder.query_fingerprint),
            version=index.manifest.version,
            train_queries=len(parts.train.queries),
            train_pairs=parts.train.pairs,
            held_out_queries=found.queries,
            ndcg_before=found.before,
            ndcg_after=found.after,
            gain_low=float(found.difference.low or 0.0),
            gain_high=float(found.difference.high or 0.0),
        )
    )


def _explain(measured: _Measured, before: Manifest, output: Output) -> None:
    """Say what the adapter gains, and whether it is published."""
    if measured.gain is None:
        output.log("not published: no epoch is better on the validation queries than the index as it is")
        return
    output.log(_shown("held-out queries", measured.gain.all_products))
    unseen = measured.gain.unseen_products
    if unseen is None:
        output.log(
            "products that no training query judged relevant: fewer than two held-out queries have any"
        )
    else:
        output.log(_shown("products that no training query judged relevant", unseen))
        if (unseen.difference.high or 0.0) < 0:
            output.log("warning: for those products, the adapter makes the search worse")
    if not measured.kept:
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
