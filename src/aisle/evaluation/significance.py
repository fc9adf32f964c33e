"""Statistical significance: bootstrap intervals, paired randomisation test, Holm's correction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aisle.errors import EvaluationError
from aisle.evaluation.document import Estimate
from aisle.types.sequences import as_sequence

__all__ = [
    "SIGNIFICANT",
    "bootstrap_interval",
    "estimated_mean",
    "holm",
    "paired_differences",
    "randomisation_p",
]

SIGNIFICANT = 0.05
"""Level of significance of a corrected p-value."""
_CHUNK_SIGNS = 1 << 21
"""Signs in memory at a time: 16 MB of float64."""
_ROUNDING = 1e-12
"""Rounding error of equal values in [0, 1], and relative rounding error of their sums."""


def bootstrap_interval(
    values: NDArray[Any], *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of `values`.

    To compare two systems on the same queries, give the differences per query: if the interval
    excludes 0, another draw of queries would most likely show a difference too. With few values the
    interval is too narrow; a single value gives a point. Memory holds a single resample at a time.
    (Efron, Bootstrap methods, Annals of Statistics 7(1), 1979.)

    Args:
        values: (queries,) finite.
        confidence: Share of resampled means inside the interval, in (0, 1).
        resamples: Draws with replacement, at least 1.
        seed: Seed of the draws; the same seed gives the same interval.

    Raises:
        EvaluationError: If `values` is empty, not one-dimensional or not finite, or `confidence` or
            `resamples` is out of range.
    """
    values = _checked(values, resamples)
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence must lie between 0 and 1, found {confidence}")
    generator = np.random.default_rng(seed)
    means = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def estimated_mean(values: NDArray[Any], *, resamples: int = 1000, seed: int = 0) -> Estimate:
    """Return the mean of `values` with its `bootstrap_interval`; a single value has no interval."""
    mean = float(_checked(values, resamples).mean())
    if len(values) == 1:
        return Estimate(mean)
    return Estimate(mean, *bootstrap_interval(values, resamples=resamples, seed=seed))


def paired_differences(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `after - before`, (queries,), with 0 if they differ only by rounding; both are in [0, 1]."""
    differences = after - before
    return np.where(np.abs(differences) < _ROUNDING, 0.0, differences)


def randomisation_p(differences: NDArray[Any], *, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p-value of the paired randomisation test that the mean difference is 0.

    If two systems were equally good, each query's difference could equally have the opposite sign. The
    p-value is the share of sign patterns with a mean at least as far from 0 as the observed mean
    (Smucker, Allan and Carterette, CIKM 2007):

        p = (1 + #(sampled patterns as far from 0)) / (1 + resamples)

    The observed pattern is included, so p is never 0. If there are at most `resamples` patterns, all are
    counted and p is exact. Queries without a difference have no effect; if all are, p is 1.

    Args:
        differences: (queries,) finite, the difference of two systems.
        resamples: Sign patterns to draw, at least 1.
        seed: Seed of the draws; the same seed gives the same p.

    Raises:
        EvaluationError: If `differences` is empty, not one-dimensional or not finite, or `resamples`
            is below 1.
    """
    # scipy's permutation_test(permutation_type="samples") gives the same result, but took 2.3 s for 5,000
    # queries compared with 0.03 s here, and an evaluation runs thirty tests. A unit test compares both.
    differences = _checked(differences, resamples)
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    total = moved.sum()
    observed = abs(total) - _ROUNDING * np.abs(moved).sum()
    exact = len(moved) < resamples.bit_length()  # 2**n <= resamples
    blocks = _all_signs(len(moved)) if exact else _drawn_signs(len(moved), resamples, seed)
    # the sum with flipped signs is the sum of the others minus the sum of the flipped values
    as_far = sum(int((np.abs(total - 2 * (turned @ moved)) >= observed).sum()) for turned in blocks)
    return as_far / 2 ** len(moved) if exact else (1 + as_far) / (1 + resamples)


def holm(p_values: Iterable[float]) -> list[float]:
    """Return the p-values corrected for their number, in the order given.

    The i-th smallest of m is multiplied by m - i + 1; values never fall below their predecessor and
    never exceed 1. With values below 0.05 called significant, the probability of any false call is at
    most 5% (Holm, Scandinavian Journal of Statistics 6(2), 1979).

    Args:
        p_values: P-values in [0, 1].

    Raises:
        EvaluationError: If a value is outside [0, 1].
    """
    p_values = as_sequence(p_values, "p_values", EvaluationError)
    for value in p_values:
        if not 0 <= value <= 1:
            raise EvaluationError(f"a p-value must lie in [0, 1], found {value}")
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _checked(values: NDArray[Any], resamples: int) -> NDArray[np.float64]:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise EvaluationError(
            f"significance needs a value per query of at least one query, found shape {values.shape}"
        )
    if not np.isfinite(values).all():
        first = int(np.argmax(~np.isfinite(values)))
        raise EvaluationError(f"values must be finite, found {values[first]} at index {first}")
    if resamples < 1:
        raise EvaluationError(f"resamples must be at least 1, found {resamples}")
    return values


def _all_signs(count: int) -> Iterator[NDArray[np.float64]]:
    """Yield every pattern once: (rows, count) of 0 and 1; 1 flips the sign."""
    rows = max(1, _CHUNK_SIGNS // count)
    for start in range(0, 2**count, rows):
        patterns = np.arange(start, min(start + rows, 2**count))
        yield (patterns[:, None] >> np.arange(count) & 1).astype(np.float64)


def _drawn_signs(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield random patterns, (rows, count) of 0 and 1, the same for every size of the chunks."""
    generator = np.random.default_rng(seed)
    words = -(-count // 64)
    rows = max(1, _CHUNK_SIGNS // count)
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), words)
        bits = generator.integers(0, 2**64, shape, dtype=np.uint64).view(np.uint8)
        yield np.unpackbits(bits, axis=1, count=count).astype(np.float64)
