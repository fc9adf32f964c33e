"""Tune the weight of embeddings in hybrid search on judged training queries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aisle.data.judged_queries import check_judged_products, read_judged_queries
from aisle.data.text_files import PLAIN_TEXT, TextFormat
from aisle.errors import DataError
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.index import Manifest, exact_search
from aisle.index.array_files import read_array
from aisle.index.fusion import WEIGHTS, Candidates, fuse, tune_weight
from aisle.index.hybrid_search import candidate_depth, gather_candidates
from aisle.index.lexical import Bm25Index
from aisle.index.manifest import EMBEDDINGS_FILE, LEXICAL_FOLDER, PRODUCTS_FILE
from aisle.index.products import rank_ids, read_products
from aisle.index.query_adapter import QueryAdapter
from aisle.search.load_encoder import LoadedEncoder
from aisle.types.columns import ID_COLUMN

TUNED_DEPTH = 10


def tuned_weight(
    folder: Path,
    manifest: Manifest,
    encoder: LoadedEncoder,
    *,
    adapter: QueryAdapter | None = None,
    queries_file: str,
    qrels_file: str,
    label_map: Mapping[str, float] | None = None,
    text_format: TextFormat = PLAIN_TEXT,
) -> float:
    """Return the weight of embeddings with the best nDCG@10 on the training queries, by exact search.

    Args:
        folder: Folder of a version with all its files; it may still be staged.
        manifest: Manifest of that version, without the weight.
        encoder: Encoder of the embeddings.
        adapter: Query adapter of the version; None without.
        queries_file: File with ids and texts of training queries.
        qrels_file: File with their judgements.
        label_map: Relevance of each label; None if the labels are numbers.
        text_format: Encoding and delimiter of text files.

    Raises:
        DataError: A file cannot be read, or no judged product is found for any query.
        EvaluationError: No query has a relevant product.
        IndexIntegrityError: A file of the version is missing or damaged.
    """
    known = read_judged_queries(queries_file, [qrels_file], label_map, text_format=text_format)
    queries, qrels = known.queries, known.qrels
    products = read_products(folder / PRODUCTS_FILE)
    check_judged_products(known, products.column(ID_COLUMN), catalogue="the catalogue")
    embeddings = read_array(
        folder / EMBEDDINGS_FILE, shape=(manifest.count, manifest.dim), dtype=manifest.store_dtype
    )
    tie_ranks = rank_ids(products)
    asked = encoder.encode_queries(list(queries.values()))
    if adapter is not None:
        asked = adapter.apply(asked)
    depth = candidate_depth(TUNED_DEPTH, count=manifest.count)
    dense_rows, _ = exact_search(embeddings, asked, top_k=depth, tie_ranks=tie_ranks)
    candidates = gather_candidates(
        Bm25Index.load(folder / LEXICAL_FOLDER),
        embeddings,
        list(queries.values()),
        asked,
        dense_rows=dense_rows,
        tie_ranks=tie_ranks,
    )
    judged = dict(zip(queries, candidates, strict=True))
    quality = quality_by_weight(judged, qrels, product_ids=products.column(ID_COLUMN), tie_ranks=tie_ranks)
    if not any(quality.values()):
        raise DataError(
            f"{qrels_file}: no judged product is among the best {depth} of any query by embeddings or by "
            "words; check that its product ids match the catalogue"
        )
    return tune_weight(quality.__getitem__)


def quality_by_weight(
    candidates: Mapping[str, Candidates],
    qrels: Mapping[str, Mapping[str, float]],
    *,
    product_ids: pa.ChunkedArray,
    tie_ranks: npt.NDArray[np.int64],
) -> dict[float, float]:
    """Return the mean nDCG@10 of the convex combination for each of `WEIGHTS`.

    Args:
        candidates: Candidates of both searches, by query id.
        qrels: Relevance, by query id and product id.
        product_ids: Id of the product in each row, (count,).
        tie_ranks: Rank of each product's id among the sorted ids, (count,).
    """
    rows = np.unique(np.concatenate([found.rows for found in candidates.values()]))
    ids = dict(zip(rows.tolist(), product_ids.take(pa.array(rows)).to_pylist(), strict=True))
    quality = {}
    for weight in WEIGHTS:
        ranked = fuse(list(candidates.values()), top_k=TUNED_DEPTH, tie_ranks=tie_ranks, weight=weight)
        run = {
            query_id: {
                ids[row]: score for row, score in zip(rows.tolist(), scores.tolist(), strict=True) if row >= 0
            }
            for query_id, rows, scores in zip(candidates, *ranked, strict=True)
        }
        quality[weight] = evaluate_run(qrels, run, cutoffs=(TUNED_DEPTH,)).values[f"ndcg@{TUNED_DEPTH}"]
    return quality
