"""How a reranker's scores and the search's scores are blended, and whether that helps; a file of its run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aisle.errors import ModelError
from aisle.types.choices import SearchMode

__all__ = ["BLEND_FILE", "RerankBlend", "read_blend"]

BLEND_FILE = "reranking.json"
REMEDY = "remove it to use the reranker's scores alone"


@dataclass(frozen=True)
class RerankBlend:
    """Order of a reranked list, `a * retrieval + b * rerank`, fitted and measured on validation queries.

    Args:
        fingerprint: Fingerprint of the reranker.
        mode: Search mode of the list.
        depth: Products per query that were reranked.
        a: Weight of the search's score.
        b: Weight of the reranker's score, a logit.
        queries: Validation queries.
        ndcg_before: Mean nDCG@10 of the search's own list.
        ndcg_after: Mean nDCG@10 of the blended list; the weights of each query are fitted on other queries.
        gain_low: Lower bound of the mean of the paired differences, 95%.
        gain_high: Upper bound.
        milliseconds: Mean time of the reranker per query, on the machine that trained it.
    """

    fingerprint: str
    mode: SearchMode
    depth: int
    a: float
    b: float
    queries: int
    ndcg_before: float
    ndcg_after: float
    gain_low: float
    gain_high: float
    milliseconds: float

    @property
    def kept(self) -> bool:
        """Whether the reranker is used: its gain's lower bound is above zero."""
        return self.gain_low > 0

    def of(
        self, retrieval: npt.NDArray[np.float32], rerank: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return the blended scores of products, (products,) float32."""
        blended = self.a * retrieval.astype(np.float64) + self.b * rerank.astype(np.float64)
        return blended.astype(np.float32)

    @property
    def summary(self) -> str:
        """A sentence with depth, nDCG@10, its gain and the latency."""
        gain = self.ndcg_after - self.ndcg_before
        return (
            f"over the {self.depth} best products of {self.mode} search, nDCG@10 of {self.queries:,} "
            f"validation queries is {self.ndcg_before:.4f} without the reranker and {self.ndcg_after:.4f} "
            f"with it: {gain:+.4f} [{self.gain_low:+.4f}, {self.gain_high:+.4f}], in "
            f"{self.milliseconds:.0f} ms a query"
        )

    def text(self) -> str:
        """Return the contents of the file."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_blend(folder: Path, *, fingerprint: str) -> RerankBlend | None:
    """Return the blend of a reranker's folder; None if its list was not measured.

    Args:
        folder: Folder of the reranker.
        fingerprint: Fingerprint of the reranker.

    Raises:
        ModelError: The file is damaged, or was measured with another reranker.
    """
    path = folder / BLEND_FILE
    if not path.is_file():
        return None
    try:
        found = RerankBlend(**json.loads(path.read_text(encoding="utf-8")))
        sound = bool(np.isfinite([found.a, found.b, found.gain_low]).all())
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"{path}: is damaged ({error}); remove it to use the reranker's scores alone"
        ) from None
    if not sound or found.fingerprint != fingerprint:
        raise ModelError(f"{path}: is not of this reranker; remove it to use the reranker's scores alone")
    return found
