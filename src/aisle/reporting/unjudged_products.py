"""Table of products to judge next: unjudged products that a system ranks high."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from aisle.errors import EvaluationError
from aisle.io.durable import replace_text
from aisle.reporting.product_labels import ProductLabels

FILE = "to_judge.csv"
HEADER = ("query_id", "query", "product_id", "title", "relevance", "best_rank", "systems")
DEPTH = 10


@dataclass(frozen=True)
class Unjudged:
    """A product that a system ranks among its best `DEPTH` without a judgement.

    Args:
        query_id: Id of the query.
        product_id: Id of the product.
        best_rank: Best rank of any system, from 1.
        systems: Systems that rank it among their best `DEPTH`.
    """

    query_id: str
    product_id: str
    best_rank: int
    systems: tuple[str, ...]


def unjudged_products(
    runs: Mapping[str, Mapping[str, Mapping[str, float]]],
    *,
    query_ids: Iterable[str],
    qrels: Mapping[str, Mapping[str, float]],
) -> list[Unjudged]:
    """Return the unjudged products among the best `DEPTH` of any system, the most useful to judge first.

    A product comes earlier if its best rank is higher, then if more systems rank it.

    Args:
        runs: System -> query id -> product id -> score, best first.
        query_ids: Ids of the judged queries.
        qrels: Query id -> product id -> relevance.
    """
    found: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {}
    for query_id in query_ids:
        known = qrels[query_id]
        for system, run in runs.items():
            answers: Mapping[str, float] = run.get(query_id, {})
            for rank, product in enumerate(islice(answers, DEPTH), start=1):
                if product not in known:
                    best, systems = found.get((query_id, product), (rank, ()))
                    found[query_id, product] = min(best, rank), (*systems, system)
    listed = [Unjudged(*key, *value) for key, value in found.items()]
    return sorted(listed, key=lambda each: (each.best_rank, -len(each.systems)))


def write_unjudged(
    folder: Path, listed: Sequence[Unjudged], *, queries: Mapping[str, str], labels: ProductLabels
) -> Path:
    """Write the products as a table with an empty column relevance; return its path.

    Args:
        folder: Folder of the report, which exists.
        listed: Products to judge.
        queries: Query id -> text.
        labels: Titles of the products.

    Raises:
        EvaluationError: If the file cannot be written.
    """
    titles = labels.titles(each.product_id for each in listed)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for each in listed:
        query = " ".join(queries[each.query_id].split())
        systems = " ".join(each.systems)
        title = titles[each.product_id]
        writer.writerow((each.query_id, query, each.product_id, title, "", each.best_rank, systems))
    path = folder / FILE
    try:
        replace_text(path, text.getvalue())
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path
