"""`aisle calibrate`: measure how likely products are relevant by their score."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Interval

from aisle.commands.command import Command
from aisle.commands.named_inputs import check_files, check_indexes, check_models
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    Count,
    Delimiter,
    Encoding,
    IndexDir,
    IndexModel,
    Json,
    KeepVersions,
    TrustRemoteCode,
)
from aisle.config.annotations import Required
from aisle.config.label_map import LabelGains

if TYPE_CHECKING:
    from rich.table import Table

    from aisle.data.judged_queries import JudgedQueries
    from aisle.index import Manifest, SearchIndex
    from aisle.types.score_calibration import Calibration, ScoreCalibration

SHOWN = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Probabilities in the tables; the JSON document has more."""
ANSWERED = (0.98, 0.95)
"""Shares of the judged queries that keep a product, to suggest values of p for."""


@dataclass(frozen=True)
class CalibrateSettings:
    """Measure how likely products are relevant by their score, for a threshold on that probability.

    For each search mode it fits the probability of relevance to the scores of judged products, and stores it
    with the index as a new version. A search with --min_score calibrated then shows only products with at
    least the probability --p, so a query that nothing in the catalogue answers gets no products.

    Calibrate on queries that the encoder was not trained on.
    """

    index_dir: IndexDir
    queries: str
    """Queries with ids: a csv, tsv, jsonl, json or parquet file."""
    qrels: Required[tuple[str, ...]] = ()
    """Judgements: TREC or BEIR qrels, or csv, tsv, jsonl, json or parquet files. Give one file or several."""
    id_column: str | None = None
    """Column of --qrels with the product id.
    If not given, it is found by its name (product_id, corpus-id, doc_id)."""
    query_id_column: str | None = None
    """Column of --queries and --qrels with the query id. If not given, it is found by its name (query_id,
    qid)."""
    label_map: LabelGains = None
    relevant_from: Annotated[float, Interval(gt=0)] | None = None
    """Lowest relevance that counts as relevant. If not given: anything above 0."""
    unjudged: Literal["leave_out", "not_relevant"] = "leave_out"
    """What products without a judgement count as. With leave_out, only judged products are measured. With
    not_relevant, the --depth best products of each query are measured, and those without a judgement count as
    not relevant: for judgements that list every relevant product."""
    depth: Count = 10
    """Best products per query that count with --unjudged not_relevant."""
    delimiter: Delimiter = None
    encoding: Encoding = "utf-8"
    keep_versions: KeepVersions = None
    model: IndexModel = None
    base_model: AdapterBase = None
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def calibrate_problems(settings: CalibrateSettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    return [] if settings.qrels else ["--qrels: give the judgements of --queries"]


def calibrate_inputs(settings: CalibrateSettings) -> None:
    """Check that the index, the encoder, the queries and the judgements exist."""
    check_files(settings.queries, *settings.qrels)
    check_indexes(settings.index_dir)
    check_models(settings.model, settings.base_model)


def calibrate(settings: CalibrateSettings) -> Manifest:
    """Calibrate every search mode, show the effects of some thresholds, and return the new manifest.

    Raises:
        AisleError: The index, its encoder, the queries or the judgements cannot be used.
    """
    from aisle.commands.indexing.report_change import report_change
    from aisle.index import read_manifest
    from aisle.index.calibrate_index import calibrate_index

    output = Output(json_only=settings.json)
    quieten_libraries()
    judged = _judged_queries(settings)
    for note in judged.notes:
        output.log(note)
    before = read_manifest(settings.index_dir)
    manifest, calibration = calibrate_index(
        settings.index_dir,
        lambda index: _measure(settings, index, judged, output),
        keep_versions=settings.keep_versions,
    )
    _show(calibration, output)
    report_change(output, settings.index_dir, manifest, before=before, calibration=asdict(calibration))
    return manifest


def _judged_queries(settings: CalibrateSettings) -> JudgedQueries:
    from aisle.data.judged_queries import read_judged_queries
    from aisle.data.text_files import TextFormat

    return read_judged_queries(
        settings.queries,
        settings.qrels,
        settings.label_map,
        id_column=settings.id_column,
        query_id_column=settings.query_id_column,
        text_format=TextFormat.of(settings.delimiter, settings.encoding),
    )


def _measure(
    settings: CalibrateSettings, index: SearchIndex, judged: JudgedQueries, output: Output
) -> Calibration:
    from aisle.data.judged_queries import check_judged_products
    from aisle.search.calibration import measure_calibration
    from aisle.search.encoders import encoder_of_index
    from aisle.types.columns import ID_COLUMN

    check_judged_products(judged, index.products.column(ID_COLUMN), catalogue="the index")
    encoder = encoder_of_index(
        index.manifest,
        Path(settings.index_dir),
        model=settings.model,
        base_model=settings.base_model,
        trust_remote_code=settings.trust_remote_code,
        log=output.log,
    )
    with output.progress("scoring queries", len(judged.queries)) as bar:
        return measure_calibration(
            index,
            encoder,
            judged.queries,
            judged.qrels,
            relevant_from=settings.relevant_from,
            unjudged=settings.unjudged,
            depth=settings.depth,
            on_progress=bar.advance,
        )


def _show(calibration: Calibration, output: Output) -> None:
    """Print a table for each search mode, and values of p to start with."""
    for mode, scores in calibration.modes.items():
        output.show(_table(mode, scores))
        highest = {share: scores.highest_p(answered=share) for share in ANSWERED}
        found = [f"{p:g} ({share:.0%})" for share, p in highest.items() if p is not None]
        if found:
            output.log(f"highest p that leaves most queries a product in mode {mode}: {', '.join(found)}\n")
    output.log(
        f"calibrated on {calibration.queries:,} judged queries; search with --min_score calibrated and --p"
    )


def _table(mode: str, calibration: ScoreCalibration) -> Table:
    from rich import box
    from rich.table import Table

    share = calibration.relevant / calibration.pairs
    table = Table(
        title=f"{mode}: {calibration.pairs:,} pairs, {share:.0%} of them relevant; calibration error "
        f"{calibration.calibration_error:.3f}, Brier score {calibration.brier:.3f}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("p", "lowest score", "queries answered", "relevant kept"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in calibration.points:
        if point.p in SHOWN:
            score = "not reached" if point.score is None else f"{point.score:.4f}"
            table.add_row(f"{point.p:g}", score, f"{point.answered:.1%}", f"{point.relevant_kept:.1%}")
    return table


COMMAND = Command(
    "calibrate",
    CalibrateSettings,
    calibrate,
    problems=calibrate_problems,
    inputs=calibrate_inputs,
    extra="eval",
)
