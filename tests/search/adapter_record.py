"""The record of a query adapter in tests."""

from aisle.index.manifest import AdapterRecord
from tests.search.word_encoder import WordEncoder

BASE = WordEncoder().fingerprint


def record_of(adapter, *, index=BASE):
    """Return the record of a function of the embeddings of `WordEncoder`."""
    return AdapterRecord(
        kind=adapter.kind,
        size=adapter.size,
        fingerprint=adapter.fingerprint(base=BASE, index=index),
        base_fingerprint=BASE,
        version=1,
        train_queries=300,
        train_pairs=900,
        held_out_queries=60,
        ndcg_before=0.4,
        ndcg_after=0.5,
        gain_low=0.08,
        gain_high=0.12,
    )
