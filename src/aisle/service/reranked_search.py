"""The rerank stage of a search request: the server's reranker orders the first products of each query."""

from __future__ import annotations

import logging
import time

from aisle.errors import SearchError
from aisle.search.candidates import CandidateSet
from aisle.search.rerank_stage import rerank_stage
from aisle.search.reranked_candidates import rerank_candidates
from aisle.search.rerankers import Reranker
from aisle.service.request_errors import RequestError
from aisle.service.requests import SearchRequest
from aisle.service.reranked_texts import no_reranker, reranker_failed
from aisle.service.service_limits import ServiceLimits

__all__ = ["SearchReranking", "check_rerank", "search_reranking"]

LOGGER = logging.getLogger("aisle.service")


class SearchReranking:
    """Reorders the candidate sets of a request.

    Args:
        reranker: The server's reranker.
        top_n: First products of each query to score.
    """

    def __init__(self, reranker: Reranker, top_n: int) -> None:
        self._reranker = reranker
        self._top_n = top_n
        self.took_ms = 0.0
        """Milliseconds until now."""

    def __call__(self, found: CandidateSet) -> CandidateSet:
        """Return a candidate set with its first products in the order of their scores.

        Raises:
            SearchError: The index stores no texts.
            RequestError: The reranker failed.
        """
        started = time.perf_counter()
        try:
            stage = rerank_stage(self._reranker, found.settings.mode)
            return found if stage is None else rerank_candidates(found, stage, self._top_n)
        except SearchError:
            raise
        except Exception:  # a defect of the reranker; its message may have texts of products
            LOGGER.exception("reranker %s: failed", self._reranker.name)
            raise reranker_failed() from None
        finally:
            self.took_ms += 1000 * (time.perf_counter() - started)


def search_reranking(reranker: Reranker | None, request: SearchRequest) -> SearchReranking | None:
    """Return the rerank stage of a request; None if it asks for none.

    Raises:
        RequestError: It asks for one, and the server has no reranker.
    """
    if request.rerank is None:
        return None
    if reranker is None:
        raise no_reranker("rerank")
    return SearchReranking(reranker, request.rerank.top_n)


def check_rerank(reranker: Reranker | None, request: SearchRequest, limits: ServiceLimits) -> None:
    """Refuse a request that reranks without a reranker, or too many products.

    Raises:
        RequestError: The server has no reranker, or there may be more texts than its limit.
    """
    stage = search_reranking(reranker, request)
    if stage is None or request.rerank is None:
        return
    count = len(request.texts) * request.rerank.top_n
    if count > limits.max_rerank_texts:
        raise RequestError(
            "invalid_request",
            f"rerank: at most {limits.max_rerank_texts} products in a request (queries x top_n), found "
            f"{count}; ask for fewer",
            field="rerank",
        )
