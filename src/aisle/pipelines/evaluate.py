"""An index, measured against judgements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from aisle.config.index import EvaluateSettings
from aisle.data.judgements import read_qrels, read_queries
from aisle.errors import DataError
from aisle.evaluation.report import retrieval_table
from aisle.evaluation.retrieval import RetrievalMetrics, evaluate_run
from aisle.index import SearchIndex, SearchResult, ann_recall, open_index
from aisle.pipelines.encoders import encoder_of_index
from aisle.pipelines.hybrid import search_by_mode
from aisle.pipelines.output import Output, quieten_libraries

ANN_DEPTH = 10
SHOWN = ("recall@10", "mrr@10", "ndcg@10", "precision@1")


def evaluate(settings: EvaluateSettings) -> RetrievalMetrics:
    """Rank the catalogue for every judged query and return the metrics.

    Raises:
        AisleError: the index, its encoder, the queries or the judgements cannot be used.
    """
    output = Output(json_only=settings.json)
    quieten_libraries()
    index_dir = Path(settings.index_dir)
    qrels = read_qrels([Path(settings.qrels)], label_map=settings.label_map)
    queries = read_queries([Path(settings.queries)], only=qrels.keys())
    unknown = [query_id for query_id in qrels if query_id not in queries]
    if unknown:
        output.say(
            f"warning: {len(unknown):,} judged queries are not in {settings.queries} "
            f"and count as unanswered, {unknown[0]!r} for example"
        )
    index = open_index(index_dir)
    texts = list(queries.values())
    name, query_embeddings = "bm25", None
    if settings.mode != "lexical":
        encoder = encoder_of_index(
            index.manifest,
            index_dir,
            model=settings.model,
            base_model=settings.base_model,
            trust_remote_code=settings.trust_remote_code,
        )
        name = encoder.name if settings.mode == "dense" else f"{encoder.name} and bm25"
        query_embeddings = encoder.encode_queries(texts)
    found = search_by_mode(
        index,
        texts,
        query_embeddings,
        mode=settings.mode,
        top_k=min(max(settings.cutoffs), len(index)),
        fusion=settings.fusion,
        weight=settings.hybrid_weight,
        ef_search=settings.ef_search,
    )
    metrics = evaluate_run(
        qrels,
        run_of(list(queries), found),
        cutoffs=settings.cutoffs,
        relevant_from=settings.relevant_from,
        known_products=set(index.products.column("product_id").to_pylist()),
    )
    if settings.run_file is not None:
        _write_run(Path(settings.run_file), list(queries), found)
    shown = [name for name in SHOWN if name in metrics.values] or list(metrics.values)[:4]
    title = f"{metrics.queries:,} queries, {len(index):,} products"
    output.show(retrieval_table({name: metrics.values}, metrics=shown, title=title))
    recall = None
    if query_embeddings is not None:
        recall = _ann_recall(index, query_embeddings, settings.ef_search)
        output.say(f"ann_recall@{min(ANN_DEPTH, len(index))} {recall:.4f} against exact search")
    _say_left_out(metrics, output)
    output.document({**metrics.to_dict(), "ann_recall@10": recall, "products": len(index)})
    return metrics


def run_of(query_ids: list[str], found: SearchResult) -> dict[str, dict[str, float]]:
    """Return {query id: {product id: score}} of a search's answers, in the order of the queries."""
    return {
        query_id: {
            str(product): float(score)
            for product, score in zip(products, scores, strict=True)
            if product is not None
        }
        for query_id, products, scores in zip(query_ids, found.product_ids, found.scores, strict=True)
    }


def _ann_recall(
    index: SearchIndex, query_embeddings: npt.NDArray[np.float32], ef_search: int | None
) -> float:
    compared = min(ANN_DEPTH, len(index))
    approximate = index.search(query_embeddings, top_k=compared, ef_search=ef_search)
    exact = index.search(query_embeddings, top_k=compared, exact=True)
    return ann_recall(
        approximate.rows, exact.rows, approximate_scores=approximate.scores, exact_scores=exact.scores
    )


def _say_left_out(metrics: RetrievalMetrics, output: Output) -> None:
    if metrics.without_relevant:
        output.say(f"{len(metrics.without_relevant):,} queries have no relevant product and are left out")
    if metrics.unanswered:
        output.say(f"{len(metrics.unanswered):,} queries have no answer and count as 0")
    if metrics.unknown_products:
        shown = ", ".join(metrics.unknown_products[:3])
        output.say(
            f"{len(metrics.unknown_products):,} judged products are not in the index, {shown} for example"
        )


def _write_run(path: Path, query_ids: list[str], found: SearchResult) -> None:
    lines = [
        f"{query_id} Q0 {product} {rank} {score:.6f} aisle\n"
        for query_id, products, scores in zip(query_ids, found.product_ids, found.scores, strict=True)
        for rank, (product, score) in enumerate(zip(products, scores, strict=True), start=1)
        if product is not None
    ]
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise DataError(f"--run_file {path}: cannot be written: {error}") from None
