"""Evaluate an index and its encoder: read, rank, score, analyse, print, report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.commands.evaluate.assemble import add_query_analysis, assemble_evaluation
from aisle.commands.evaluate.caveats import text_caveats
from aisle.commands.evaluate.compare_pairs import evaluate_joint_pool, evaluate_pairs
from aisle.commands.evaluate.compare_retrieval import Ranked, evaluate_retrieval
from aisle.commands.evaluate.compared_models import Models, help_embedding, load_models
from aisle.commands.evaluate.destinations import (
    check_report,
    check_trackers,
    run_of_card,
    write_destinations,
)
from aisle.commands.evaluate.printed_tables import show_evaluation
from aisle.commands.evaluate.read_inputs import Inputs, read_inputs
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.evaluate.trec_files import write_runs
from aisle.commands.output import Output, quieten_libraries
from aisle.evaluation.document import Evaluation, SystemKind
from aisle.evaluation.headline import advice, headline
from aisle.reporting.unjudged_products import Unjudged, unjudged_products
from aisle.training.process_group import Processes, launched_processes


def evaluate(settings: EvaluateSettings) -> Evaluation | None:
    """Evaluate, print and report; return the evaluation, or None on processes that only embed.

    Raises:
        AisleError: The index, a model, the queries, the judgements or the pairs cannot be used; or, after
            everything else is written, the model card cannot be written or a tracker failed.
    """
    check_trackers(settings)
    check_report(settings)
    processes = launched_processes()
    output = Output(json_only=settings.json, silent=not processes.is_main)
    quieten_libraries()
    if not processes.is_main:
        help_embedding(settings, processes)
        return None
    inputs = read_inputs(settings)
    card_run = run_of_card(settings, inputs.manifest)
    models = load_models(settings, inputs.manifest, device=processes.device)
    ranked = _rank(settings, inputs, models, processes, output)
    evaluation = assemble_evaluation(settings, inputs, models, ranked)
    notes = (
        *evaluation.notes,
        *inputs.pair_notes,
        *text_caveats(inputs.index, inputs.judged, models.measured),
    )
    evaluation = replace(evaluation, notes=notes, **_score_pairs(settings, inputs, models, output))
    if settings.report is not None or settings.json:
        evaluation = add_query_analysis(settings, evaluation, inputs, ranked)
    unjudged = _unjudged(settings, inputs, ranked)
    evaluation = replace(evaluation, to_judge=len(unjudged))
    sentence, tries = _headline(evaluation)
    show_evaluation(evaluation, sentence, tries, output)
    output.document(
        {**evaluation.to_dict(), "headline": sentence, "what_to_try": list(tries), **_main_figures(ranked)}
    )
    write_destinations(settings, evaluation, inputs, unjudged=unjudged, card_run=card_run, output=output)
    return evaluation


def _rank(
    settings: EvaluateSettings, inputs: Inputs, models: Models, processes: Processes, output: Output
) -> Ranked | None:
    """Rank the judged queries with each system, and write the rankings of --run_file."""
    if inputs.index is None or inputs.judged is None:
        return None
    ranked = evaluate_retrieval(
        settings, inputs.index, inputs.judged, models, processes, output, engine=inputs.engine
    )
    if settings.run_file is not None:
        own = {name: run for name, run in ranked.runs.items() if name not in ranked.given}
        write_runs(Path(settings.run_file), own, main=ranked.main, output=output)
    return ranked


def _score_pairs(
    settings: EvaluateSettings, inputs: Inputs, models: Models, output: Output
) -> dict[str, Any]:
    """Return the part of the evaluation that --pairs gives."""
    if inputs.pairs is None:
        return {}
    kinds: dict[str, SystemKind] = {"base": "base", "tuned": "tuned"}
    options: dict[str, Any] = {"kinds": kinds, "settings": settings, "output": output}
    if settings.protocol == "joint_pool":
        return {"joint_pool": evaluate_joint_pool(models.by_row(), inputs.pairs, **options)}
    return {"pairs": evaluate_pairs(models.by_row(), inputs.pairs, **options)}


def _unjudged(settings: EvaluateSettings, inputs: Inputs, ranked: Ranked | None) -> list[Unjudged]:
    """Return the products to judge next, if there is a report to write them to."""
    if settings.report is None or ranked is None or inputs.judged is None:
        return []
    return unjudged_products(ranked.runs, query_ids=inputs.judged.queries, qrels=inputs.judged.qrels)


def _headline(evaluation: Evaluation) -> tuple[str | None, tuple[str, ...]]:
    """Return the sentence that sums up the comparison, if there is a baseline, and what to try next."""
    if evaluation.retrieval is None or evaluation.base is None or evaluation.tuned is None:
        return None, ()
    about: dict[str, str] = {
        "base": evaluation.base,
        "tuned": evaluation.tuned,
        "metric": evaluation.headline_metric,
    }
    return headline(evaluation.retrieval, **about), advice(evaluation.retrieval, **about)


def _main_figures(ranked: Ranked | None) -> dict[str, Any]:
    """Return the figures of the row of --mode by name, where programs expect them in the JSON document."""
    if ranked is None:
        return {}
    figures = ranked.metrics[ranked.main].to_dict()
    recall = ranked.graph[0].recall_at_10 if ranked.graph else None
    return {**figures, "ann_recall@10": recall, "products": ranked.retrieval.products}
