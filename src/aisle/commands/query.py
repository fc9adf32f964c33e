"""`aisle query`: search an index for texts and print the answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from annotated_types import Interval

from aisle.commands.command import Command
from aisle.commands.output import Output, quieten_libraries
from aisle.commands.shared_settings import (
    AdapterBase,
    ConfigFile,
    Count,
    Fraction,
    IndexDir,
    IndexModel,
    Json,
    TrustRemoteCode,
)
from aisle.commands.text_lines import read_lines
from aisle.config.annotations import Positional
from aisle.errors import DataError
from aisle.extras import require_extra
from aisle.types.choices import Fusion, MinScore, SearchMode
from aisle.types.json_values import json_ready

if TYPE_CHECKING:
    from aisle.index.search_result import Hit
    from aisle.search.candidates import Candidate
    from aisle.search.reranking import Rerank
    from aisle.search.searcher import Searcher

PROMPT = "query> "


@dataclass(frozen=True)
class QuerySettings:
    """Answer queries from an index.

    Without queries on the command line, queries are read from standard input; on a terminal, the command
    asks for them.
    """

    index_dir: IndexDir
    text: Positional[tuple[str, ...]] = ()
    """Queries."""
    queries_file: str | None = None
    """Text file with a query on each line."""
    top_k: Count = 10
    """Products per query."""
    where: str | None = None
    """Condition that products must satisfy, such as "price <= 50 and brand in ['Acme', 'Zenith']".
    It compares columns with numbers and quoted texts; in, is None, and, or, not are allowed.
    Write col('list price') for a name with spaces."""
    min_score: MinScore | None = None
    """Lowest score of a product to show: the cosine in --mode dense and hybrid, the BM25 score in --mode
    lexical. In --mode hybrid, a product is always shown if the query is its id. With calibrated, the score
    with the probability --p of being relevant, see calibrate."""
    p: Annotated[float, Interval(gt=0, le=1)] | None = None
    """Lowest probability that a product is relevant, for --min_score calibrated. If not given: 0.5."""
    fields: str | None = None
    """Columns of the catalogue to show, separated by commas, such as title,brand,price.
    If not given: the title; with --json, all columns."""
    mode: SearchMode = "dense"
    """Search by embeddings (dense), by words with BM25 (lexical), or by both (hybrid)."""
    fusion: Fusion = "convex"
    """How --mode hybrid combines both searches: by weighted scores (convex), or by reciprocal ranks (rrf)."""
    hybrid_weight: Fraction | None = None
    """Weight of the embeddings in --mode hybrid, from 0 to 1. If not given: the weight tuned for the
    index."""
    ef_search: Count | None = None
    """Candidates to compare in a search of the graph. If not given: the number that is set for the index."""
    exact: bool = False
    """Compare the query with every product instead of searching the graph."""
    reranker: str | None = None
    """Reranker (a cross-encoder) that orders the best products of the search again: the folder of a run of
    `aisle train-reranker`, its bundle, or a Hub id. The score is then its logit,
    or the blend that its run measured in the same --mode; a reranker that did not help there is dropped."""
    rerank_depth: Count = 50
    """Products per query that --reranker scores."""
    explain: bool = False
    """Show why each product has its rank: the words of the query that it has, both scores and ranks, their
    parts of the fused score, each comparison of --where, and the index version. The search is that of
    `aisle serve`, in which the best 1,000 products of each side count, so an answer may differ a little."""
    model: IndexModel = None
    base_model: AdapterBase = None
    trust_remote_code: TrustRemoteCode = False
    json: Json = False
    config: ConfigFile = None


def query_problems(settings: QuerySettings) -> list[str]:
    """Return one message for each combination of settings that cannot work."""
    problems = []
    if settings.p is not None and settings.min_score != "calibrated":
        problems.append("--p: is for --min_score calibrated; add it, or leave --p out")
    if settings.min_score == "calibrated" and settings.mode == "hybrid" and settings.fusion == "rrf":
        problems.append("--min_score calibrated: needs --fusion convex; reciprocal ranks are not calibrated")
    if settings.reranker is None and settings.rerank_depth != QuerySettings.rerank_depth:
        problems.append("--rerank_depth: needs --reranker")
    if settings.reranker is not None and settings.explain:
        problems.append("--explain: cannot be combined with --reranker, which orders only the first products")
    return problems


def query(settings: QuerySettings) -> None:
    """Answer the queries of the command line and of --queries_file, or the queries of standard input.

    Raises:
        AisleError: The index, its encoder or the queries cannot be used.
    """
    from aisle.search.started_bundle import start_bundle

    texts = list(settings.text)
    if settings.queries_file is not None:
        texts += read_lines(settings.queries_file, flag="--queries_file", what="query")
    _refuse_blank(texts)
    started = None if settings.mode == "lexical" else start_bundle(settings.index_dir, settings.model)

    from aisle.commands.answers import chosen_fields  # imported while the bundle is loaded
    from aisle.index import open_index
    from aisle.search.load_encoder import extra_for
    from aisle.search.open_searcher import open_searcher
    from aisle.search.rerank_stage import dropped_note, rerank_by, rerank_stage
    from aisle.search.rerankers import load_reranker

    output = Output(json_only=settings.json)
    index = open_index(settings.index_dir)
    fields = chosen_fields(settings.fields, index)
    if settings.mode != "lexical":
        extra = extra_for(settings.model or str(index.manifest.encoder.get("model")))
        require_extra(extra)
        if extra == "encode":
            quieten_libraries()
    rerank: Rerank | None = None
    if settings.reranker is not None:
        require_extra(extra_for(settings.reranker))
        quieten_libraries()
        reranker = load_reranker(settings.reranker)
        mode = None if settings.fusion == "rrf" else settings.mode
        rerank = rerank_by(reranker, mode=mode)
        if rerank_stage(reranker, mode) is None:
            output.log(dropped_note(reranker))
            rerank = None
    searcher = open_searcher(
        index,
        mode=settings.mode,
        model=settings.model,
        base_model=settings.base_model,
        trust_remote_code=settings.trust_remote_code,
        where=settings.where,
        fusion=settings.fusion,
        weight=settings.hybrid_weight,
        ef_search=settings.ef_search,
        exact=settings.exact,
        rerank=rerank,
        rerank_depth=settings.rerank_depth,
        log=output.log,
        started=started,
    )
    if texts:
        _answer(texts, searcher, fields, settings, output)
        return
    if sys.stdin.isatty() and not settings.json:
        for text in _typed(output):
            _answer([text], searcher, fields, settings, output)
        return
    piped = [line.strip() for line in sys.stdin if line.strip()]
    if not piped:
        raise DataError("standard input has no query; give a query on each line, or as an argument")
    _answer(piped, searcher, fields, settings, output)


def _answer(
    texts: Sequence[str],
    searcher: Searcher,
    fields: Sequence[str] | None,
    settings: QuerySettings,
    output: Output,
) -> None:
    """Search for the queries and print their answers."""
    from aisle.commands.answers import answer_table

    found = (_explained if settings.explain else _found)(texts, searcher, fields, settings)
    where = settings.where
    none_satisfies = where is not None and not any(found) and not searcher.index.satisfying(where).any()
    if none_satisfies:
        output.log(f"no product satisfies --where {where!r}")
    for text, results in zip(texts, found, strict=True):
        if not settings.json and not none_satisfies:
            output.show(answer_table(text, results, fields=fields), whole_lines=True)
            for result in results if settings.explain else ():
                output.log(result["explain"]["text"] + "\n")
    output.document([{"query": text, "results": results} for text, results in zip(texts, found, strict=True)])


Results: TypeAlias = list[dict[str, Any]]
"""The answer to a query for JSON."""


def _found(
    texts: Sequence[str], searcher: Searcher, fields: Sequence[str] | None, settings: QuerySettings
) -> list[Results]:
    """Return the answer to each query, with all columns or the columns of `fields`."""
    found = searcher.search(texts, settings.top_k, min_score=settings.min_score, p=settings.p)
    return [
        [
            _result(hit, hit.cosine, columns, fields)
            for hit, columns in zip(found[number], found.payloads(number), strict=True)
        ]
        for number in range(len(texts))
    ]


def _explained(
    texts: Sequence[str], searcher: Searcher, fields: Sequence[str] | None, settings: QuerySettings
) -> list[Results]:
    """Return the answer to each query, with an explanation of each product."""
    from aisle.search.candidates import WINDOW
    from aisle.search.explain import Explainer

    window = max(WINDOW, settings.top_k)
    found = searcher.candidates(texts, min_score=settings.min_score, p=settings.p, window=window)
    return [
        [
            {
                **_result(hit, hit.scores["dense"] if "fused" in hit.scores else None, hit.payload, fields),
                "explain": explainer.explain(hit).document(),
            }
            for hit in candidates.page(0, settings.top_k)
        ]
        for candidates, explainer in ((candidates, Explainer(candidates)) for candidates in found)
    ]


def _result(
    hit: Hit | Candidate, cosine: float | None, columns: Mapping[str, Any], fields: Sequence[str] | None
) -> dict[str, Any]:
    """Return a product of an answer; the cosine is given if the score is another."""
    return {
        "rank": hit.rank,
        "score": hit.score,
        **({} if cosine is None else {"cosine": cosine}),
        "product_id": hit.product_id,
        "payload": json_ready(columns if fields is None else {name: columns[name] for name in fields}),
    }


def _typed(output: Output) -> Iterator[str]:
    """Yield the queries that the user types, until the end of input or an empty line."""
    # Importing readline gives `input` the arrow keys: to edit a line, and to repeat earlier queries.
    with suppress(ImportError):
        import readline  # noqa: F401
    output.log("type a query; an empty line ends")
    while True:
        try:
            text = input(PROMPT).strip()
        except EOFError:
            return
        if not text:
            return
        yield text


def _refuse_blank(texts: Sequence[str]) -> None:
    if any(not text.strip() for text in texts):
        raise DataError("a query is blank; give some text")


COMMAND = Command("query", QuerySettings, query, problems=query_problems)
