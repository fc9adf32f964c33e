"""Read the rankings of the shop's present engine from a TREC run file, as a row of an evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from aisle.data.judged_queries import JudgedQueries, iter_ids, known_products
from aisle.errors import DataError
from aisle.evaluation.runs import read_trec_run
from aisle.types.ids import no_common_ids


@dataclass(frozen=True)
class EngineRun:
    """Rankings of another search engine.

    Args:
        name: Name of its row: the file name without endings.
        run: Query id -> product id -> score, best first, for the judged queries.
        notes: Remarks that a reader needs to compare it with other rows.
    """

    name: str
    run: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...]


def read_engine_run(
    path: Path, judged: JudgedQueries, product_ids: pa.ChunkedArray, *, cutoffs: Collection[int]
) -> EngineRun:
    """Return the rankings of a run file for the judged queries.

    Args:
        path: Path of the run file, gzipped or not.
        judged: Queries and judgements.
        product_ids: Product ids of the index.
        cutoffs: Ranks at which the metrics are taken.

    Raises:
        EvaluationError: The file is not a run.
        DataError: The run has no judged query, or no product of the index.
    """
    ranked = read_trec_run(path)
    run = {query_id: ranked[query_id] for query_id in judged.queries if query_id in ranked}
    if not run:
        raise DataError(
            no_common_ids(
                "query",
                one=f"--run {path}",
                ours=ranked,
                other="the judged queries",
                theirs=judged.queries,
                count=len(judged.queries),
            )
        )
    products = dict.fromkeys(product for scores in run.values() for product in scores)
    known = len(known_products(products, product_ids))
    if not known:
        raise DataError(
            no_common_ids(
                "product",
                one=f"--run {path}",
                ours=products,
                other="the index",
                theirs=iter_ids(product_ids),
                count=len(product_ids),
            )
        )
    name = path.name.removesuffix(".gz").partition(".")[0] or "run"
    return EngineRun(
        name, run, tuple(_notes(name, run, ranked, products=len(products), known=known, cutoffs=cutoffs))
    )


def _notes(
    name: str,
    run: Mapping[str, Mapping[str, float]],
    ranked: Mapping[str, object],
    *,
    products: int,
    known: int,
    cutoffs: Collection[int],
) -> list[str]:
    notes = []
    if len(run) < len(ranked):
        notes.append(
            f"{name}: queries that nobody has judged, which are left out: {len(ranked) - len(run):,} of "
            f"{len(ranked):,}"
        )
    if known < products:
        notes.append(
            f"{name}: products that are not in the index: {products - known:,} of {products:,}; they keep "
            "their ranks"
        )
    deepest = max(map(len, run.values()))
    beyond = [k for k in sorted(cutoffs) if k > deepest]
    if beyond:
        names = ", ".join(f"@{k}" for k in beyond)
        notes.append(
            f"{name} ranks at most {deepest:,} products per query: compared with the others, its figures "
            f"{names} are too low"
        )
    return notes
