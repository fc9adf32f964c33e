"""Rankings of many queries by several systems, in chunks."""

import numpy as np
import pytest

from aisle.index import open_index
from aisle.search.rankings import (
    BY_GRAPH,
    index_ranker,
    lexical_ranker,
    other_encoder_ranker,
    rank_all,
)
from aisle.search.searcher import Searcher
from tests.search.word_encoder import WordEncoder, write_shop

ENCODER, OTHER = WordEncoder(), WordEncoder("e" * 64, dim=16)
QUERIES = {"q1": "red sofa", "q2": "zeppelin", "q3": "p007", "q4": "white lamp desk", "q5": "green"}


@pytest.fixture
def index(tmp_path):
    write_shop(tmp_path / "index")
    return open_index(tmp_path / "index")


def rankers(index, *, top_k=12):
    searcher = Searcher(index, ENCODER, weight=0.4)
    embeddings = OTHER.encode_products([row["title"] for row in index.payload(range(len(index)))])
    return [
        other_encoder_ranker(index, OTHER, embeddings, name="other", top_k=top_k),
        lexical_ranker(index, name="bm25", top_k=top_k),
        index_ranker(searcher, dense="tuned", hybrid="hybrid", top_k=top_k, graph=True),
    ]


def ranking(hits):
    return [(hit.product_id, hit.score) for hit in hits]


def test_each_system_ranks_like_its_search(index):
    runs = rank_all(rankers(index), QUERIES)
    searcher, texts = Searcher(index, ENCODER, weight=0.4), list(QUERIES.values())

    expected = {
        "bm25": searcher.search(texts, 12, mode="lexical"),
        "tuned": searcher.search(texts, 12, exact=True),
        "hybrid": searcher.search(texts, 12, mode="hybrid", exact=True),
        f"tuned{BY_GRAPH}": searcher.search(texts, 10),
        f"hybrid{BY_GRAPH}": searcher.search(texts, 10, mode="hybrid"),
    }
    assert set(runs) == {"other", *expected}
    for name, found in expected.items():
        assert [list(run.items()) for run in runs[name].values()] == [ranking(hits) for hits in found]


def test_another_encoder_ranks_by_its_own_cosines(index):
    titles = {f"p{row:03d}": each["title"] for row, each in enumerate(index.payload(range(len(index))))}
    vectors = dict(zip(titles, OTHER.encode_products(titles.values()), strict=True))

    runs = rank_all(rankers(index), QUERIES)

    query = OTHER.encode_queries(["red sofa"])[0]
    best = sorted(titles, key=lambda product: (-np.float32(vectors[product] @ query), product))[:12]
    found = runs["other"]["q1"]
    assert [titles[product] for product in found] == [titles[product] for product in best]
    assert list(found.values()) == pytest.approx([vectors[product] @ query for product in best], abs=1e-6)


@pytest.mark.parametrize("chunk_queries", [1, 2, 5])
def test_the_size_of_a_chunk_changes_no_ranking(index, chunk_queries):
    counted = []
    whole = rank_all(rankers(index), QUERIES)

    chunked = rank_all(rankers(index), QUERIES, chunk_queries=chunk_queries, on_progress=counted.append)

    assert {name: dict(run) for name, run in chunked.items()} == {
        name: dict(run) for name, run in whole.items()
    }
    assert sum(counted) == 3 * len(QUERIES)


def test_a_run_is_two_arrays_however_many_ids_it_names(index):
    run = rank_all(rankers(index), QUERIES)["bm25"]

    assert run["q2"] == {}
    assert list(run["q3"]) == ["p007"]
    assert list(run) == list(QUERIES)
    assert (run.rows.shape, run.scores.shape) == ((5, 12), (5, 12))
    assert run.rows.nbytes + run.scores.nbytes == 12 * 5 * 12
