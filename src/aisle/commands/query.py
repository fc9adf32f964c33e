"""Answers from an index."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aisle.commands.answers import answer_table, chosen_fields
from aisle.commands.index_settings import QuerySettings
from aisle.commands.output import Output, json_ready, quieten_libraries
from aisle.errors import DataError
from aisle.index import SearchIndex, SearchResult, open_index, parse_filter
from aisle.index.hybrid_search import candidate_depth

if TYPE_CHECKING:
    from aisle.models.encoder import TorchEncoder

PROMPT = "query> "


def query(settings: QuerySettings) -> None:
    """Answer the queries that were given, or ask for queries until there are no more.

    Raises:
        AisleError: the index or its encoder cannot be used, or the queries not be read.
    """
    output = Output(json_only=settings.json)
    texts = list(settings.text)
    if settings.queries_file is not None:
        texts += _read_lines(Path(settings.queries_file))
    _refuse_blank(texts)
    index_dir = Path(settings.index_dir)
    index = open_index(index_dir)
    _check_where(settings, index)
    chosen_fields(settings.fields, index)
    encoder = None
    if settings.mode != "lexical":
        from aisle.search.encoders import encoder_of_index  # imports torch

        quieten_libraries()
        encoder = encoder_of_index(
            index.manifest,
            index_dir,
            model=settings.model,
            base_model=settings.base_model,
            trust_remote_code=settings.trust_remote_code,
        )
    if texts:
        _answer(texts, index, encoder, settings, output)
        return
    if sys.stdin.isatty() and not settings.json:
        for text in _typed(output):
            _answer([text], index, encoder, settings, output)
        return
    piped = [line.strip() for line in sys.stdin if line.strip()]
    if not piped:
        raise DataError("standard input has no query; give one on each line, or as an argument")
    _answer(piped, index, encoder, settings, output)


def _answer(
    texts: Sequence[str],
    index: SearchIndex,
    encoder: TorchEncoder | None,
    settings: QuerySettings,
    output: Output,
) -> None:
    found = _search(texts, index, encoder, settings)
    none_satisfies = settings.where is not None and not found.rows.shape[1]
    if none_satisfies:
        output.say(f"no product satisfies --where {settings.where!r}")
    answers = []
    fields = chosen_fields(settings.fields, index)
    for row, text in enumerate(texts):
        results = _results(index, found, row, text, settings, fields)
        answers.append({"query": text, "results": results})
        if not settings.json and not none_satisfies:
            output.show(answer_table(text, results, fields=fields), whole_lines=True)
    output.document(answers)


def _results(
    index: SearchIndex,
    found: SearchResult,
    row: int,
    text: str,
    settings: QuerySettings,
    fields: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Return the answers to one query, best first: at most --top_k, without those below --min_score."""
    judged = found.scores if found.cosines is None else found.cosines
    kept = found.rows[row] >= 0
    if settings.min_score is not None:
        kept &= judged[row] >= settings.min_score
        if found.cosines is not None and index.lexical is not None:
            # What is asked for by its id is no guess, however little its text is like an id.
            kept |= (found.rows[row] >= 0) & np.isin(found.rows[row], index.lexical.named(text))
    places = np.flatnonzero(kept)[: settings.top_k]
    payload = index.payload(found.rows[row][places])
    results = []
    for rank, (place, columns) in enumerate(zip(places.tolist(), payload, strict=True), start=1):
        scores = {"score": float(found.scores[row, place])}
        if found.cosines is not None:
            scores["cosine"] = float(found.cosines[row, place])
        product_id = str(found.product_ids[row, place])
        results.append(
            {"rank": rank, **scores, "product_id": product_id, "payload": _payload(columns, fields)}
        )
    return results


def _payload(columns: Mapping[str, Any], fields: Sequence[str] | None) -> Any:
    return json_ready(columns if fields is None else {name: columns[name] for name in fields})


def _search(
    texts: Sequence[str], index: SearchIndex, encoder: TorchEncoder | None, settings: QuerySettings
) -> SearchResult:
    embeddings = None if encoder is None else encoder.encode_queries(texts)
    return index.search(
        embeddings,
        queries=texts,
        mode=settings.mode,
        # A hybrid order is not that of the cosines: products that have --min_score may come late in it.
        top_k=_depth(index, settings),
        fusion=settings.fusion,
        weight=settings.hybrid_weight,
        ef_search=settings.ef_search,
        exact=settings.exact,
        where=settings.where,
    )


def _depth(index: SearchIndex, settings: QuerySettings) -> int:
    if settings.mode == "hybrid" and settings.min_score is not None:
        return candidate_depth(settings.top_k, count=len(index))
    return settings.top_k


def _typed(output: Output) -> Iterator[str]:
    """Yield what is typed, until the end of input or an empty line."""
    # Importing it gives `input` the arrow keys: editing, and the queries before.
    with suppress(ImportError):
        import_module("readline")
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


def _check_where(settings: QuerySettings, index: SearchIndex) -> None:
    """Refuse a filter before the encoder is loaded for it."""
    if settings.where is not None:
        parse_filter(settings.where, index.products.schema)


def _refuse_blank(texts: Sequence[str]) -> None:
    if any(not text.strip() for text in texts):
        raise DataError("a query is blank; give some text")
