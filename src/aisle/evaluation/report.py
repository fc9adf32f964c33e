"""Tables for people: metrics of several systems side by side, and what they answer to one query.

Every function returns a rich renderable; printing is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

__all__ = ["UNDEFINED", "pair_metrics_table", "side_by_side"]

UNDEFINED = "\u2013"
_PAIR_COLUMNS = {
    "roc_auc": "ROC-AUC",
    "average_precision": "AP",
    "best_f1": "best F1",
    "best_f1_threshold": "at",
    "spearman": "Spearman",
}
_WITHOUT_BEST = frozenset({"best_f1_threshold"})
"""Figures of which more is not better."""


def pair_metrics_table(
    rows: Mapping[str, Mapping[str, float | None]], *, base: str = "base", title: str = "Pairs"
) -> Table:
    """Return one row per system with its pair metrics.

    The best value of a column is bold; the other systems show their difference to `base`; an
    undefined figure is an en dash.

    Args:
        rows: {system: `PairMetrics.to_dict()`}, in the order to show; further keys are ignored.
        base: the system that differences refer to; no differences if it is not in `rows`.
        title: shown above the table.
    """
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    for heading in _PAIR_COLUMNS.values():
        table.add_column(Text(heading), no_wrap=True)
    best = {metric: _best(rows, metric) for metric in _PAIR_COLUMNS}
    reference = rows.get(base, {})
    for system, found in rows.items():
        cells = [
            _figure(
                found.get(metric),
                best=best[metric],
                reference=None if system == base or metric in _WITHOUT_BEST else reference.get(metric),
            )
            for metric in _PAIR_COLUMNS
        ]
        table.add_row(Text(_one_line(system)), *cells)
    return table


def side_by_side(
    query: str, results: Mapping[str, Sequence[tuple[float, str]]], *, title_width: int = 60
) -> Table:
    """Return the answers of several systems to one query: a column per system, a row per rank.

    Args:
        query: shown above the table.
        results: {system: [(score, product title), ...] best first}; lists may differ in length.
        title_width: characters of a title that are shown at most, at least 1.
    """
    table = Table(title=Text(f"“{_one_line(query)}”"), box=box.SIMPLE_HEAD, title_justify="left", expand=True)
    table.add_column("#", justify="right", no_wrap=True)
    for system in results:
        table.add_column(Text(system), ratio=1, overflow="fold")
    for rank in range(max(map(len, results.values()), default=0)):
        cells = [_answer(answers, rank, title_width) for answers in results.values()]
        table.add_row(str(rank + 1), *cells)
    return table


def _best(rows: Mapping[str, Mapping[str, float | None]], metric: str) -> float | None:
    """Return the largest value as shown, or None where there is nothing to choose between."""
    values = [value for row in rows.values() if (value := row.get(metric)) is not None]
    if metric in _WITHOUT_BEST or len(values) < 2:
        return None
    return round(max(values), 3)


def _figure(value: float | None, *, best: float | None, reference: float | None) -> Text:
    if value is None:
        return Text(UNDEFINED)
    cell = Text(f"{value:.3f}", style="bold" if round(value, 3) == best else "")
    if reference is None:
        return cell
    difference = round(value - reference, 3) + 0.0  # no -0.000
    style = "green" if difference > 0 else "red" if difference < 0 else "dim"
    return Text.assemble(cell, " ", (f"{difference:+.3f}", style))


def _answer(answers: Sequence[tuple[float, str]], rank: int, title_width: int) -> Text:
    if rank >= len(answers):
        return Text(UNDEFINED, style="dim")
    score, title = answers[rank]
    shown = _one_line(title)
    if len(shown) > title_width:
        shown = shown[: title_width - 1].rstrip() + "…"
    return Text.assemble((f"{score:.3f}", "dim"), " ", shown)


def _one_line(text: str) -> str:
    """Return `text` on one line and without control characters, which could drive the terminal."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
