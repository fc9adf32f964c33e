"""The products to judge next: those on a first page that nobody has judged, as a table to fill in."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from aisle.commands.evaluate.details import Runs, Shown
from aisle.data.judged_queries import JudgedQueries
from aisle.errors import EvaluationError
from aisle.io.durable import replace_text

FILE = "to_judge.csv"
HEADER = ("query_id", "query", "product_id", "title", "relevance", "best_rank", "systems")
DEPTH = 10


@dataclass(frozen=True)
class Unjudged:
    """A product that a system shows and nobody has judged.

    Args:
        query_id: of the query.
        product_id: of the product.
        best_rank: highest place of any system, from 1.
        systems: that have it among their best `DEPTH`.
    """

    query_id: str
    product_id: str
    best_rank: int
    systems: tuple[str, ...]


def unjudged_products(runs: Runs, judged: JudgedQueries) -> list[Unjudged]:
    """Return the unjudged products among the best `DEPTH` of any system, those first that count most.

    A product that stands higher counts for more, and one that more systems show: the first of the
    list are what all systems lack a judgement of at the top of their pages.

    Args:
        runs: system -> query id -> product id -> score, best first.
        judged: queries and judgements.
    """
    found: dict[tuple[str, str], tuple[int, tuple[str, ...]]] = {}
    for query_id in judged.queries:
        known = judged.qrels[query_id]
        for system, run in runs.items():
            answers: Mapping[str, float] = run.get(query_id, {})
            for rank, product in enumerate(islice(answers, DEPTH), start=1):
                if product not in known:
                    best, systems = found.get((query_id, product), (rank, ()))
                    found[query_id, product] = min(best, rank), (*systems, system)
    listed = [Unjudged(*key, *value) for key, value in found.items()]
    return sorted(listed, key=lambda one: (one.best_rank, -len(one.systems)))


def write_to_judge(folder: Path, listed: list[Unjudged], judged: JudgedQueries, shown: Shown) -> Path:
    """Write the table, its column relevance blank, and return its path.

    Args:
        folder: of the report, which is there.
        listed: the products.
        judged: texts of the queries.
        shown: titles of the products.

    Raises:
        EvaluationError: the file cannot be written.
    """
    titles = shown.titles(one.product_id for one in listed)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for one in listed:
        query = " ".join(judged.queries[one.query_id].split())
        systems = " ".join(one.systems)
        title = titles[one.product_id]
        writer.writerow((one.query_id, query, one.product_id, title, "", one.best_rank, systems))
    path = folder / FILE
    try:
        replace_text(path, text.getvalue())
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be written: {error.strerror or error}") from None
    return path
