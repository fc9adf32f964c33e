"""An index names the query tower that it was built with; another may search it, and is noted."""

from dataclasses import dataclass

import numpy as np
import pytest

from aisle.errors import FingerprintMismatchError
from aisle.index import compact_index, open_index, read_manifest
from aisle.index.reader import query_tower_note
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


def test_another_query_tower_searches_and_is_noted_with_both_named(index_dir):
    found = Searcher(open_index(index_dir), SeparateTowers(query_fingerprint=OTHER_TOWER)).search(
        ["red sofa"], 3
    )

    assert np.isfinite(found.scores).all()
    note = query_tower_note(read_manifest(index_dir), OTHER_TOWER)
    assert f"query tower {OTHER_TOWER[:12]};" in note
    assert f"query tower {QUERY_TOWER[:12]}," in note
    assert query_tower_note(read_manifest(index_dir), QUERY_TOWER) is None


def test_another_product_tower_is_refused(index_dir):
    with pytest.raises(FingerprintMismatchError, match=OTHER_TOWER):
        Searcher(open_index(index_dir), SeparateTowers(fingerprint=OTHER_TOWER))


def test_an_index_of_a_shared_tower_may_be_searched_by_a_tuned_query_tower(tmp_path):
    manifest = write_shop(tmp_path / "index", SeparateTowers())

    found = Searcher(open_index(tmp_path / "index"), SeparateTowers()).search(["red sofa"], 3)

    assert manifest.query_tower == manifest.fingerprint
    assert np.isfinite(found.scores).all()
    assert query_tower_note(manifest, QUERY_TOWER) is not None


def test_an_encoder_with_another_query_tower_stays_over_a_new_version(index_dir):
    tuned = SeparateTowers(query_fingerprint=OTHER_TOWER)
    searcher = Searcher(open_index(index_dir), tuned, load_encoder=lambda _: SeparateTowers())

    compact_index(index_dir, threads=1)

    assert searcher.reload_if_changed()
    assert searcher.encoder is tuned


def test_the_encoder_of_a_version_with_a_new_query_tower_is_loaded(index_dir):
    new = SeparateTowers(query_fingerprint=OTHER_TOWER)
    searcher = Searcher(open_index(index_dir), SeparateTowers(), load_encoder=lambda _: new)

    write_shop(index_dir, new, query_fingerprint=OTHER_TOWER)

    assert searcher.reload_if_changed()
    assert searcher.encoder is new


def test_compacting_keeps_the_query_tower(index_dir):
    assert compact_index(index_dir, threads=1).query_fingerprint == QUERY_TOWER
