"""A run: the ranking of every query, by ids, in memory and in TREC's format."""

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
        query_ids: (queries,) distinct.
        product_ids: (products,) id of each row.
        rows: per query, rows of the ranked products.
        scores: per query, their scores, higher is better.

    Raises:
        EvaluationError: the lengths differ, or a query id comes twice.
    """
    query_ids = as_sequence(query_ids, "query_ids", EvaluationError)
    product_ids = as_sequence(product_ids, "product_ids", EvaluationError)
    rows, scores = list(rows), list(scores)
    if not len(query_ids) == len(rows) == len(scores):
        raise EvaluationError(
            f"a run needs one ranking per query, found {len(query_ids)} query ids, {len(rows)} lists of rows "
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

    Products are ranked from 1 by score, equal scores by product id. trec_eval takes no notice of the
    rank, reads scores as float32, and orders equal ones by the product id from Z to A: scores that it
    would take for equal are therefore written a least step apart, so that every reader has our order.
    All others are written in full, so that reading gives the same run, but for queries without a
    product, which the format does not know. The file is written beside `path` and put in its place in
    one go; a name that ends in .gz is gzipped, the same run to the same bytes.

    Args:
        path: the file; its folder exists.
        run: {query id: {product id: score}}, higher is better.
        tag: name of the system, the last field.

    Raises:
        EvaluationError: the run has no product, a score is NaN, scores are too low to be set apart, an
            id or the tag is empty or has white space in it, or the file cannot be written.
    """
    if not any(run.values()):
        raise EvaluationError(f"{path}: the run is empty: it ranks products for no query")
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

    Scores order a ranking, higher is better, as for trec_eval. Equal scores are in the order of their
    ranks, then of their lines, and are set a least step apart, so that they stay in it. Blank lines
    are skipped.

    Raises:
        EvaluationError: the file cannot be read or holds no ranking; a line, which is named, has not
            six fields, a rank or score that is no number, or a product that the query already has; or
            the ranks of a query contradict its scores, as where these are distances.
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
        raise EvaluationError(f"{path}: the run file is empty; a line holds {_FIELDS}")
    return {query: _in_order(f"{path}, query {query!r}", products) for query, products in run.items()}


def falling_scores(place: str, scores: Iterable[float]) -> list[float]:
    """Return scores, best first, of which each is below the one before it as float32 too.

    A score that is not is lowered to the next float32 below the one before it.

    Args:
        place: what an error message names.
        scores: best first; none is NaN.

    Raises:
        EvaluationError: scores are so low that there is no number below them.
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
                    f"{place}: several scores are {score}, and no number is below it to tell them apart; "
                    "leave those products out, or give them finite scores"
                )
            score = float(value)
        falling.append(float(score))
        last = value
    return falling


def _in_order(place: str, products: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Return {product: score} best first, of {product: (score, rank)}."""
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
    """Yield a writer of UTF-8 text to an open file, through gzip if asked for; the file stays open."""
    with contextlib.ExitStack() as stack:
        # Without name and date the same run gives the same bytes.
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
            "empty or have any in it"
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
