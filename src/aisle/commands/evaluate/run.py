"""An index and its encoder, measured against judgements and against what there was before."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.commands.evaluate.compare_pairs import (
    evaluate_joint_pool,
    evaluate_pairs,
    pair_caveats,
    positive_pairs,
    read_judged_pairs,
)
from aisle.commands.evaluate.compare_retrieval import Ranked, evaluate_retrieval
from aisle.commands.evaluate.compared_models import Models, help_embedding, load_models
from aisle.commands.evaluate.details import shown_products
from aisle.commands.evaluate.engine_run import read_engine_run
from aisle.commands.evaluate.make_document import Inputs, make_document, with_details
from aisle.commands.evaluate.printed_tables import show_evaluation
from aisle.commands.evaluate.publish import check_trackers, run_of_card, track, write_card
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.evaluate.to_judge import Unjudged, unjudged_products, write_to_judge
from aisle.commands.evaluate.trec_files import write_runs
from aisle.commands.indexing.text_notes import query_notes, text_notes
from aisle.commands.output import Output, quieten_libraries
from aisle.data.judged_queries import check_judged_products, read_judged_queries
from aisle.data.text_files import TextFormat
from aisle.errors import ConfigError
from aisle.evaluation.document import Evaluation, SystemKind
from aisle.evaluation.headline import advice, headline
from aisle.evaluation.number_format import counted
from aisle.extras import require_extra
from aisle.index import open_index
from aisle.training.process_group import launched_processes
from aisle.types.columns import ID_COLUMN


def evaluate(settings: EvaluateSettings) -> Evaluation | None:
    """Measure, report and return what was found; None in processes that only embed.

    Raises:
        AisleError: the index, a model, the queries, the judgements or the pairs cannot be used; or, after all
            else is written, the model card cannot be, or a tracker failed.
    """
    check_trackers(settings)
    _check_report(settings)
    processes = launched_processes()
    output = Output(json_only=settings.json, silent=not processes.is_main)
    quieten_libraries()
    if not processes.is_main:
        help_embedding(settings, processes)
        return None
    inputs = _read(settings)
    manifest = None if inputs.index is None else inputs.index.manifest
    card_run = run_of_card(settings, manifest)
    models = load_models(settings, manifest, device=processes.device)
    ranked = None
    if inputs.index is not None and inputs.judged is not None:
        ranked = evaluate_retrieval(
            settings, inputs.index, inputs.judged, models, processes, output, engine=inputs.engine
        )
        if settings.run_file is not None:
            own = {name: run for name, run in ranked.runs.items() if name not in ranked.given}
            write_runs(Path(settings.run_file), own, main=ranked.main, output=output)
    evaluation = make_document(settings, inputs, models, ranked)
    evaluation = replace(
        evaluation, notes=(*evaluation.notes, *inputs.pair_notes, *_text_notes(inputs, models))
    )
    evaluation = replace(evaluation, **_of_pairs(settings, inputs, models, output))
    if settings.report is not None or settings.json:
        evaluation = with_details(settings, evaluation, inputs, ranked)
    sentence, tries = _sentence(evaluation)
    listed = _to_judge(settings, inputs, ranked)
    evaluation = replace(evaluation, to_judge=len(listed))
    show_evaluation(evaluation, sentence, tries, output)
    output.document(
        {**evaluation.to_dict(), "headline": sentence, "what_to_try": list(tries), **_flat(ranked)}
    )
    if settings.report is not None:
        _write_report(Path(settings.report), evaluation, inputs, listed, output)
    if card_run is not None and evaluation.retrieval is not None:
        output.say(f"model card: {write_card(card_run, evaluation, evaluation.retrieval)}")
    if settings.with_tracking:
        track(settings, evaluation, output)
    return evaluation


def _check_report(settings: EvaluateSettings) -> None:
    """Refuse a report that could not be written, before anything is computed.

    Raises:
        ConfigError: the path is not a folder, or cannot be made or written to.
        OptionalDependencyError: a library that draws the charts is not installed.
    """
    if settings.report is not None or settings.model_card:
        require_extra("report")
    if settings.report is None:
        return
    folder = Path(settings.report)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"--report {folder}: {there} is not a folder; name one, or a place for one")
    if not os.access(there, os.W_OK):
        raise ConfigError(f"--report {folder}: {there} cannot be written to; name a folder that can be")


def _read(settings: EvaluateSettings) -> Inputs:
    """Return all that is read from files: a mistake in them shows before anything is embedded."""
    judged = None
    if settings.queries is not None and settings.qrels is not None:
        judged = read_judged_queries(
            settings.queries,
            settings.qrels,
            settings.label_map,
            id_column=settings.id_column,
            query_id_column=settings.query_id_column,
            text_format=TextFormat.of(settings.delimiter, settings.encoding),
        )
    notes: list[str] = []
    pairs = read_judged_pairs(settings, say=notes.append) if settings.pairs else None
    if pairs is not None and settings.protocol == "joint_pool":
        pairs = positive_pairs(pairs, settings, say=notes.append)
    notes += [] if pairs is None else pair_caveats(pairs, settings)
    if settings.index_dir is None:
        return Inputs(judged, pairs, None, None, pair_notes=tuple(notes))
    index = open_index(Path(settings.index_dir))
    engine = None
    if judged is not None:
        ids = index.products.column(ID_COLUMN)
        check_judged_products(judged, ids, catalogue="the index")
        if settings.run is not None:
            engine = read_engine_run(Path(settings.run), judged, ids, cutoffs=settings.cutoffs)
    shown = shown_products(index, title_column=settings.title_column, slice_columns=settings.slice_column)
    return Inputs(judged, pairs, index, shown, engine, tuple(notes))


def _to_judge(settings: EvaluateSettings, inputs: Inputs, ranked: Ranked | None) -> list[Unjudged]:
    """Return the products to judge next, where there is a report to write them beside."""
    if settings.report is None or ranked is None or inputs.judged is None:
        return []
    return unjudged_products(ranked.runs, inputs.judged)


def _write_report(
    folder: Path, evaluation: Evaluation, inputs: Inputs, listed: list[Unjudged], output: Output
) -> None:
    from aisle.reporting.html import write_report

    output.say(f"report: {write_report(folder, evaluation)}")
    if inputs.judged is not None and inputs.shown is not None:
        written = write_to_judge(folder, listed, inputs.judged, inputs.shown)
        output.say(f"{counted(len(listed), 'product')} to judge next: {written}")


def _text_notes(inputs: Inputs, models: Models) -> list[str]:
    """Return what to say of catalogue and queries that the measured encoder does not read whole."""
    if models.measured is None or inputs.index is None or inputs.judged is None:
        return []
    queries = list(inputs.judged.queries.values())
    return [*text_notes(inputs.index.manifest), *query_notes(queries, models.measured)]


def _of_pairs(settings: EvaluateSettings, inputs: Inputs, models: Models, output: Output) -> dict[str, Any]:
    """Return the part of the document that --pairs gives."""
    if inputs.pairs is None:
        return {}
    kinds: dict[str, SystemKind] = {"base": "base", "tuned": "tuned"}
    measure = evaluate_joint_pool if settings.protocol == "joint_pool" else evaluate_pairs
    part = "joint_pool" if settings.protocol == "joint_pool" else "pairs"
    found = measure(models.by_row(), inputs.pairs, kinds=kinds, settings=settings, output=output)
    return {part: found}


def _sentence(evaluation: Evaluation) -> tuple[str | None, tuple[str, ...]]:
    """Return what the table means, where there is something to compare, and what to try."""
    if evaluation.retrieval is None or evaluation.base is None or evaluation.tuned is None:
        return None, ()
    about: dict[str, str] = {
        "base": evaluation.base,
        "tuned": evaluation.tuned,
        "metric": evaluation.headline_metric,
    }
    return headline(evaluation.retrieval, **about), advice(evaluation.retrieval, **about)


def _flat(ranked: Ranked | None) -> dict[str, Any]:
    """Return the figures of the row of --mode by their names, as programs have read them from the start."""
    if ranked is None:
        return {}
    figures = ranked.metrics[ranked.main].to_dict()
    recall = ranked.graph[0].recall_at_10 if ranked.graph else None
    return {**figures, "ann_recall@10": recall, "products": ranked.retrieval.products}
