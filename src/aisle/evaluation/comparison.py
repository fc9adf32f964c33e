"""Compare systems on the same judged queries: means with intervals, and differences from a base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from aisle.errors import EvaluationError
from aisle.evaluation.document import Difference, Retrieval, RetrievalRow, SystemKind
from aisle.evaluation.retrieval_metrics import DEFAULT_CUTOFFS, RetrievalMetrics, evaluate_run
from aisle.evaluation.significance import (
    bootstrap_interval,
    estimated_mean,
    holm,
    paired_differences,
    randomisation_p,
)
from aisle.types.sequences import as_sequence

__all__ = ["compare_runs"]


def compare_runs(
    runs: Mapping[str, Mapping[str, Mapping[str, float]]],
    qrels: Mapping[str, Mapping[str, float]],
    *,
    kinds: Mapping[str, SystemKind],
    base: str | None,
    products: int,
    known_products: Iterable[str],
    unknown_queries: Iterable[str] = (),
    cutoffs: Iterable[int] = DEFAULT_CUTOFFS,
    relevant_from: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Retrieval, dict[str, RetrievalMetrics]]:
    """Return the comparison, and the metrics per query of each system.

    All means are over the same queries: those with a text and a relevant product. Judged queries in
    `unknown_queries` have no text, so they are listed and left out of all means. Judged products that
    are not in the catalogue count as missed, and are listed.

    Every figure has a 95% bootstrap interval over queries. Every row except the base has the paired
    differences from the base, with the interval of the difference. Their p-values come from the paired
    randomisation test (10,000 sign patterns), corrected by Holm's method for the number of rows,
    separately for each metric.

    Args:
        runs: {system: {query id: {product id: score}}}, in the order of the rows.
        qrels: {query id: {product id: relevance >= 0}}.
        kinds: Kind of each system, by name.
        base: System to compare the others with; None for no differences.
        products: Size of the catalogue.
        known_products: Ids in the catalogue, at least those of the judged products.
        unknown_queries: Ids of judged queries missing from the queries file.
        cutoffs: Values of k for the metrics, each at least 1.
        relevant_from: Lowest relevance, above 0, of a relevant product; None means above 0.
        resamples: Bootstrap draws per interval.
        seed: Seed of all draws; the same seed gives the same document.

    Raises:
        EvaluationError: If there is no system, `base` or a kind names an unknown system, no judged query
            has a text, or `evaluate_run` refuses a run; the message names the run.
    """
    _check(runs, kinds, base)
    cutoffs = as_sequence(cutoffs, "cutoffs", EvaluationError)
    known = frozenset(as_sequence(known_products, "known_products", EvaluationError))
    unknown_queries = as_sequence(unknown_queries, "unknown_queries", EvaluationError)
    unknown = frozenset(unknown_queries)
    asked = {query: judged for query, judged in qrels.items() if query not in unknown}
    if qrels and not asked:
        raise EvaluationError(
            f"the queries file has no judged query (of {len(qrels)}, for example {next(iter(qrels))!r}); "
            "both files must use the same ids"
        )
    metrics = {}
    for name, run in runs.items():
        try:
            metrics[name] = evaluate_run(
                asked, run, cutoffs=cutoffs, relevant_from=relevant_from, known_products=known
            )
        except EvaluationError as error:
            raise EvaluationError(f"{name}: {error}") from None
    differences = {} if base is None else _differences(metrics, base, resamples=resamples, seed=seed)
    rows = tuple(
        RetrievalRow(
            name=name,
            kind=kinds[name],
            metrics={
                metric: estimated_mean(values, resamples=resamples, seed=seed)
                for metric, values in found.per_query.items()
            },
            differences=differences.get(name, {}),
            unjudged=found.unjudged_shares,
            unanswered=len(found.unanswered),
        )
        for name, found in metrics.items()
    )
    any_system = next(iter(metrics.values()))
    retrieval = Retrieval(
        rows=rows,
        queries=any_system.queries,
        products=products,
        judgements=sum(map(len, qrels.values())),
        without_relevant=len(any_system.without_relevant),
        unknown_queries=tuple(unknown_queries),
        unknown_products=tuple(sorted(frozenset().union(*qrels.values()) - known)),
    )
    return retrieval, metrics


def _check(runs: Mapping[str, object], kinds: Mapping[str, SystemKind], base: str | None) -> None:
    if not runs:
        raise EvaluationError("there is no system to evaluate; give at least one run")
    if base is not None and base not in runs:
        raise EvaluationError(f"the base {base!r} has no run; the systems are {', '.join(runs)}")
    without = [name for name in runs if name not in kinds]
    if without:
        raise EvaluationError(f"kinds must name every system, {without[0]!r} is missing")


def _differences(
    metrics: Mapping[str, RetrievalMetrics], base: str, *, resamples: int, seed: int
) -> dict[str, dict[str, Difference]]:
    """Return {system: {metric: difference from the base}} for all systems except the base."""
    others = [name for name in metrics if name != base]
    found: dict[str, dict[str, Difference]] = {name: {} for name in others}
    for metric, before in metrics[base].per_query.items():
        differences = [paired_differences(before, metrics[name].per_query[metric]) for name in others]
        p_values = [randomisation_p(values, seed=seed) for values in differences]
        for name, values, p_value, corrected in zip(
            others, differences, p_values, holm(p_values), strict=True
        ):
            low, high = bootstrap_interval(values, resamples=resamples, seed=seed)
            found[name][metric] = Difference(
                mean=float(values.mean()),
                low=low,
                high=high,
                p_value=p_value,
                p_corrected=corrected,
                better=int((values > 0).sum()),
                worse=int((values < 0).sum()),
                equal=int((values == 0).sum()),
            )
    return found
