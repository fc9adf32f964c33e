"""Rank the catalogue with an index and the systems it is compared with, and score the rankings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute

from aisle.commands.evaluate.caveats import retrieval_caveats
from aisle.commands.evaluate.compared_models import Models, embed_base, has_texts, wanted_rows
from aisle.commands.evaluate.engine_run import EngineRun
from aisle.commands.evaluate.reranked_row import rerank_row
from aisle.commands.evaluate.settings import EvaluateSettings
from aisle.commands.evaluate.trec_files import check_run_file
from aisle.commands.output import Output
from aisle.data.judged_queries import JudgedQueries, check_judged_products, known_products
from aisle.errors import ConfigError
from aisle.evaluation.comparison import compare_runs
from aisle.evaluation.document import GraphLoss, Retrieval, SystemKind
from aisle.evaluation.graph_loss import graph_loss
from aisle.evaluation.retrieval_metrics import RetrievalMetrics
from aisle.index import SearchIndex, ann_recall, open_index
from aisle.index.scoring import FloatArray
from aisle.search.load_encoder import LoadedEncoder
from aisle.search.open_searcher import open_searcher
from aisle.search.rankings import (
    BY_GRAPH,
    GRAPH_DEPTH,
    Ranker,
    Run,
    index_ranker,
    lexical_ranker,
    other_encoder_ranker,
    rank_all,
)
from aisle.search.searcher import Searcher
from aisle.training.process_group import Processes
from aisle.types.columns import ID_COLUMN

Rankings = Mapping[str, Mapping[str, float]]
"""{query id: {product id: score}}, best first."""
MODE_ROWS = {"dense": "tuned", "lexical": "bm25", "hybrid": "hybrid"}


@dataclass(frozen=True)
class Ranked:
    """Rankings of several systems and their figures.

    Args:
        retrieval: Comparison of the systems.
        metrics: Row -> figures per query.
        runs: Row -> rankings.
        main: Row of --mode.
        base: Baseline of the comparison, if there is one.
        given: Rows with rankings that were read from a file.
        dense: Row -> encoder and embeddings of the products, for the base model and the index.
        graph: Loss of the index's rows through the graph; empty if no graph was searched.
        notes: Remarks that a reader needs to judge the figures.
    """

    retrieval: Retrieval
    metrics: Mapping[str, RetrievalMetrics]
    runs: Mapping[str, Rankings]
    main: str
    base: str | None
    given: tuple[str, ...]
    dense: Mapping[str, tuple[LoadedEncoder, FloatArray]]
    graph: tuple[GraphLoss, ...]
    notes: tuple[str, ...]


def evaluate_retrieval(
    settings: EvaluateSettings,
    index: SearchIndex,
    judged: JudgedQueries,
    models: Models,
    processes: Processes,
    output: Output,
    *,
    engine: EngineRun | None = None,
) -> Ranked:
    """Rank the catalogue for every judged query with each system, and score the rankings.

    Args:
        settings: Settings of the evaluation.
        index: Index of the catalogue.
        judged: Queries and judgements.
        models: Models of the rows base and tuned.
        processes: Processes that share embedding the catalogue with the base model.
        output: Shows progress.
        engine: Rankings of the present engine, which become the baseline; None compares with the row base.

    Raises:
        AisleError: A row of --rows is not possible, or the judgements do not fit.
    """
    if settings.run_file is not None:
        check_run_file(Path(settings.run_file), judged.queries, index)
    rows, notes = _possible_rows(settings, index)
    notes += [models.note] if models.note and "base" in rows else []
    if index.analyser is not None and {"bm25", "hybrid"} & set(rows):
        notes.append(f"BM25 splits texts into words by its analyser: {index.analyser.describe()}")
    reranked_depth = 0 if settings.reranker is None else settings.rerank_depth
    top_k = min(max(*settings.cutoffs, GRAPH_DEPTH, reranked_depth), len(index))
    others, said = _compared(settings, index, judged, top_k)
    dense: dict[str, tuple[LoadedEncoder, FloatArray]] = {}
    rankers: list[Ranker] = []
    if "base" in rows and models.base is not None:
        embeddings = embed_base(settings, index.manifest, index.products, models.base, processes, output)
        dense["base"] = (models.base, embeddings)
        rankers.append(other_encoder_ranker(index, models.base, embeddings, name="base", top_k=top_k))
    own = models.name if "tuned" in rows or ("base" in rows and models.name == "base") else None
    if own is not None and models.measured is not None:
        dense[own] = (models.measured, index.embeddings)
    if "bm25" in rows:
        rankers.append(lexical_ranker(index, name="bm25", top_k=top_k))
    if models.measured is not None:
        searcher = Searcher(
            index,
            models.measured,
            fusion=settings.fusion,
            weight=settings.hybrid_weight,
            ef_search=settings.ef_search,
        )
        hybrid = "hybrid" if "hybrid" in rows else None
        rankers.append(
            index_ranker(searcher, dense=models.name, hybrid=hybrid, top_k=top_k, graph=index.has_graph)
        )
    usual: dict[str, SystemKind] = {"bm25": "bm25", "base": "base", "tuned": "tuned", "hybrid": "hybrid"}
    present = {} if engine is None else {_free_name(engine.name, others): engine.run}
    kinds: dict[str, SystemKind] = dict.fromkeys(present, "other")
    kinds |= usual
    kinds |= dict.fromkeys(others, "other")
    with output.progress("searching", len(judged.queries) * (len(rankers) + len(others))) as bar:
        found = rank_all([*rankers, *others.values()], judged.queries, on_progress=bar.advance)
    asked = models.name if settings.mode == "dense" else MODE_ROWS[settings.mode]
    reranked = None
    if settings.reranker is not None:
        if asked not in found:
            raise ConfigError(f"--reranker: orders the products of the row {asked}; add it to --rows")
        reranked = rerank_row(settings, index, judged, asked, found[asked], output)
        found[reranked.name] = reranked.run
        kinds[reranked.name] = "other"
    ranked = {name: found[name] for name in kinds if name in found and (own or name != models.name)}
    runs: dict[str, Rankings] = {**present, **ranked}
    base = next(iter(present), "base" if "base" in runs else None)
    retrieval, metrics = compare_runs(
        runs,
        judged.qrels,
        kinds=kinds,
        base=base,
        products=len(index),
        known_products=known_products(
            dict.fromkeys(product for grades in judged.qrels.values() for product in grades),
            index.products.column(ID_COLUMN),
        ),
        unknown_queries=judged.unknown,
        cutoffs=settings.cutoffs,
        relevant_from=settings.relevant_from,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    main = asked if asked in runs else [name for name in ranked if name not in others][-1]
    graph = _graph_losses(found, judged, settings)
    if reranked is not None:
        notes.append(reranked.verdict(metrics, resamples=settings.resamples, seed=settings.seed))
    notes += [
        *said,
        *(() if engine is None else engine.notes),
        *judged.notes,
        *retrieval_caveats(retrieval, judged),
    ]
    return Ranked(retrieval, metrics, runs, main, base, tuple(present), dense, graph, tuple(notes))


def _graph_losses(
    found: Mapping[str, Run], judged: JudgedQueries, settings: EvaluateSettings
) -> tuple[GraphLoss, ...]:
    """Return the loss of each row of the index through the graph, the dense row first."""
    asked = {query_id: judged.qrels[query_id] for query_id in judged.queries}
    losses = []
    for name in [name for name in found if name + BY_GRAPH in found]:
        exact, graph = found[name], found[name + BY_GRAPH]
        depth = graph.rows.shape[1]
        recall = ann_recall(
            graph.rows,
            exact.rows[:, :depth],
            approximate_scores=graph.scores,
            exact_scores=exact.scores[:, :depth],
        )
        losses.append(
            graph_loss(
                name,
                asked,
                exact=exact,
                graph=graph,
                recall_at_10=recall,
                relevant_from=settings.relevant_from,
                resamples=settings.resamples,
                seed=settings.seed,
            )
        )
    return tuple(losses)


def _possible_rows(settings: EvaluateSettings, index: SearchIndex) -> tuple[tuple[str, ...], list[str]]:
    """Return the rows that the index allows, and notes on the others."""
    rows = wanted_rows(settings)
    missing = {}
    if index.lexical is None:
        why = "the index was built without its products' texts and has no BM25; build it again with them"
        missing = {"bm25": why, "hybrid": why}
    if not has_texts(index.products):
        missing["base"] = "the index keeps no texts that another model could embed; build it again with them"
    required = (*(settings.rows or ()), MODE_ROWS[settings.mode])
    for name, why in missing.items():
        if name in rows and name in required:
            flag = f"--rows {name}" if name in (settings.rows or ()) else f"--mode {settings.mode}"
            raise ConfigError(f"{flag}: {why}")
    notes = [f"no row {name}: {why}" for name, why in missing.items() if name in rows]
    return tuple(name for name in rows if name not in missing), notes


def _compared(
    settings: EvaluateSettings, index: SearchIndex, judged: JudgedQueries, top_k: int
) -> tuple[dict[str, Ranker], list[str]]:
    """Return the ranker of each index of --compare by row, and notes on products that differ."""
    rankers: dict[str, Ranker] = {}
    notes: list[str] = []
    for folder in map(Path, settings.compare):
        other = open_index(folder)
        check_judged_products(judged, other.products.column(ID_COLUMN), catalogue=f"--compare {folder}")
        searcher = open_searcher(other, trust_remote_code=settings.trust_remote_code)
        name = _free_name(folder.resolve().name, rankers)
        rankers[name] = index_ranker(
            searcher, dense=name, hybrid=None, top_k=min(top_k, len(other)), graph=False
        )
        notes += _other_products(name, index, other)
    return rankers, notes


def _free_name(name: str, taken: Collection[str]) -> str:
    """Return a row name that is not taken."""
    used = {*MODE_ROWS.values(), "base", *taken}
    return next(free for free in (name, *(f"{name}-{n}" for n in range(2, 10_000))) if free not in used)


def _other_products(name: str, index: SearchIndex, other: SearchIndex) -> Sequence[str]:
    ids = [each.products.column(ID_COLUMN).combine_chunks() for each in (index, other)]
    shared = pyarrow.compute.sum(pyarrow.compute.is_in(ids[1], value_set=ids[0])).as_py() or 0
    if shared == len(ids[0]) == len(ids[1]):
        return ()
    return (
        f"{name} has {len(ids[1]):,} products, {shared:,} of them among the {len(ids[0]):,} of the index: "
        "the two are not compared on the same catalogue",
    )
