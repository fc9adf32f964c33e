"""Gates of an export: figures that compare a bundle with its source, and their limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aisle.bundle.bundle_record import BundlePrecision, GateResults
from aisle.errors import ModelError
from aisle.export.sample_texts import Judgements, SampleTexts, tokenizer_texts
from aisle.index.scoring import SCORE_ERROR, exact_search
from aisle.types.encoder_protocol import Encoder

TOP = 10
LARGEST_DIFFERENCE = 1e-4
LEAST_OVERLAP = 0.999
LARGEST_BATCH_DIFFERENCE = 1e-6
LOWEST_COSINE = 0.99
LOWEST_MEAN_COSINE = 0.999
LOWEST_NDCG_DIFFERENCE = -0.005
METRIC = f"ndcg@{TOP}"
BATCH_DIFFERENCE = "greatest_difference_in_a_batch"
ALONE = 32
"""Texts that are also embedded alone, and compared with their embeddings in a batch."""
LEAST_PRODUCTS = 100
"""Distinct products whose rankings are compared. With 10, every encoder has the same ten best products."""
LEAST_QUERIES = 25
"""Distinct queries whose rankings are compared. Fewer say too little about other queries (Buckley and
Voorhees, Evaluating evaluation measure stability, SIGIR 2000)."""


@dataclass(frozen=True)
class Limit:
    """Limit of a figure.

    Args:
        value: The limit, which the figure may reach.
        highest: Whether the figure must be at most the limit; if not, at least.
    """

    value: float
    highest: bool = False

    def holds(self, figure: float) -> bool:
        """Return whether a figure is within the limit; NaN is not."""
        return figure <= self.value if self.highest else figure >= self.value

    def __str__(self) -> str:
        return f"at {'most' if self.highest else 'least'} {self.value:g}"


LIMITS: dict[BundlePrecision, dict[str, Limit]] = {
    "fp32": {
        "greatest_difference": Limit(LARGEST_DIFFERENCE, highest=True),
        BATCH_DIFFERENCE: Limit(LARGEST_BATCH_DIFFERENCE, highest=True),
        f"top{TOP}_overlap": Limit(LEAST_OVERLAP),
    },
    "int8": {
        "lowest_cosine": Limit(LOWEST_COSINE),
        "mean_cosine": Limit(LOWEST_MEAN_COSINE),
        BATCH_DIFFERENCE: Limit(0, highest=True),
        f"{METRIC}_difference_low": Limit(LOWEST_NDCG_DIFFERENCE),
    },
}
"""By precision, the figures that have a limit."""


def measure(
    source: Encoder, exported: Encoder, sample: SampleTexts, precision: BundlePrecision
) -> GateResults:
    """Return the figures of an exported encoder compared with its source.

    Args:
        source: Encoder that was exported; it computes in fp32.
        exported: Encoder of the bundle.
        sample: Texts to embed with both; with judgements, their products are the whole catalogue. If it has
            too few, rankings are not compared.
        precision: Precision of the bundle.

    Raises:
        ModelError: An embedding of the bundle has infinite or undefined components.
    """
    queries = [*sample.queries, *sample.added_queries]
    products = [*sample.products, *sample.added_products]
    before = source.encode_queries(queries), source.encode_products(products)
    after = exported.encode_queries(queries), exported.encode_products(products)
    one, other = np.concatenate(before), np.concatenate(after)
    if not np.isfinite(other).all():
        raise ModelError(
            "the bundle's embeddings are not finite for some texts; the model cannot be exported"
        )
    cosines = (one * other).sum(axis=1, dtype=np.float64)
    added = np.concatenate(
        [np.arange(len(queries)) >= len(sample.queries), np.arange(len(products)) >= len(sample.products)]
    )
    figures: dict[str, Any] = {
        "texts": len(one),
        "greatest_difference": float(np.abs(one - other).max()),
        "lowest_cosine": float(cosines.min()),
        "mean_cosine": mean_cosine(cosines, added),
        BATCH_DIFFERENCE: max(
            batch_difference(exported.encode_queries, queries, after[0]),
            batch_difference(exported.encode_products, products, after[1]),
        ),
    }
    few = too_few_texts(sample)
    if few is None:
        searched, sold = len(sample.queries), len(sample.products)
        ranked_before = before[0][:searched], before[1][:sold]
        ranked_after = after[0][:searched], after[1][:sold]
        figures[f"top{TOP}_overlap"] = overlap(ranked_before, ranked_after)
        if sample.judgements is not None:
            figures |= ndcg_figures(ranked_before, ranked_after, sample.judgements)
    limits = {name: limit for name, limit in LIMITS[precision].items() if name in figures}
    failed = tuple(name for name, limit in limits.items() if not limit.holds(figures[name]))
    return GateResults(
        passed=not failed,
        figures=figures,
        limits={name: limit.value for name, limit in limits.items()},
        failed=failed,
        not_measured=() if few is None else tuple(f"{name}: {few}" for name in ranking_figures(sample)),
    )


def failures(results: GateResults, precision: BundlePrecision) -> list[str]:
    """Return each figure that is outside its limit, with the limit."""
    limits = LIMITS[precision]
    return [f"{name} is {results.figures[name]:.6g} and must be {limits[name]}" for name in results.failed]


def too_few_texts(sample: SampleTexts) -> str | None:
    """Return why a sample is too small to compare rankings; None if it is large enough."""
    products, queries = len(set(sample.products)), len(set(sample.queries))
    if products >= LEAST_PRODUCTS and queries >= LEAST_QUERIES:
        return None
    return (
        f"needs at least {LEAST_PRODUCTS} products and {LEAST_QUERIES} queries with different texts, found "
        f"{products:,} and {queries:,}"
    )


def ranking_figures(sample: SampleTexts) -> list[str]:
    """Return the names of the figures that compare rankings."""
    judged = [] if sample.judgements is None else [f"{METRIC}_difference"]
    return [f"top{TOP}_overlap", *judged]


def mean_cosine(cosines: np.ndarray, added: np.ndarray) -> float:
    """Return the mean cosine of all texts, or that of the user's own texts if it is lower.

    Texts that were added must not hide an error in a user's. The mean of fewer than `LEAST_PRODUCTS` texts
    depends on chance.

    Args:
        cosines: (texts,) cosine of a text's embeddings by both encoders.
        added: (texts,) whether a text was added.
    """
    own = cosines[~added]
    return float(min(cosines.mean(), own.mean()) if len(own) >= LEAST_PRODUCTS else cosines.mean())


Sides = tuple[np.ndarray, np.ndarray]
"""Embeddings of queries and of products."""


def batch_difference(
    encode: Callable[[list[str]], np.ndarray], texts: Sequence[str], together: np.ndarray
) -> float:
    """Return the greatest difference between a text's embedding alone and in a batch.

    Args:
        encode: Function that embeds texts of a side.
        texts: Texts of that side.
        together: (texts, dim) their embeddings in a batch.
    """
    # From everywhere in the list, the last included: it is a long one.
    rows = np.unique(np.linspace(0, len(texts) - 1, ALONE).round().astype(int))
    alone = np.concatenate([encode([texts[row]]) for row in rows])
    return float(np.abs(alone - together[rows]).max())


def overlap(before: Sides, after: Sides) -> float:
    """Return the mean share of each query's top products that both encoders rank there.

    A product whose score ties with the last place, within the error of a float32 sum, belongs there too.
    """
    top_k = min(TOP, len(before[1]))
    _, scores = exact_search(before[1], before[0], top_k=top_k)
    rows, _ = exact_search(after[1], after[0], top_k=top_k)
    own = np.einsum("qd,qkd->qk", before[0], before[1][rows])
    return float((own >= scores[:, -1:] - 2 * SCORE_ERROR).mean())


def ndcg_figures(before: Sides, after: Sides, judgements: Judgements) -> dict[str, Any]:
    """Return nDCG of both encoders, and the paired difference with the bounds of its 95% interval."""
    # Judgements need the extra `eval`, and an export without them does not.
    from aisle.evaluation.significance import bootstrap_interval, paired_differences

    values = [_ndcg(sides, judgements) for sides in (before, after)]
    differences = paired_differences(*values)
    low, high = bootstrap_interval(differences)
    return {
        "judged_queries": len(differences),
        f"{METRIC}_source": float(values[0].mean()),
        METRIC: float(values[1].mean()),
        f"{METRIC}_difference": float(differences.mean()),
        f"{METRIC}_difference_low": low,
        f"{METRIC}_difference_high": high,
    }


def _ndcg(sides: Sides, judgements: Judgements) -> np.ndarray:
    from aisle.evaluation.retrieval_metrics import evaluate_run
    from aisle.evaluation.runs import to_run

    queries, products = sides
    rows, scores = exact_search(products, queries, top_k=min(TOP, len(products)))
    run = to_run(judgements.query_ids, judgements.product_ids, rows.tolist(), scores.tolist())
    return evaluate_run(judgements.qrels, run, cutoffs=(TOP,)).per_query[METRIC]


def check_tokens(source: Any, exported: Any, sample: SampleTexts) -> int:
    """Compare the tokens of both encoders, prompts and truncation included, and return the number of texts.

    Raises:
        ModelError: A text has other tokens; the message shows it.
    """
    texts = tokenizer_texts(sample, source.tokenizer)
    prompts: Mapping[str, str] = {
        "query": source.settings.query_prompt,
        "product": source.settings.product_prompt,
    }
    for side, prompt in prompts.items():
        expected, found = (
            encoder.tokenize(texts, prompt=prompt, side=side) for encoder in (source, exported)
        )
        for number, text in enumerate(texts):
            one, other = (tokens.tokens[tokens.place[number]].tolist() for tokens in (expected, found))
            if one != other:
                raise ModelError(
                    f"{source.name}: its tokenizer.json gives other tokens than its tokenizer for the text "
                    f"{text[:60]!r}: {other[:12]} instead of {one[:12]}; the tokenizer has a setting or "
                    "Python code that a bundle cannot contain. Serve the model with torch"
                )
    return len(texts)
