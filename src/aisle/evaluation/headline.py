"""Summarise a comparison in a sentence, and give advice if no system is clearly better."""

from __future__ import annotations

from collections.abc import Iterator

from aisle.errors import EvaluationError
from aisle.evaluation.document import Difference, Retrieval, RetrievalRow
from aisle.evaluation.number_format import counted
from aisle.evaluation.significance import SIGNIFICANT

__all__ = ["advice", "headline"]

_SPELLINGS = {"ndcg": "nDCG", "mrr": "MRR"}
_POWER = (1.96 + 0.84) / 1.96
"""Half-widths of the interval at which a gain is significant in 80% of draws of the queries."""
_MOST_QUERIES = 100
"""More judging is advised up to this multiple of the present number of queries."""
_UNJUDGED = 0.1
"""Share of unjudged products in the top results from which the advice is to judge them."""


def headline(retrieval: Retrieval, *, base: str, tuned: str, metric: str = "ndcg@10") -> str:
    """Return a sentence that states whether `tuned` is better than the base.

    "tuned beats base by 0.06 nDCG@10 [0.04, 0.08]; worse on 31 of 400 queries". It "beats" or "is
    worse than" the base only if the 95% interval excludes 0 and the corrected p of the randomisation
    test, which is reliable with few queries, is below 0.05. Otherwise it "is not clearly better than"
    the base, with p, and with the reason if the interval excludes 0.

    Args:
        retrieval: Result of `compare_runs`.
        base: System that `tuned` is compared with.
        tuned: Subject of the sentence.
        metric: Metric such as "ndcg@10".

    Raises:
        EvaluationError: If the system or metric is unknown, or was not compared with a base.
    """
    _, found = _compared(retrieval, tuned, metric)
    name = _spelled(metric)
    queries = _queries(found)
    of = counted(queries, "query", "queries")
    if found.equal == queries:
        return f"{tuned} does exactly as well as {base} on each of {of} by {name}"
    digits = _digits(found.mean, found.low, found.high)
    worse = f"worse on {found.worse:,} of {of}"
    if _is_clear(found):
        verb = "beats" if found.low > 0 else "is worse than"
        nearer, farther = sorted((abs(found.low), abs(found.high)))
        size = f"{abs(found.mean):.{digits}f} {name} [{nearer:.{digits}f}, {farther:.{digits}f}]"
        return f"{tuned} {verb} {base} by {size}; {worse}"
    size = f"{found.mean:+.{digits}f} {name} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    rows = sum(metric in row.differences for row in retrieval.rows)
    return f"{tuned} is not clearly better than {base}: {size}, {_why_not(found, rows)}; {worse}"


def advice(retrieval: Retrieval, *, base: str, tuned: str, metric: str = "ndcg@10") -> tuple[str, ...]:
    """Return advice if `tuned` is not clearly better than the base, the most promising step first.

    Args:
        retrieval: Result of `compare_runs`.
        base: System that `tuned` is compared with.
        tuned: System to improve.
        metric: Metric such as "ndcg@10".

    Raises:
        EvaluationError: As for `headline`.
    """
    row, found = _compared(retrieval, tuned, metric)
    if _is_clear(found) and found.mean > 0:
        return ()
    return tuple(_advice(retrieval, row, found, base=base, metric=metric))


def _advice(
    retrieval: Retrieval, row: RetrievalRow, found: Difference, *, base: str, metric: str
) -> Iterator[str]:
    queries = _queries(found)
    needed = _needed(found)
    if not _is_clear(found) and needed is not None and needed > queries:
        yield (f"judge more queries: about {needed:,} would show a gain of this size; there are {queries:,}")
    cutoff = "10" if "10" in row.unjudged else next(iter(row.unjudged), None)
    if cutoff is not None and row.unjudged[cutoff] >= _UNJUDGED:
        before = next((other.unjudged[cutoff] for other in retrieval.rows if other.name == base), None)
        shares = f"{row.name} {row.unjudged[cutoff]:.0%}"
        shares += "" if before is None else f", {base} {before:.0%}"
        yield (
            f"judge the unjudged products among the top {cutoff} ({shares}): "
            "they count as not relevant, and to_judge.csv of --report lists them"
        )
    value = _value(row, metric)
    for other in retrieval.rows:
        reached = _value(other, metric)
        if other.kind == "hybrid" and value is not None and reached is not None and reached > value:
            yield (
                f"use hybrid search: {other.name} reaches {_spelled(metric)} {reached:.3f}, {row.name} "
                f"{value:.3f} (--mode hybrid)"
            )
    if row.kind == "tuned":
        yield (
            "train on more judged queries, for more epochs, with hard negatives or another --loss; "
            "--report lists the queries that worsened most"
        )


def _value(row: RetrievalRow, metric: str) -> float | None:
    return row.metrics[metric].value if metric in row.metrics else None


def _compared(retrieval: Retrieval, tuned: str, metric: str) -> tuple[RetrievalRow, Difference]:
    rows = {row.name: row for row in retrieval.rows}
    if tuned not in rows:
        raise EvaluationError(f"there is no system {tuned!r}; the systems are {', '.join(rows)}")
    found = rows[tuned].differences.get(metric)
    if found is None:
        known = ", ".join(rows[tuned].differences) or "none"
        raise EvaluationError(f"{tuned!r} has no difference from a base in {metric!r}; it has: {known}")
    return rows[tuned], found


def _is_clear(found: Difference) -> bool:
    return found.p_corrected < SIGNIFICANT and (found.low > 0 or found.high < 0)


def _why_not(found: Difference, comparisons: int) -> str:
    """Return p, and the reason if the interval excludes 0 but the difference is not clear."""
    p_value = f"p {found.p_value:.3f}"
    if found.p_value < SIGNIFICANT <= found.p_corrected:
        return f"{p_value}, corrected for {counted(comparisons, 'comparison')} {found.p_corrected:.3f}"
    if not (found.low > 0 or found.high < 0):
        return p_value
    moved = found.better + found.worse
    least = 2.0 ** (1 - moved)  # two of all sign patterns: the observed and its reverse
    if least * comparisons >= SIGNIFICANT:
        return (
            f"{p_value}: too few queries, since with {moved} that differ p is at least {least:.2g} and the "
            "interval is too narrow"
        )
    return f"{p_value}: too few queries for the interval to be trusted, so the test decides"


def _needed(found: Difference) -> int | None:
    """Return how many queries would show the gain in 80% of draws; None without a gain, or if too many.

    The half-width of the interval falls with the square root of the number of queries.
    """
    if found.mean <= 0:
        return None
    queries = _queries(found)
    needed = queries * (_POWER * (found.high - found.low) / 2 / found.mean) ** 2
    if needed > _MOST_QUERIES * queries:
        return None
    step = int(10 ** max(0, len(str(int(needed))) - 2))
    return -(-int(needed) // step) * step


def _queries(found: Difference) -> int:
    return found.better + found.worse + found.equal


def _spelled(metric: str) -> str:
    name, at, cutoff = metric.partition("@")
    return f"{_SPELLINGS.get(name, name)}{at}{cutoff}"


def _digits(*values: float) -> int:
    """Return the fewest decimals, 2 to 4, at which no non-zero value looks like 0."""
    return next((n for n in (2, 3) if all(round(value, n) or not value for value in values)), 4)
