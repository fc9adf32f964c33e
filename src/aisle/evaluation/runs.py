"""Runs (rankings of all queries, by ids) in memory and as TREC run files."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from aisle.errors import EvaluationError
from aisle.io.durable import replacing
from aisle.types.sequences import as_sequence

__all__ = ["falling_scores", "read_trec_run", "to_run", "write_trec_run"]

_FIELDS = "query, Q0, product, rank, score, tag"


def to_run(
    query_ids: Iterable[str],
    product_ids: Iterable[str],
    rows: Iterable[Iterable[int]],
    scores: Iterable[Iterable[float]],
) -> dict[str, dict[str, float]]:
    """Return {query id: {product id: score}} from rows and scores; rows below 0 are padding.

    Args:
        query_ids: Distinct ids of the queries.
        product_ids: Id of the product in each row.
        rows: Rows of the ranked products, for each query.
        scores: Scores of these products, for each query; higher is better.

    Raises:
        EvaluationError: If the lengths differ, or a query id occurs twice.
    """
    query_ids = as_sequence(query_ids, "query_ids", EvaluationError)
    product_ids = as_sequence(product_ids, "product_ids", EvaluationError)
    rows, scores = list(rows), list(scores)
    if not len(query_ids) == len(rows) == len(scores):
        raise EvaluationError(
            f"a run needs a ranking per query, found {len(query_ids)} query ids, {len(rows)} lists of rows "
            f"and {len(scores)} lists of scores"
        )
    if len(set(query_ids)) < len(query_ids):
        twice = next(query for i, query in enumerate(query_ids) if query in query_ids[:i])
        raise EvaluationError(f"query ids must be distinct, found {twice!r} twice")
    return {
        query_id: {
            product_ids[row]: float(score)
            for row, score in zip(query_rows, query_scores, strict=True)
            if row >= 0
        }
        for query_id, query_rows, query_scores in zip(query_ids, rows, scores, strict=True)
    }


def write_trec_run(path: Path, run: Mapping[str, Mapping[str, float]], *, tag: str = "aisle") -> None:
    """Write a run as lines of `query Q0 product rank score tag`, which trec_eval and ranx read.

    Products are ranked from 1 by score, equal scores by product id. trec_eval ignores the
    rank, reads scores as float32, and orders equal scores by product id from Z to A. Scores that are
    equal as float32 are therefore written with the smallest difference, so that every reader gets the
    same order. All others are written in full, so that reading gives the same run, except queries
    without a product, which the format cannot express. The file is written atomically; if its name
    ends in .gz it is gzipped, and the same run gives the same bytes.

    Args:
        path: File to write, in an existing folder.
        run: {query id: {product id: score}}, higher is better.
        tag: Name of the system, the last field.

    Raises:
        EvaluationError: If the run has no product, a score is NaN, scores are too low to separate, an id
            or the tag is empty or contains white space, or the file cannot be written.
    """
    if not any(run.values()):
        raise EvaluationError(f"{path}: the run is empty: it has no ranking")
    try:
        with (
            replacing(path) as beside,
            beside.open("wb") as file,
            _text_to(file, gzipped=_is_gzipped(path)) as text,
        ):
            text.writelines(_trec_lines(path, run, tag))
    except OSError as error:
        raise EvaluationError(f"{path}: the run cannot be written: {error.strerror or error}") from None


def read_trec_run(path: Path) -> dict[str, dict[str, float]]:
    """Return {query id: {product id: score}} of a TREC run file, gzipped or not, best first.

    Scores order a ranking, higher is better, as for trec_eval. Equal scores are ordered by rank,
    then by line, and get the smallest difference to keep this order. Blank lines are skipped.

    Raises:
        EvaluationError: If the file cannot be read or has no ranking; if a line does not have six fields,
            has a rank or score that is not a number, or repeats a product of the query (the message
            names the line); or if ranks contradict scores, for example because these are distances.
    """
    run: dict[str, dict[str, tuple[float, int]]] = {}
    try:
        with (gzip.open if _is_gzipped(path) else open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    query, product, rank, score = _trec_fields(f"{path}, line {number}", line)
                    products = run.setdefault(query, {})
                    if product in products:
                        raise EvaluationError(
                            f"{path}, line {number}: product {product!r} comes twice for query {query!r}; "
                            "keep one line of the two"
                        )
                    products[product] = score, rank
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise EvaluationError(f"{path}: the run cannot be read: {reason}") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: a run file is UTF-8 text, found {error.reason}") from None
    if not run:
        raise EvaluationError(f"{path}: the run file is empty; a line has {_FIELDS}")
    return {query: _in_order(f"{path}, query {query!r}", products) for query, products in run.items()}


def falling_scores(place: str, scores: Iterable[float]) -> list[float]:
    """Return strictly falling scores, best first, also as float32.

    A score that is not below its predecessor is lowered to the next float32 below it.

    Args:
        place: Place for error messages.
        scores: Scores, best first, without NaN.

    Raises:
        EvaluationError: If scores are so low that there is no number below them.
    """
    falling: list[float] = []
    last: np.float32 | None = None
    for score in scores:
        with np.errstate(over="ignore"):
            value = np.float32(score)
        if last is not None and not value < last:
            value = np.nextafter(last, np.float32(-np.inf))
            if not value < last:
                raise EvaluationError(
                    f"{place}: several scores are {score}, and there is no lower number to separate them; "
                    "leave those products out, or give them finite scores"
                )
            score = float(value)
        falling.append(float(score))
        last = value
    return falling


def _in_order(place: str, products: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Return {product: score}, best first, from {product: (score, rank)}."""
    ranked = sorted(products.items(), key=lambda item: (-item[1][0], item[1][1]))
    for (better, (score, rank)), (worse, (low, before)) in pairwise(ranked):
        if rank > before:
            raise EvaluationError(
                f"{place}: ranks and scores contradict each other: product {worse!r} has rank {before} and "
                f"score {low}, {better!r} has rank {rank} and score {score}. A run is ordered by its scores, "
                "higher is better: write scores that fall from rank to rank, such as 1 / rank"
            )
    scores = falling_scores(place, (score for _, (score, _) in ranked))
    return {product: score for (product, _), score in zip(ranked, scores, strict=True)}


def _is_gzipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


@contextlib.contextmanager
def _text_to(file: BinaryIO, *, gzipped: bool) -> Iterator[io.TextIOWrapper]:
    """Yield a writer of UTF-8 text to an open file, optionally through gzip; the file stays open."""
    with contextlib.ExitStack() as stack:
        # Without name and date, the same run gives the same bytes.
        zipped = gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) if gzipped else None
        inner = file if zipped is None else stack.enter_context(zipped)
        yield stack.enter_context(io.TextIOWrapper(inner, encoding="utf-8", newline="\n"))


def _trec_lines(path: Path, run: Mapping[str, Mapping[str, float]], tag: str) -> Iterator[str]:
    _check_field(path, "tag", tag)
    for query, scores in run.items():
        _check_field(path, "query id", query)
        for product, score in scores.items():
            _check_field(path, "product id", product)
            if math.isnan(score):
                raise EvaluationError(
                    f"{path}: query {query!r}, product {product!r}: a score must be a number, found NaN; "
                    "the model or its precision is at fault"
                )
        ranked = sorted(scores, key=lambda product: (-scores[product], product))
        falling = falling_scores(f"{path}, query {query!r}", (scores[product] for product in ranked))
        for rank, (product, score) in enumerate(zip(ranked, falling, strict=True), start=1):
            yield f"{query} Q0 {product} {rank} {score!r} {tag}\n"


def _check_field(path: Path, what: str, value: str) -> None:
    if value.split() != [value]:
        raise EvaluationError(
            f"{path}: fields of a run file are separated by white space: the {what} {value!r} must not be "
            "empty or contain white space"
        )


def _trec_fields(place: str, line: str) -> tuple[str, str, int, float]:
    fields = line.split()
    if len(fields) != 6:
        raise EvaluationError(
            f"{place}: a line of a run file has 6 fields ({_FIELDS}), found {len(fields)}: "
            f"{line.strip()[:80]!r}"
        )
    query, _, product, number, text, _ = fields
    try:
        rank = int(number)
    except ValueError:
        raise EvaluationError(f"{place}: the rank must be a whole number, found {number!r}") from None
    try:
        score = float(text)
    except ValueError:
        raise EvaluationError(f"{place}: the score must be a number, found {text!r}") from None
    if math.isnan(score):
        raise EvaluationError(f"{place}: the score must be a number, found {text!r}")
    return query, product, rank, score
