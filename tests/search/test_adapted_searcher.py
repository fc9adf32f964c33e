"""A searcher applies the query adapter of the version that it has open."""

from dataclasses import dataclass

import numpy as np
import pytest

from aisle.errors import FingerprintMismatchError
from aisle.index import open_index, rollback
from aisle.index.adapt_index import TrainedFunction, adapt_index
from aisle.index.query_adapter import QueryAdapter
from aisle.search.searcher import Searcher
from tests.search.adapter_record import BASE, record_of
from tests.search.word_encoder import DIM, WordEncoder, write_shop

OPPOSITE = QueryAdapter("linear", {"weight": -np.eye(DIM, dtype=np.float32)})
RECORD = record_of(OPPOSITE)


@dataclass(frozen=True)
class OtherQueryTower(WordEncoder):
    """An encoder of the same products with another query tower."""

    query_fingerprint: str = "c" * 64


@pytest.fixture
def index_dir(tmp_path):
    write_shop(tmp_path / "index")
    return tmp_path / "index"


def publish(index_dir):
    adapt_index(index_dir, lambda _: TrainedFunction(OPPOSITE, RECORD))


def ids(searcher, **options):
    return searcher.search(["red sofa"], 60, exact=True, **options).scores[0]


def test_every_search_uses_the_adapted_embedding(index_dir):
    before = Searcher(open_index(index_dir), WordEncoder())
    publish(index_dir)
    after = Searcher(open_index(index_dir), WordEncoder())

    np.testing.assert_allclose(ids(after), -ids(before)[::-1], atol=1e-6)
    assert np.array_equal(after.encode(["red sofa"]), -before.encode(["red sofa"]))
    found = after.candidates(["red sofa"], exact=True)[0].page(0, 60)
    np.testing.assert_allclose([one.score for one in found], ids(after), atol=1e-6)
    given = after.search(["red sofa"], 60, exact=True, query_embeddings=after.encode(["red sofa"]))
    assert np.array_equal(given.scores[0], ids(after))


def test_a_reload_switches_the_adapter_and_its_fingerprint(index_dir):
    searcher = Searcher(open_index(index_dir), WordEncoder())
    before, plain = ids(searcher), searcher.query_fingerprint
    publish(index_dir)

    assert searcher.reload_if_changed()
    assert (plain, searcher.query_fingerprint) == (BASE, RECORD.fingerprint)
    np.testing.assert_allclose(ids(searcher), -before[::-1], atol=1e-6)
    rollback(index_dir)
    assert searcher.reload_if_changed()
    assert searcher.query_fingerprint == BASE
    assert np.array_equal(ids(searcher), before)


def test_another_query_tower_than_the_adapters_is_refused_with_both_named(index_dir):
    publish(index_dir)

    with pytest.raises(FingerprintMismatchError, match=rf"query tower {BASE}, .*embedded by {'c' * 64}"):
        Searcher(open_index(index_dir), OtherQueryTower())
