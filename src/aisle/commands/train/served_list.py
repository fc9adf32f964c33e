"""The lists that a reranker will be served with: products that an index finds for the validation queries."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from aisle.commands.train.reranker_settings import ServedListSettings
from aisle.data.pairs import Pairs
from aisle.errors import AisleError, ConfigError
from aisle.evaluation.blend_fit import CUTOFF, dcg
from aisle.index import SearchIndex
from aisle.text.joined_pairs import PairTokenizer
from aisle.training.distributed import broadcast_from_main
from aisle.training.score_evaluation import ServedLists
from aisle.types.columns import TEXT_COLUMN

QUERIES_AT_A_TIME = 256


@dataclass(frozen=True)
class FoundProducts:
    """Products that a search found for judged queries, before they are tokenised.

    Args:
        pairs: (products,) each query with the text of each of its products, best first.
        counts: (queries,) number of products of each query.
        relevance: (products,) float32, judged relevance; 0 if a product is not judged.
        retrieval: (products,) float32, the search's scores.
        ideal: (queries,) DCG of the best order of the query's judged products.
    """

    pairs: list[tuple[str, str]]
    counts: list[int]
    relevance: np.ndarray
    retrieval: np.ndarray
    ideal: np.ndarray


def served_lists(
    settings: ServedListSettings,
    validation: Pairs,
    tokenizer: PairTokenizer,
    accelerator: Any,
    *,
    trust_remote_code: bool,
    log: Callable[[str], None],
) -> ServedLists | None:
    """Return the lists to rerank in each evaluation, the same on every rank; None without --index_dir.

    Only the main rank opens the index and searches.

    Raises:
        AisleError: The index or its model cannot be used, or no list has a judged product.
    """
    if settings.index_dir is None:
        return None
    found: Any = None
    if accelerator.is_main_process:
        try:
            found = found_products(settings, validation, trust_remote_code=trust_remote_code, log=log)
        except AisleError as error:
            found = error
    found = broadcast_from_main(accelerator, found)
    if isinstance(found, AisleError):
        raise found
    return ServedLists(
        pairs=tokenizer.tokenize(found.pairs),
        offsets=np.concatenate([[0], np.cumsum(found.counts)]).astype(np.int64),
        relevance=found.relevance,
        ideal=found.ideal,
        depth=settings.rerank_depth,
    )


def found_products(
    settings: ServedListSettings,
    validation: Pairs,
    *,
    trust_remote_code: bool,
    log: Callable[[str], None],
) -> FoundProducts:
    """Search the index for the validation queries that have a relevant product.

    Raises:
        AisleError: As in `served_lists`.
    """
    from aisle.search.open_searcher import open_searcher

    judged = {
        query: products for query, products in _judgements(validation).items() if any(products.values())
    }
    searcher = open_searcher(
        str(settings.index_dir),
        mode=settings.index_mode,
        model=settings.index_model,
        trust_remote_code=trust_remote_code,
        log=log,
    )
    by_id = validation.product_ids is not None
    pairs: list[tuple[str, str]] = []
    counts: list[int] = []
    relevance: list[float] = []
    retrieval: list[float] = []
    queries = list(judged)
    for start in range(0, len(queries), QUERIES_AT_A_TIME):
        part = queries[start : start + QUERIES_AT_A_TIME]
        for query, hits in zip(part, searcher.search(part, settings.rerank_depth), strict=True):
            texts = [hit.text for hit in hits]
            if None in texts:
                raise ConfigError(
                    f"--index_dir {settings.index_dir}: stores no texts, which a reranker reads"
                )
            keys = [hit.product_id for hit in hits] if by_id else texts
            pairs += [(query, str(text)) for text in texts]
            counts.append(len(hits))
            retrieval += [hit.score for hit in hits]
            relevance += [judged[query].get(str(key), 0.0) for key in keys]
    if not any(relevance):
        named = "product ids are" if by_id else "product texts are (the pairs have no product ids)"
        raise ConfigError(
            f"--index_dir {settings.index_dir}: finds no relevant product for any of {len(queries):,} "
            f"validation queries; check that the pairs' {named} those of the index"
        )
    copies = {} if by_id else _copies(searcher.index, {text for one in judged.values() for text in one})
    log(
        f"validation: the {settings.rerank_depth} best products of --index_dir ({settings.index_mode}) for "
        f"{len(queries):,} queries with a relevant product are reranked; the best evaluation has the highest "
        "nDCG@10"
    )
    return FoundProducts(
        pairs,
        counts,
        np.array(relevance, np.float32),
        np.array(retrieval, np.float32),
        np.array([_ideal(judged[query], copies) for query in queries]),
    )


def _copies(index: SearchIndex, texts: Collection[str]) -> Mapping[str, int]:
    """Return how many products of an index have each text, for the texts that some product has."""
    column = index.products.column(TEXT_COLUMN)
    found = column.filter(pyarrow.compute.is_in(column, value_set=pa.array(list(texts), column.type)))
    return {one["values"]: one["counts"] for one in found.value_counts().to_pylist()}


def _ideal(judged: Mapping[str, float], copies: Mapping[str, int]) -> float:
    """Return the DCG of the best order of a query's judged products.

    Args:
        judged: Relevance of each product, by id or text.
        copies: Products of the index with each text, each of which earns the text's relevance.
    """
    gains = [gain for key, gain in judged.items() for _ in range(min(copies.get(key, 1), CUTOFF))]
    return dcg(np.array(sorted(gains, reverse=True)))


def _judgements(pairs: Pairs) -> Mapping[str, dict[str, float]]:
    """Return the relevance of each query's judged products, by product id, or by text without ids.

    A product that is judged twice for a query has the higher relevance.
    """
    relevance = pairs.relevance
    values = np.ones(len(pairs)) if relevance is None else relevance.astype(np.float64)
    found: dict[str, dict[str, float]] = {}
    keys = pairs.product_ids or pairs.products
    for query, key, value in zip(pairs.queries, keys, values.tolist(), strict=True):
        judged = found.setdefault(query, {})
        judged[key] = max(value, judged.get(key, 0.0))
    return found
