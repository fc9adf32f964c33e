"""Write an evaluation into the model card of the evaluated run."""

from __future__ import annotations

from pathlib import Path

from aisle.errors import ModelError
from aisle.evaluation.document import Evaluation, Retrieval
from aisle.reporting.model_card import CHARTS, SearchResults, write_search_results

__all__ = ["write_evaluation_card"]

CHARTS_IN_CARD = 2
"""Largest number of charts in a card."""


def write_evaluation_card(run_dir: Path, evaluation: Evaluation, retrieval: Retrieval) -> Path:
    """Write the headline, the table and the charts of an evaluation into a run's card; return its path.

    Args:
        run_dir: Directory of the run that made the encoder.
        evaluation: Evaluation of the encoder.
        retrieval: Comparison of rankings in this evaluation.

    Raises:
        ModelError: If the comparison has no row of this model, or the card cannot be written.
    """
    own = next((row.metrics for row in retrieval.rows if row.kind == "tuned"), None)
    if own is None:
        found = ", ".join(row.name for row in retrieval.rows)
        raise ModelError(
            f"--model_card: needs the row tuned, and the evaluation has only {found}; leave out "
            "--base_model_row none, or add tuned to --rows"
        )
    from aisle.reporting.html import (
        alt_text,
        figures_of,
        headline_of,
        metric_name,
        png_bytes,
        tables_of,
    )

    figures = figures_of(evaluation)
    charts = [name for name in CHARTS if name in figures][:CHARTS_IN_CARD]
    table = tables_of(evaluation)["retrieval"]
    results = SearchResults(
        sentence=headline_of(evaluation),
        header=table.header,
        rows=table.rows,
        queries=retrieval.queries,
        products=retrieval.products,
        metrics={
            name: (metric_name(name), estimate.value)
            for name, estimate in own.items()
            if estimate.value is not None
        },
        alt_texts={name: alt_text(name, evaluation) for name in charts},
    )
    return write_search_results(run_dir, results, {name: png_bytes(figures[name]) for name in charts})
