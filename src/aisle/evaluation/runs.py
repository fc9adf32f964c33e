"""A run: the ranking of every query, by ids, in memory and in TREC's format."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from aisle.durable import sync
from aisle.errors import EvaluationError

__all__ = ["read_trec_run", "to_run", "write_trec_run"]

_FIELDS = "query, Q0, product, rank, score, tag"


def to_run(
    query_ids: Sequence[str],
    product_ids: Sequence[str],
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

    Products are ranked from 1 by score, equal scores by product id; scores are written in full, so
    that reading gives the same run, but for queries without a product, which the format does not
    know. The file is written beside `path` and put in its place in one go; a name that ends in .gz
    is gzipped, the same run to the same bytes.

    Args:
        path: the file; its folder exists.
        run: {query id: {product id: score}}, higher is better.
        tag: name of the system, the last field.

    Raises:
        EvaluationError: the run has no product, a score is NaN, an id or the tag is empty or has
            white space in it, or the file cannot be written.
    """
    if not any(run.values()):
        raise EvaluationError(f"{path}: the run is empty: it ranks products for no query")
    beside = path.with_name(f".{path.name}.writing")
    try:
        with beside.open("wb") as file, _text_to(file, gzipped=_is_gzipped(path)) as text:
            text.writelines(_trec_lines(path, run, tag))
        sync(beside)
        os.replace(beside, path)
    except OSError as error:
        raise EvaluationError(f"{path}: the run cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):  # it is gone when all went well
            beside.unlink()


def read_trec_run(path: Path) -> dict[str, dict[str, float]]:
    """Return {query id: {product id: score}} of a TREC run file, gzipped or not, in reading order.

    Scores alone order a ranking, as for trec_eval; the rank is checked to be a whole number, and
    not used. Blank lines are skipped.

    Raises:
        EvaluationError: the file cannot be read or holds no ranking; or a line has not six fields,
            a rank or score that is no number, or a product that the query already has. The line
            is named.
    """
    run: dict[str, dict[str, float]] = {}
    try:
        with (gzip.open if _is_gzipped(path) else open)(path, "rt", encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    query, product, score = _trec_fields(f"{path}, line {number}", line)
                    products = run.setdefault(query, {})
                    if product in products:
                        raise EvaluationError(
                            f"{path}, line {number}: product {product!r} comes twice for query {query!r}; "
                            "keep one line of the two"
                        )
                    products[product] = score
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise EvaluationError(f"{path}: the run cannot be read: {reason}") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(f"{path}: a run file is UTF-8 text, found {error.reason}") from None
    if not run:
        raise EvaluationError(f"{path}: the run file is empty; a line holds {_FIELDS}")
    return run


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
        for rank, product in enumerate(ranked, start=1):
            yield f"{query} Q0 {product} {rank} {float(scores[product])!r} {tag}\n"


def _check_field(path: Path, what: str, value: str) -> None:
    if value.split() != [value]:
        raise EvaluationError(
            f"{path}: fields of a run file are separated by white space: the {what} {value!r} must not be "
            "empty or have any in it"
        )


def _trec_fields(place: str, line: str) -> tuple[str, str, float]:
    fields = line.split()
    if len(fields) != 6:
        raise EvaluationError(
            f"{place}: a line of a run file has 6 fields ({_FIELDS}), found {len(fields)}: "
            f"{line.strip()[:80]!r}"
        )
    query, _, product, rank, text, _ = fields
    try:
        int(rank)
    except ValueError:
        raise EvaluationError(f"{place}: the rank must be a whole number, found {rank!r}") from None
    try:
        score = float(text)
    except ValueError:
        raise EvaluationError(f"{place}: the score must be a number, found {text!r}") from None
    if math.isnan(score):
        raise EvaluationError(f"{place}: the score must be a number, found {text!r}")
    return query, product, score
