"""Assemble an evaluation from its parts: figures, analysis of the queries, provenance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from aisle.commands.evaluate.compare_retrieval import Ranked
from aisle.commands.evaluate.compared_models import Models, model_name
from aisle.commands.evaluate.read_inputs import Inputs
from aisle.commands.evaluate.reproducibility import provenance_of
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.evaluate.training_curves import training_curves
from aisle.evaluation.document import AnnPoint, Evaluation
from aisle.index import SearchIndex
from aisle.index.hybrid_search import weight_of
from aisle.index.reader import query_tower_note
from aisle.reporting.query_analysis import changes_of, heatmaps_of, slices_of


def assemble_evaluation(
    settings: EvaluateSettings, inputs: Inputs, models: Models, ranked: Ranked | None
) -> Evaluation:
    """Return the evaluation of the rankings and the index; the figures of pairs are added later.

    Raises:
        OSError: An input cannot be read any more.
    """
    index = inputs.index
    model = model_name(settings, None if index is None else index.manifest)
    evaluation = Evaluation(
        title=f"Evaluation of {Path(settings.index_dir or model).name}",
        provenance=provenance_of(settings, resolved=_resolved(settings, index, models, ranked), model=model),
        base="base" if "base" in models.by_row() else None,
        tuned="tuned" if "tuned" in models.by_row() else None,
        training=training_curves(model),
        notes=() if models.note is None else (models.note,),
    )
    if index is None:
        return evaluation
    evaluation = replace(
        evaluation,
        ann=tuple(
            AnnPoint(point.ef_search, point.recall, point.milliseconds)
            for point in (index.manifest.recall_curve if index.has_graph else ())
        ),
        ef_search=_ef_search(settings, index),
        calibration=index.calibration,
    )
    if ranked is None:
        return evaluation
    return replace(
        evaluation,
        base=ranked.base,
        tuned=None if ranked.main == ranked.base else ranked.main,
        headline_metric=f"ndcg@{10 if 10 in settings.cutoffs else max(settings.cutoffs)}",
        retrieval=ranked.retrieval,
        ann_recall_at_10=ranked.graph[0].recall_at_10 if ranked.graph else None,
        graph=ranked.graph,
        notes=(*ranked.notes, *_tower_notes(index, models)),
    )


def add_query_analysis(
    settings: EvaluateSettings, evaluation: Evaluation, inputs: Inputs, ranked: Ranked | None
) -> Evaluation:
    """Return the evaluation with heat maps, gains by group of queries, and the queries that changed most."""
    judged, labels = inputs.judged, inputs.labels
    if judged is None or ranked is None or labels is None:
        return evaluation
    known: dict[str, Any] = {"queries": judged.queries, "qrels": judged.qrels, "labels": labels}
    heatmaps = heatmaps_of(ranked.dense, query_ids=ranked.metrics[ranked.main].query_ids, **known)
    evaluation = replace(evaluation, heatmaps=heatmaps)
    if evaluation.base is None or evaluation.tuned is None:
        return evaluation
    known["metric"] = evaluation.headline_metric
    before, after = (ranked.metrics[name] for name in (evaluation.base, evaluation.tuned))
    improved, worsened = changes_of(
        before,
        after,
        before=ranked.runs[evaluation.base],
        after=ranked.runs[evaluation.tuned],
        **known,
    )
    return replace(
        evaluation,
        slices=slices_of(before, after, resamples=settings.resamples, seed=settings.seed, **known),
        improved=improved,
        worsened=worsened,
    )


def _tower_notes(index: SearchIndex, models: Models) -> tuple[str, ...]:
    """Return notes on how queries are embedded, if not just by the encoder that the index records."""
    encoder, adapter = models.measured, index.manifest.query_adapter
    if encoder is None:
        return ()
    notes = [query_tower_note(index.manifest, encoder.query_fingerprint)]
    if adapter is not None and adapter.kind != "lora":
        notes.append(
            f"searches of the index use its query adapter {adapter.fingerprint[:12]}; pairs and heat maps "
            "compare the embeddings of the encoder, without the adapter"
        )
    return tuple(note for note in notes if note is not None)


def _resolved(
    settings: EvaluateSettings, index: SearchIndex | None, models: Models, ranked: Ranked | None
) -> dict[str, Any]:
    """Return the values of settings that were left open."""
    found: dict[str, Any] = {"model": model_name(settings, None if index is None else index.manifest)}
    if models.measured is not None:
        found["fingerprint"] = models.measured.fingerprint
        if models.measured.query_fingerprint != models.measured.fingerprint:
            found["query_fingerprint"] = models.measured.query_fingerprint
    if models.base is not None:
        found |= {"base_model_row": models.base.name, "base_fingerprint": models.base.fingerprint}
    if index is not None:
        adapter = index.manifest.query_adapter
        found |= {
            "index_version": index.manifest.version,
            **({"query_adapter": adapter.fingerprint} if adapter is not None else {}),
            "ef_search": _ef_search(settings, index),
        }
    if index is not None and ranked is not None:
        found["rows"] = list(ranked.runs)
        if index.analyser is not None and {"bm25", "hybrid"} & set(ranked.runs):
            found["bm25_analyser"] = index.analyser.describe()
        if "hybrid" in ranked.runs and settings.fusion == "convex":
            weight = settings.hybrid_weight
            found["hybrid_weight"] = weight_of(index) if weight is None else weight
    return found


def _ef_search(settings: EvaluateSettings, index: SearchIndex) -> int | None:
    """Return the `ef_search` of the searches through the graph; None if the backend has none."""
    return None if index.ef_search is None else settings.ef_search or index.ef_search
