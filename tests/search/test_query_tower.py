"""An index names the query tower that it was built with, and refuses another."""

from dataclasses import dataclass

import numpy as np
import pytest

from aisle.errors import FingerprintMismatchError
from aisle.index import compact_index, open_index
from aisle.search.searcher import Searcher
from tests.search.word_encoder import WordEncoder, write_shop

PRODUCT_TOWER, QUERY_TOWER, OTHER_TOWER = "a" * 64, "b" * 64, "c" * 64


@dataclass(frozen=True)
class SeparateTowers(WordEncoder):
    """An encoder with a separate fingerprint of its query tower."""

    fingerprint: str = PRODUCT_TOWER
    query_fingerprint: str = QUERY_TOWER


@pytest.fixture
def index_dir(tmp_path):
    write_shop(tmp_path / "index", SeparateTowers(), query_fingerprint=QUERY_TOWER)
    return tmp_path / "index"


def test_the_query_tower_of_the_index_searches_it(index_dir):
    found = Searcher(open_index(index_dir), SeparateTowers()).search(["red sofa"], 3)

    assert found.rows.shape == (1, 3)


def test_another_query_tower_is_refused_with_both_named(index_dir):
    with pytest.raises(FingerprintMismatchError, match=rf"query tower {QUERY_TOWER}, .*tower {OTHER_TOWER}"):
        Searcher(open_index(index_dir), SeparateTowers(query_fingerprint=OTHER_TOWER))


def test_the_query_tower_is_not_checked_if_the_index_names_none(tmp_path):
    manifest = write_shop(tmp_path / "index", SeparateTowers())

    found = Searcher(open_index(tmp_path / "index"), SeparateTowers()).search(["red sofa"], 3)

    assert manifest.query_fingerprint is None
    assert np.isfinite(found.scores).all()


def test_compacting_keeps_the_query_tower(index_dir):
    assert compact_index(index_dir, threads=1).query_fingerprint == QUERY_TOWER
