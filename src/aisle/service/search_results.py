"""Results of a search request: a page of hits, the total and the facets, all of the same candidate set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aisle.errors import SearchError
from aisle.search.candidates import Candidate, CandidateSet, Group
from aisle.search.explain import Explainer
from aisle.search.facets import Facet
from aisle.search.highlighting import Highlighter
from aisle.service.deadline import Deadline
from aisle.service.hidden_paths import public_model_name
from aisle.service.pairs.served_pair import ServedPair
from aisle.service.request_errors import RequestError
from aisle.service.requests import SearchRequest
from aisle.service.responses import (
    FacetCount,
    FacetCounts,
    HitGroup,
    SearchHit,
    SearchResults,
    SearchTotal,
)
from aisle.types.json_values import json_ready

__all__ = ["search_results"]

FIELD_OF_ARGUMENT = {
    "where": "filter",
    "query_embeddings": "vector",
    "offset + top_k": "offset",
    "ef_search": "ef",
    **{name: name for name in ("facets", "group_by", "mode", "window", "min_score", "p", "exact", "rerank")},
}
"""Field of a request by the argument of the searcher, with which a message begins."""


def search_results(
    pair: ServedPair,
    request: SearchRequest,
    vectors: npt.NDArray[np.float32] | None,
    *,
    rerank: Callable[[CandidateSet], CandidateSet] | None = None,
    deadline: Deadline | None = None,
) -> list[SearchResults]:
    """Return the results of each query of a request.

    Args:
        pair: The pair that answers.
        request: The request.
        vectors: (queries, dim) float32 embeddings of its queries; None if it needs none.
        rerank: Reorders each candidate set; None keeps the order of the search.
        deadline: When the work stops: it is checked between queries, facets and hits. None is never.

    Raises:
        RequestError: The index cannot answer the request, or its time is over.
    """
    check = _never if deadline is None else deadline.check
    check()
    mode = request.mode or pair.searcher.mode
    if mode != "dense" and not request.texts:
        raise RequestError(
            "invalid_search",
            f"mode {mode} searches by words: give the query beside its vector",
            field="query",
        )
    fields = _chosen_fields(pair, request.fields)
    try:
        found = pair.searcher.candidates(
            request.texts or [""],
            where=request.filter,
            mode=mode,
            min_score=request.min_score,
            p=request.p,
            window=request.window or pair.source.window,
            exact=request.exact,
            ef_search=request.ef,
            query_embeddings=vectors,
            between=check,
        )
        if rerank is not None:
            found = [_checked(candidates, check, rerank) for candidates in found]
        return [_results_of(candidates, request, fields, check) for candidates in found]
    except SearchError as error:
        raise _invalid_search(error) from None


def _never() -> None:
    """Let the work go on."""


def _checked(
    candidates: CandidateSet, check: Callable[[], None], rerank: Callable[[CandidateSet], CandidateSet]
) -> CandidateSet:
    """Return a reranked candidate set; the deadline is checked before."""
    check()
    return rerank(candidates)


def _results_of(
    candidates: CandidateSet,
    request: SearchRequest,
    fields: Sequence[str] | None,
    check: Callable[[], None],
) -> SearchResults:
    check()
    total: dict[str, Any] = {"value": candidates.total.value, "relation": candidates.total.relation}
    shown = _ShownHits(candidates, request, fields, check)
    columns = None if request.explain else fields  # an explanation names the matched words of every column
    if request.group_by is None:
        page = candidates.page(request.offset, request.top_k, columns=columns)
        hits = [SearchHit(**shown.hit(candidate)) for candidate in page]
    else:
        groups = candidates.grouped(request.group_by, request.group_size)
        total["groups"] = groups.total
        hits = [
            SearchHit(**shown.hit(candidate), group=_group(group))
            for group in groups.page(request.offset, request.top_k, columns=columns)
            for candidate in group.hits
        ]
    facets: dict[str, Any] = {}
    if request.facets is not None:
        facets["facets"] = {}
        for name in dict.fromkeys(request.facets):
            check()
            (counted,) = candidates.facets([name], request.facet_size).values()
            facets["facets"][name] = _facet(counted)
    return SearchResults(hits=hits, total=SearchTotal(**total), **facets)


class _ShownHits:
    """The hits of a query as a response shows them; the query is analysed once for all of them.

    Args:
        candidates: The query's candidate set.
        request: The request.
        fields: Columns to return; None is all.
        check: Function called before each hit; it raises an error to stop.
    """

    def __init__(
        self,
        candidates: CandidateSet,
        request: SearchRequest,
        fields: Sequence[str] | None,
        check: Callable[[], None],
    ) -> None:
        lexical = candidates.index.lexical
        analyser = None if lexical is None else lexical.analyser
        self._fields = fields
        self._check = check
        self._highlighter = Highlighter(analyser, candidates.query) if request.highlight else None
        self._explainer = Explainer(candidates) if request.explain else None

    def hit(self, candidate: Candidate) -> Mapping[str, Any]:
        """Return the fields of a hit."""
        self._check()
        columns, fields = candidate.payload, self._fields
        extra: dict[str, Any] = {}
        if self._highlighter is not None:
            extra["highlights"] = self._highlighter.highlights(columns, fields)
        if self._explainer is not None:
            explanation = self._explainer.explain(candidate)
            explanation = replace(explanation, encoder=public_model_name(explanation.encoder))
            extra["explain"] = explanation.document()
        unreadable = [name for name in candidate.unreadable if fields is None or name in fields]
        if unreadable:
            extra["unreadable"] = unreadable
        return {
            **extra,
            "id": candidate.product_id,
            "rank": candidate.rank,
            "score": candidate.score,
            "scores": candidate.scores,
            "ranks": candidate.ranks,
            "fields": json_ready(columns if fields is None else {name: columns[name] for name in fields}),
        }


def _group(group: Group) -> HitGroup:
    return HitGroup(value=json_ready(group.value), count=group.count)


def _facet(facet: Facet) -> FacetCounts:
    values = [FacetCount(value=json_ready(value), count=count) for value, count in facet.values]
    return FacetCounts(values=values, missing=facet.missing, other=facet.other)


def _chosen_fields(pair: ServedPair, fields: Sequence[str] | None) -> Sequence[str] | None:
    known = pair.fields
    for name in fields or ():
        if name not in known:
            raise RequestError(
                "invalid_search",
                f"fields: the index has no column {name!r:.100}; it has {', '.join(known) or 'none'}",
                field="fields",
            )
    return None if fields is None else list(dict.fromkeys(fields))


def _invalid_search(error: SearchError) -> RequestError:
    """Return the error of a search with the name that its argument has in a request."""
    argument, _, rule = str(error).partition(": ")
    field = FIELD_OF_ARGUMENT.get(argument)
    message = str(error) if field in (None, argument) or argument == "offset + top_k" else f"{field}: {rule}"
    return RequestError("invalid_search", message, field=field)
