"""Record of a query adapter in the manifest of an index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from aisle.io.record_schema import Limits, Positive, Sha256
from aisle.types.choices import AdapterKind

__all__ = ["AdapterRecord"]

Share = Annotated[float, Limits(ge=0.0, le=1.0)]
Change = Annotated[float, Limits(ge=-1.0, le=1.0)]


@dataclass(frozen=True)
class AdapterRecord:
    """The query adapter of an index, and its gain on queries that it was not trained on."""

    kind: AdapterKind
    size: Positive
    """Rank of low_rank and lora, size of the hidden layer of mlp, dimension of linear."""
    fingerprint: Sha256
    """Fingerprint of adapted query embeddings; for lora, that of its query tower."""
    base_fingerprint: str
    """Fingerprint of the query tower that the adapter takes embeddings of, or was trained from."""
    version: Positive
    """Version of the index that it was trained and measured on."""
    train_queries: Positive
    train_pairs: Positive
    held_out_queries: Positive
    """Number of queries that the gain was measured on."""
    ndcg_before: Share
    """nDCG@10 of exact search with that version, on the held-out queries."""
    ndcg_after: Share
    """nDCG@10 with the adapter."""
    gain_low: Change
    """Lower end of the paired 95% interval of the gain."""
    gain_high: Change

    @property
    def encoder_fingerprint(self) -> str:
        """Fingerprint of the query tower that embeds queries, before a function of the adapter."""
        return self.fingerprint if self.kind == "lora" else self.base_fingerprint
