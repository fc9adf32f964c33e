"""The lowest scores that reach a probability of relevance, from the calibration of the index."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aisle.errors import SearchError
from aisle.index.hybrid_search import weight_of
from aisle.index.layout import index_directory
from aisle.index.search_index import SearchIndex
from aisle.types.choices import Fusion, MinScore, SearchMode
from aisle.types.score_calibration import ScoreCalibration

__all__ = ["DEFAULT_P", "calibrated_mode", "chosen_threshold", "lowest_scores"]

DEFAULT_P = 0.5
"""Default probability of relevance: products that are more likely relevant than not."""


def chosen_threshold(min_score: MinScore | None, p: float | None) -> tuple[float | None, float | None]:
    """Return the lowest score and the lowest probability of a search; at most one of them is not None.

    Args:
        min_score: A score, "calibrated", or None for no threshold.
        p: Probability for "calibrated"; None is `DEFAULT_P`.

    Raises:
        SearchError: `min_score` is another text, or `p` is given without "calibrated" or out of range.
    """
    if min_score == "calibrated":
        chosen = DEFAULT_P if p is None else p
        if not 0 < chosen <= 1:
            raise SearchError(f"p: must be above 0 and at most 1, found {chosen}")
        return None, chosen
    if isinstance(min_score, str):
        raise SearchError(f"min_score: must be a number or 'calibrated', found {min_score!r}")
    if p is not None:
        raise SearchError(f"p: is for min_score='calibrated', found min_score {min_score}; leave one out")
    return min_score, None


def lowest_scores(
    index: SearchIndex,
    queries: Sequence[str],
    *,
    mode: SearchMode,
    p: float,
    weight: float | None = None,
    fusion: Fusion = "convex",
) -> npt.NDArray[np.float64]:
    """Return the lowest score of each query with a probability of relevance of at least `p`: (queries,).

    The scores are those of the mode's answers: cosine, BM25 or fused score. Infinity means that no score
    reaches the probability, -infinity that every score does.

    Args:
        index: Index that is searched.
        queries: Texts of the queries.
        mode: Search mode.
        p: Lowest probability of relevance, above 0 and at most 1.
        weight: Weight of the embeddings in mode "hybrid"; None is the index's weight.
        fusion: Fusion of mode "hybrid".

    Raises:
        SearchError: The index is not calibrated for the mode, or hybrid scores are fused otherwise than when
            they were calibrated.
    """
    calibration = calibrated_mode(index, mode=mode, weight=weight, fusion=fusion)
    lowest = calibration.score_at(p)
    if mode != "lexical" or index.lexical is None:
        return np.full(len(queries), lowest)
    return lowest * np.array([index.lexical.highest_score(query) for query in queries], np.float64)


def calibrated_mode(
    index: SearchIndex, *, mode: SearchMode, weight: float | None = None, fusion: Fusion = "convex"
) -> ScoreCalibration:
    """Return the calibration of a search mode.

    Args:
        index: Index that is searched.
        mode: Search mode.
        weight: As in `lowest_scores`.
        fusion: As in `lowest_scores`.

    Raises:
        SearchError: As in `lowest_scores`.
    """
    calibration = index.calibration
    found = None if calibration is None else calibration.modes.get(mode)
    if calibration is None or found is None:
        raise SearchError(f"min_score: mode {mode!r} is not calibrated {_remedy(index)}")
    if mode != "hybrid":
        return found
    if fusion != "convex":
        raise SearchError(
            "min_score: only hybrid scores of the fusion 'convex' are calibrated, found "
            f"{fusion!r}: ranks do not show how relevant a product is"
        )
    used = weight_of(index) if weight is None else weight
    if calibration.hybrid_weight is None or abs(used - calibration.hybrid_weight) > 1e-9:
        raise SearchError(
            f"min_score: hybrid scores are calibrated for the weight {calibration.hybrid_weight}, and this "
            f"search uses {used}; leave the weight out, or calibrate again if the index's weight has changed "
            f"{_remedy(index)}"
        )
    return found


def _remedy(index: SearchIndex) -> str:
    index_dir = shlex.quote(str(index_directory(index.directory)))
    return (
        f"in version {index.manifest.version} of the index; run: aisle calibrate --index_dir {index_dir} "
        "--queries QUERIES --qrels QRELS"
    )
