"""Blend a trained reranker's scores with the search's, and record whether the served list gains."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from aisle.commands.train.served_list import FoundProducts, found_products
from aisle.data.pairs import Pairs
from aisle.evaluation.blend_fit import ScoredLists, fit_weights, held_out_ndcg
from aisle.io.durable import replace_text
from aisle.models.torch_reranker import TorchReranker, load_torch_reranker
from aisle.training.adapter_measure import gain_of
from aisle.types.rerank_blend import BLEND_FILE, RerankBlend

FEWEST_QUERIES = 20
"""Fewest validation queries to measure a list on; with fewer, the interval would be too narrow."""


def measure_blend(
    run_dir: Path, settings: Any, validation: Pairs, *, log: Callable[[str], None]
) -> RerankBlend | None:
    """Write and return the blend of a saved reranker; None without --index_dir or with too few queries.

    Args:
        run_dir: Folder of the saved run.
        settings: Resolved settings of a reranker.
        validation: Validation pairs.
        log: Logs what the served list gains, and whether the reranker is kept.

    Raises:
        AisleError: The index or the saved run cannot be used.
    """
    (run_dir / BLEND_FILE).unlink(missing_ok=True)  # of the run that this run replaces
    served, trusted = settings.served, settings.model.trust_remote_code
    if served.index_dir is None:
        return None
    found = found_products(served, validation, trust_remote_code=trusted, log=log)
    queries = len(found.counts)
    if queries < FEWEST_QUERIES:
        log(
            f"the served list is not measured: {queries} validation queries have a relevant product, and at "
            f"least {FEWEST_QUERIES} are needed; searches use the reranker's scores alone. Compare with "
            "evaluate --reranker"
        )
        return None
    reranker = load_torch_reranker(run_dir, trust_remote_code=trusted)
    lists, milliseconds = _scored(reranker, found)
    (a, b), gain = fit_weights(lists), gain_of(*held_out_ndcg(lists))
    blend = RerankBlend(
        fingerprint=reranker.fingerprint,
        mode=served.index_mode,
        depth=served.rerank_depth,
        a=a,
        b=b,
        queries=gain.queries,
        ndcg_before=gain.before,
        ndcg_after=gain.after,
        gain_low=float(gain.difference.low or 0.0),
        gain_high=float(gain.difference.high or 0.0),
        milliseconds=milliseconds,
    )
    replace_text(run_dir / BLEND_FILE, blend.text())
    log(f"reranking {blend.summary}")
    log(
        f"kept: searches order by {a:.4g} x the search's score + {b:.4g} x the reranker's"
        if blend.kept
        else "dropped: the interval does not lie above zero, so query and serve keep the search's own list. "
        "Train on products that the search finds, judged right and wrong"
    )
    return blend


def _scored(reranker: TorchReranker, found: FoundProducts) -> tuple[ScoredLists, float]:
    """Return the lists with the reranker's scores, and the mean milliseconds of a list."""
    offsets = np.concatenate([[0], np.cumsum(found.counts)]).astype(np.int64)
    started = time.perf_counter()
    parts = [reranker.score(found.pairs[start:end]) for start, end in pairwise(offsets)]
    milliseconds = 1000 * (time.perf_counter() - started) / len(parts)
    return (
        ScoredLists(
            retrieval=found.retrieval.astype(np.float64),
            rerank=np.concatenate(parts).astype(np.float64),
            relevance=found.relevance.astype(np.float64),
            offsets=offsets,
            ideal=found.ideal,
        ),
        milliseconds,
    )
