"""`aisle query`: search an index for texts and print the answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from tyro.conf import Positional

from aisle.commands.command import Command
from aisle.commands.output import Output, json_ready, quieten_libraries
from aisle.errors import DataError
from aisle.extras import require_extra

if TYPE_CHECKING:
    from aisle.index.search_result import Hit
    from aisle.search.searcher import Searcher

PROMPT = "query> "
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class QuerySettings:
    """Answer queries from an index.

    Without queries, they are read from standard input; on a terminal the command asks for them.
    """

    index_dir: str
    """Folder of the index."""
    text: Positional[tuple[str, ...]] = ()
    """Queries."""
    queries_file: str | None = None
    """File with a query on each line."""
    top_k: Count = 10
    """Products per query; more than there are gives all of them."""
    where: str | None = None
    """Only products that satisfy this, such as "price <= 50 and brand in ['Acme', 'Zenith']": comparisons
    of columns with numbers and quoted texts, in, is None, and, or, not; col('list price') for odd names."""
    min_score: float | None = None
    """Leave out products with a lower score: their cosine in --mode dense and hybrid (not the hybrid score),
    their BM25 score in --mode lexical. In --mode hybrid a product whose id is the query stays."""
    fields: str | None = None
    """Columns of the catalogue to show, such as title,brand,price; the title when not given, and with --json
    all of them."""
    mode: Literal["dense", "lexical", "hybrid"] = "dense"
    """Search by embeddings, by words (BM25), or by both."""
    fusion: Literal["convex", "rrf"] = "convex"
    """How --mode hybrid joins the two: weighted scores, or reciprocal ranks, which have no weight."""
    hybrid_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Weight of the embeddings in --mode hybrid, 0 to 1; what the index was tuned to when not given."""
    ef_search: Count | None = None
    """Candidates kept while searching; what the index was built with when not given."""
    exact: bool = False
    """Compare with every product instead of following the graph."""
    model: str | None = None
    """The encoder that made the index, if it has moved."""
    base_model: str | None = None
    """The base of its adapter, if it has moved."""
    trust_remote_code: bool = False
    """Run the Python code that the model's repository brings."""
    json: bool = False
    """Print one JSON document on stdout; everything else goes to stderr."""
    config: str | None = None
    """YAML file with defaults for any of these flags; flags given here win."""


def query(settings: QuerySettings) -> None:
    """Answer the queries of the settings, or else those that are typed or piped in.

    Raises:
        AisleError: The index, its encoder or the queries cannot be used.
    """
    from aisle.commands.answers import chosen_fields
    from aisle.index import open_index
    from aisle.search.open_searcher import open_searcher

    output = Output(json_only=settings.json)
    texts = list(settings.text)
    if settings.queries_file is not None:
        texts += _read_lines(Path(settings.queries_file))
    _refuse_blank(texts)
    index = open_index(settings.index_dir)
    fields = chosen_fields(settings.fields, index)
    if settings.mode != "lexical":
        require_extra("encode")
        quieten_libraries()
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
        raise DataError("standard input has no query; give one on each line, or as an argument")
    _answer(piped, searcher, fields, settings, output)


def _answer(
    texts: Sequence[str],
    searcher: Searcher,
    fields: Sequence[str] | None,
    settings: QuerySettings,
    output: Output,
) -> None:
    """Search for texts and print their answers."""
    from aisle.commands.answers import answer_table

    found = searcher.search(texts, settings.top_k, min_score=settings.min_score)
    none_satisfies = settings.where is not None and not found.rows.shape[1]
    if none_satisfies:
        output.say(f"no product satisfies --where {settings.where!r}")
    answers = []
    for number, text in enumerate(texts):
        results = _results(found[number], found.payloads(number), fields)
        answers.append({"query": text, "results": results})
        if not settings.json and not none_satisfies:
            output.show(answer_table(text, results, fields=fields), whole_lines=True)
    output.document(answers)


def _results(
    hits: Sequence[Hit], payloads: Sequence[Mapping[str, Any]], fields: Sequence[str] | None
) -> list[dict[str, Any]]:
    """Return the hits of one query as JSON has them, with all columns or those of `fields`."""
    return [
        {
            "rank": hit.rank,
            "score": hit.score,
            **({} if hit.cosine is None else {"cosine": hit.cosine}),
            "product_id": hit.product_id,
            "payload": json_ready(columns if fields is None else {name: columns[name] for name in fields}),
        }
        for hit, columns in zip(hits, payloads, strict=True)
    ]


def _typed(output: Output) -> Iterator[str]:
    """Yield the queries that are typed, until the end of input or an empty line."""
    # Importing readline gives `input` the arrow keys: to edit a line, and to repeat earlier queries.
    with suppress(ImportError):
        import readline  # noqa: F401
    output.say("type a query; an empty line ends")
    while True:
        try:
            text = input(PROMPT).strip()
        except EOFError:
            return
        if not text:
            return
        yield text


def _read_lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"--queries_file {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--queries_file {path}: cannot be read as UTF-8 text: {error}") from None
    queries = [line.strip() for line in lines if line.strip()]
    if not queries:
        raise DataError(f"--queries_file {path}: has no query; give one on each line")
    return queries


def _refuse_blank(texts: Sequence[str]) -> None:
    if any(not text.strip() for text in texts):
        raise DataError("a query is blank; give some text")


COMMAND = Command("query", QuerySettings, query)
