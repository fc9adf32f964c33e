"""The description of a running server for `GET /info`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from aisle.search.rerankers import Reranker
from aisle.service.pairs.served_pair import ServedPair
from aisle.service.service_limits import ServiceLimits
from aisle.types.columns import ID_COLUMN, TEXT_COLUMN, kind_of_type
from aisle.version import __version__

__all__ = ["service_info"]


def service_info(pair: ServedPair, reranker: Reranker | None, limits: ServiceLimits) -> dict[str, Any]:
    """Return a description of the index, the model, the modes and the limits, as JSON.

    Args:
        pair: The pair in use.
        reranker: Scores texts for a query; None if the server has none.
        limits: Limits of the server.
    """
    manifest = pair.index.manifest
    return {
        "aisle": __version__,
        "index": {
            "version": pair.version,
            "fingerprint": pair.index_fingerprint,
            "query_tower": manifest.query_tower,
            "product_tower": manifest.fingerprint,
            "products": len(pair.index),
            "created": manifest.created,
            "dim": pair.index.dim,
            "ann_recall@10": manifest.ann_recall_at_10,
            "query_adapter": manifest.query_adapter and asdict(manifest.query_adapter),
            "fields": _fields(pair),
        },
        "model": _model(pair),
        "reranker": _reranker(reranker),
        "modes": _modes(pair),
        "mode": pair.searcher.mode,
        "window": pair.source.window,
        "calibrated": sorted(pair.index.calibration.modes) if pair.index.calibration else [],
        "limits": {
            "max_queries": limits.max_queries,
            "max_rerank_texts": limits.max_rerank_texts,
            "max_body_bytes": limits.max_body_bytes,
            "timeout_ms": limits.timeout_ms,
        },
    }


def _fields(pair: ServedPair) -> list[dict[str, Any]]:
    """Return the columns of the products: name, type, kind of value, and whether products share values.

    Filters take columns with a kind; facets are of use for columns with shared values.
    """
    return [
        {
            "name": column.name,
            "type": str(column.type),
            "kind": kind_of_type(column.type),
            "facet": column.name in pair.facet_fields,
        }
        for column in pair.index.products.schema
        if column.name not in (ID_COLUMN, TEXT_COLUMN)
    ]


def _model(pair: ServedPair) -> dict[str, Any] | None:
    encoder = pair.encoder
    if encoder is None:
        return None
    return {
        "name": pair.model_name,
        "fingerprint": pair.searcher.query_fingerprint,
        "product_fingerprint": encoder.fingerprint,
        "dim": encoder.dim,
        "max_length": pair.max_length,
    }


def _reranker(reranker: Reranker | None) -> dict[str, Any] | None:
    if reranker is None:
        return None
    limit = reranker.limit
    return {"name": reranker.name, "max_length": None if limit is None else limit.max_length}


def _modes(pair: ServedPair) -> list[str]:
    by_words = pair.index.lexical is not None
    by_meaning = pair.encoder is not None
    return [
        *(["dense"] if by_meaning else []),
        *(["lexical"] if by_words else []),
        *(["hybrid"] if by_meaning and by_words else []),
    ]
