"""Format figures and sentences of the report: three decimals, intervals in brackets, signs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from aisle.evaluation.document import Estimate, Evaluation, PairsRow, RetrievalRow
from aisle.evaluation.headline import advice, headline
from aisle.evaluation.number_format import UNDEFINED, counted

__all__ = [
    "advice_of",
    "bounds",
    "byte_count",
    "clean",
    "clipped",
    "count",
    "encodable",
    "figure",
    "headline_of",
    "listing",
    "metric_name",
    "moment",
    "p_value",
    "share",
    "signed",
    "with_interval",
]

_MINUS = "\u2212"
_METRICS = {
    "ndcg": "nDCG",
    "mrr": "MRR",
    "map": "MAP",
    "recall": "Recall",
    "precision": "Precision",
    "roc_auc": "ROC-AUC",
    "average_precision": "Average precision",
    "best_f1": "Best F1",
    "spearman": "Spearman",
    "joint_pool_mrr": "MRR in the joint pool",
    "joint_pool_precision": "Precision in the joint pool",
}
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(?::[\d.]+)?(?:Z|\+00:00)?$")
_TURNS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Unicode marks that change the text direction; in a name, they would reverse the figures after it."""
_REPLACED = {"Cc": " ", "Cs": "\ufffd"}
"""Replacements by Unicode category: control characters and unpaired surrogates."""
_SCIENTIFIC_FROM = 1e6
_NAME_LENGTH = 60
"""Most characters of a system's name in a sentence."""


def figure(value: float | None) -> str:
    """Return "0.123", "12,345.000", "1.235e+09", or a dash if the figure is undefined."""
    if value is None:
        return UNDEFINED
    if abs(value) >= _SCIENTIFIC_FROM:
        return f"{value:.3e}".replace("-", _MINUS, 1 if value < 0 else 0)
    rounded = round(value, 3) + 0.0  # no -0.000
    return f"{rounded:,.3f}".replace("-", _MINUS)


def signed(value: float | None) -> str:
    """Return a difference with its sign: "+0.061", "\u22120.020", and "0.000" without a sign."""
    text = figure(value)
    return f"+{text}" if value is not None and round(value, 3) > 0 else text


def bounds(low: float | None, high: float | None, *, sign: bool = False) -> str:
    """Return "[0.040, 0.082]", or an empty text without an interval."""
    if low is None or high is None:
        return ""
    write = signed if sign else figure
    return f"[{write(low)}, {write(high)}]"


def with_interval(estimate: Estimate) -> str:
    """Return "0.061 [0.040, 0.082]"."""
    return f"{figure(estimate.value)} {bounds(estimate.low, estimate.high)}".rstrip()


def p_value(value: float) -> str:
    """Return "0.013", or "< 0.001"."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def share(value: float) -> str:
    """Return a share in [0, 1] as "12.3%"."""
    return f"{100 * value:.1f}%"


def count(value: int) -> str:
    """Return "1,234,567"."""
    return f"{value:,}"


def byte_count(size: int) -> str:
    """Return "512 B", "1.2 MB", in powers of 1000."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if amount < 1000 or unit == "TB":
            return f"{amount:,.0f} {unit}" if unit == "B" else f"{amount:,.1f} {unit}"
        amount /= 1000
    raise AssertionError("unreachable: TB has no upper limit")


def moment(date: str) -> str:
    """Return an ISO 8601 date in UTC as "2026-11-21 20:45 UTC"; other text stays unchanged."""
    found = _MOMENT.match(date)
    return f"{found[1]} {found[2]} UTC" if found else clean(date)


def metric_name(metric: str) -> str:
    """Return the display name of a metric: "nDCG@10" for "ndcg@10"; unknown names stay unchanged."""
    stem, at, cutoff = metric.partition("@")
    return f"{_METRICS[stem]}{at}{cutoff}" if stem in _METRICS else clean(metric)


def clean(text: str) -> str:
    """Return untrusted text on one line, without control characters."""
    return " ".join(encodable(text).split())


def encodable(text: str) -> str:
    """Return text that is valid in UTF-8 and HTML; control characters other than line ends become spaces."""
    kept = (
        char if char == "\n" else _REPLACED.get(unicodedata.category(char), char)
        for char in text.translate(_TURNS)
    )
    return "".join(kept)


def clipped(text: str, length: int) -> str:
    """Return cleaned text of at most `length` characters, with an ellipsis if it was cut."""
    shown = clean(text)
    return shown if len(shown) <= length else shown[: length - 1].rstrip() + "\u2026"


def listing(items: Sequence[str], *, shown: int = 20) -> str:
    """Return the first items, and the number of further items."""
    text = ", ".join(clipped(item, 60) for item in items[:shown])
    rest = len(items) - shown
    return f"{text} and {count(rest)} more" if rest > 0 else text


def headline_of(evaluation: Evaluation) -> str:
    """Return the report's first sentence: `headline.headline` if systems are compared."""
    rows = () if evaluation.retrieval is None else evaluation.retrieval.rows
    about = _about(evaluation)
    if about is not None:
        return headline(**about) + "."
    return _retrieval_headline(evaluation, rows) or _pairs_headline(evaluation) or _other_headline(evaluation)


def advice_of(evaluation: Evaluation) -> tuple[str, ...]:
    """Return advice if the tuned system is not clearly better: `headline.advice`."""
    about = _about(evaluation)
    return () if about is None else advice(**about)


def _about(evaluation: Evaluation) -> dict[str, Any] | None:
    """Return the arguments of `headline`, names shortened; None if nothing is compared."""
    metric, retrieval = evaluation.headline_metric, evaluation.retrieval
    rows = () if retrieval is None else retrieval.rows
    found = next((row for row in rows if row.name == evaluation.tuned), None)
    if retrieval is None or found is None or metric not in found.differences:
        return None
    shown = replace(retrieval, rows=tuple(replace(row, name=_name(row.name)) for row in rows))
    base = _name(evaluation.base or "base")
    return {"retrieval": shown, "base": base, "tuned": _name(found.name), "metric": metric}


def _retrieval_headline(evaluation: Evaluation, rows: Sequence[RetrievalRow]) -> str | None:
    metric = evaluation.headline_metric
    found = {row.name: estimate for row in rows if (estimate := row.metrics.get(metric)) is not None}
    defined = [name for name, estimate in found.items() if estimate.value is not None]
    if not defined or evaluation.retrieval is None:
        return None
    name = evaluation.tuned if evaluation.tuned in defined else defined[0]
    return (
        f"{_name(str(name))} reaches {metric_name(metric)} {with_interval(found[str(name)])} "
        f"over {_queries(evaluation.retrieval.queries)}."
    )


def _pairs_headline(evaluation: Evaluation) -> str | None:
    rows = () if evaluation.pairs is None else evaluation.pairs.rows
    metric = next(
        (name for name in ("roc_auc", "spearman") if any(_defined(row, name) for row in rows)), None
    )
    defined = {row.name: row.metrics[metric] for row in rows if metric is not None and _defined(row, metric)}
    if metric is None or evaluation.pairs is None:
        return None
    name = evaluation.tuned if evaluation.tuned in defined else next(iter(defined))
    sentence = (
        f"{_name(str(name))} separates {count(evaluation.pairs.pairs)} judged pairs "
        f"with {metric_name(metric)} {with_interval(defined[str(name)])}"
    )
    base = evaluation.base
    if base is not None and base != name and base in defined:
        sentence += f", {_name(base)} with {with_interval(defined[base])}"
    return sentence + "."


def _other_headline(evaluation: Evaluation) -> str:
    if evaluation.joint_pool:
        row = next(
            (row for row in evaluation.joint_pool if row.name == evaluation.tuned), evaluation.joint_pool[0]
        )
        return (
            f"{_name(row.name)} ranks a text's partner first with precision@1 "
            f"{with_interval(row.precision_at_1)}, among {count(row.texts)} texts."
        )
    if evaluation.ann_recall_at_10 is not None:
        return f"The graph finds {figure(evaluation.ann_recall_at_10)} of the exact top 10."
    return "The evaluation has no figures."


def _name(system: str) -> str:
    return clipped(system, _NAME_LENGTH)


def _defined(row: PairsRow, metric: str) -> bool:
    estimate = row.metrics.get(metric)
    return estimate is not None and estimate.value is not None


def _queries(number: int) -> str:
    return counted(number, "query", "queries")
