"""Threads that search one searcher while another changes the index under it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, product

import numpy as np
import pyarrow as pa

from aisle.index import open_index, upsert_products
from aisle.search.searcher import Searcher
from tests.search.word_encoder import NOUNS, WordEncoder, write_shop

ENCODER = WordEncoder()
QUERIES = [["red sofa"], ["blue lamp", "p007", "zeppelin"], ["white desk chair", "green"]]
SEARCHES = [
    {"queries": queries, "top_k": 9, "mode": mode, "where": where, "exact": exact}
    for queries, mode, where, exact in product(
        QUERIES, ("dense", "lexical", "hybrid"), (None, "price < 20"), (False, True)
    )
]
VERSIONS = 6


def upsert(index_dir, number):
    titles = [f"red {noun} zeppelin" for noun in NOUNS]
    return upsert_products(
        index_dir,
        products=pa.table(
            {
                "product_id": [f"new{number}-{noun}" for noun in NOUNS],
                "__text__": titles,
                "title": titles,
                "price": [number] * len(titles),
            }
        ),
        embeddings=[ENCODER.encode_products(titles)],
        fingerprint=ENCODER.fingerprint,
        threads=1,
        keep_versions=VERSIONS,
    )


def test_every_answer_comes_from_the_version_it_names(tmp_path):
    index_dir = tmp_path / "index"
    write_shop(index_dir, keep_versions=VERSIONS)
    searcher = Searcher(open_index(index_dir), ENCODER)
    finished = threading.Event()

    def search(first):
        found = []
        for at in cycle([*range(first, len(SEARCHES)), *range(first)]):
            found.append((at, searcher.search(**SEARCHES[at])))
            if finished.is_set():
                return found
        return found

    def change():
        try:
            for number in range(1, VERSIONS):
                upsert(index_dir, number)
                assert searcher.reload_if_changed() is True
        finally:
            finished.set()

    with ThreadPoolExecutor(9) as pool:
        searching = [pool.submit(search, 4 * number) for number in range(8)]
        pool.submit(change).result()
        found = [answer for each in searching for answer in each.result()]

    alone = {
        version: Searcher(open_index(index_dir, version=version), ENCODER)
        for version in {result.version for _, result in found}
    }
    expected = {}
    for at, result in found:
        key = at, result.version
        if key not in expected:
            expected[key] = alone[result.version].search(**SEARCHES[at])
        np.testing.assert_array_equal(result.rows, expected[key].rows)
        np.testing.assert_array_equal(result.scores, expected[key].scores)
        np.testing.assert_array_equal(result.product_ids, expected[key].product_ids)
    assert {1, VERSIONS} & set(alone)
    assert len(alone) > 1


def test_a_search_does_not_wait_for_a_reload(tmp_path):
    """A search in the middle of another thread's reload answers at once, from the old version."""
    write_shop(tmp_path / "index")
    other = WordEncoder("e" * 64)
    loading, go_on = threading.Event(), threading.Event()

    def load_encoder(_):
        loading.set()
        assert go_on.wait(60)
        return other

    searcher = Searcher(open_index(tmp_path / "index"), ENCODER, load_encoder=load_encoder)
    write_shop(tmp_path / "index", other)
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(searcher.reload_if_changed)
        assert loading.wait(60)
        assert searcher.search(["sofa"], 1).version == 1
        go_on.set()
        assert reload.result() is True

    assert searcher.search(["sofa"], 1).version == 2


def test_a_search_under_way_finishes_on_the_old_version(tmp_path):
    """The index is switched between the encoding of the queries and the search for them."""
    write_shop(tmp_path / "index", titles=["red sofa", "blue lamp"])

    class SwitchingEncoder(WordEncoder):
        def encode_queries(self, queries):
            write_shop(tmp_path / "index", titles=["oak bed", "blue lamp", "red sofa"])
            assert searcher.reload_if_changed() is True
            return super().encode_queries(queries)

    searcher = Searcher(open_index(tmp_path / "index"), SwitchingEncoder())

    found = searcher.search(["red sofa"], 1)

    assert (found.version, found[0][0].product_id, found[0][0].payload["title"]) == (1, "p000", "red sofa")
    assert searcher.version == 2
