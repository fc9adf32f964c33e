"""Measure how often a calibrated search shows products for nonsense, and nothing for real queries.

aisle sample --output_dir sample
aisle build --model RUN --catalog sample/products.csv --text_template "{title} {brand}" --index_dir index
python benchmarks/nothing_found.py --sample sample --index_dir index

The probabilities are fitted on the validation queries, and p is chosen on them: the highest that leaves at
most 2%, or 5%, of them without a product. The errors are those of the 166 test queries and of the 50
nonsense queries, which play no part in either choice.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from aisle.data.judged_queries import JudgedQueries, read_judged_queries
from aisle.evaluation.isotonic_fit import calibration_error, reliability_curve
from aisle.index import SearchResult, open_index
from aisle.sample_shop.vocabulary import nonsense_queries
from aisle.search.calibrated_threshold import DEFAULT_P
from aisle.search.calibration import measure_calibration
from aisle.search.encoders import encoder_of_index
from aisle.search.searcher import Searcher
from aisle.types.choices import SearchMode

ANSWERED = (0.98, 0.95)
"""Shares of the validation queries that keep a product."""
SHOWN = 10
"""Products per query: a first page."""


@dataclass(frozen=True)
class Errors:
    """Errors of a threshold on queries that it was not chosen on."""

    mode: SearchMode
    answered_in_validation: float | None
    """Share of the validation queries that p leaves a product; None for the default p."""
    p: float
    score: float
    """Lowest score in the scale of the calibration."""
    nonsense_answered: Mapping[str, float]
    """Share of the nonsense queries with a product, by kind and "all"."""
    real_unanswered: float
    """Share of the test queries without a product."""
    relevant_lost: float
    """Share of the relevant products on the first pages that the threshold removes."""
    calibration_error: float
    """Mean distance of predicted probability and relevant share on the first pages of the test queries."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--sample", type=Path, default=Path("sample"))
    arguments.add_argument("--index_dir", type=Path, default=Path("index"))
    given = arguments.parse_args()
    index = open_index(given.index_dir)
    encoder = encoder_of_index(
        index.manifest, given.index_dir, model=None, base_model=None, trust_remote_code=False
    )
    queries = str(given.sample / "queries.csv")
    validation = read_judged_queries(queries, [str(given.sample / "validation_qrels.tsv")], None)
    test = read_judged_queries(queries, [str(given.sample / "qrels.tsv")], None)
    calibration = measure_calibration(
        index, encoder, validation.queries, validation.qrels, unjudged="not_relevant"
    )
    searcher = Searcher(replace(index, calibration=calibration), encoder, exact=True)
    kinds = ", ".join(nonsense_queries())
    print("| mode | answered in validation | p | lowest score | nonsense answered | ", end="")
    print(f"{kinds} | real unanswered | relevant lost | calibration error |")
    found = []
    for mode, scores in calibration.modes.items():
        for share in (*ANSWERED, None):
            p = DEFAULT_P if share is None else scores.highest_p(answered=share)
            chosen = "default" if share is None else f"{share:.0%}"
            if p is None:
                print(f"| {mode} | {chosen} | no p: too many queries find nothing by words |")
                continue
            errors = errors_of(searcher, mode, share, p, test)
            found.append(asdict(errors))
            nonsense = errors.nonsense_answered
            by_kind = ", ".join(f"{nonsense[kind]:.0%}" for kind in nonsense_queries())
            print(
                f"| {mode} | {chosen} | {p:.2f} | {errors.score:.3f} | {nonsense['all']:.0%} | {by_kind} "
                f"| {errors.real_unanswered:.1%} | {errors.relevant_lost:.1%} "
                f"| {errors.calibration_error:.3f} |"
            )
    print(json.dumps(found))


def errors_of(
    searcher: Searcher, mode: SearchMode, share: float | None, p: float, test: JudgedQueries
) -> Errors:
    """Return the errors of a search with the threshold p."""

    def search(queries: Sequence[str], **threshold: object) -> SearchResult:
        return searcher.search(queries, SHOWN, mode=mode, **threshold)

    calibrated = {"min_score": "calibrated", "p": p}
    texts = list(test.queries.values())
    page, kept = search(texts), search(texts, **calibrated)
    answered = {
        kind: [bool(hits) for hits in search(list(queries), **calibrated)]
        for kind, queries in nonsense_queries().items()
    }
    answered["all"] = [each for kind in list(answered.values()) for each in kind]
    scores, relevant = judged_pairs(searcher, mode, page, test)
    assert searcher.index.calibration is not None
    scale = searcher.index.calibration.modes[mode]
    return Errors(
        mode=mode,
        answered_in_validation=share,
        p=p,
        score=scale.score_at(p),
        nonsense_answered={kind: float(np.mean(each)) for kind, each in answered.items()},
        real_unanswered=float(np.mean([not hits for hits in kept])),
        relevant_lost=1 - judged_pairs(searcher, mode, kept, test)[1].sum() / relevant.sum(),
        calibration_error=calibration_error(reliability_curve(scale.probabilities_of(scores), relevant)),
    )


def judged_pairs(
    searcher: Searcher, mode: SearchMode, found: SearchResult, test: JudgedQueries
) -> tuple[np.ndarray, np.ndarray]:
    """Return the score, in the scale of the calibration, and the relevance of each product found."""
    scores, relevant = [], []
    for (query_id, text), hits in zip(test.queries.items(), found, strict=True):
        highest = searcher.index.lexical.highest_score(text) if mode == "lexical" else 1.0
        scores += [hit.score / highest for hit in hits]
        relevant += [test.qrels[query_id].get(hit.product_id, 0) > 0 for hit in hits]
    return np.array(scores), np.array(relevant)


if __name__ == "__main__":
    main()
