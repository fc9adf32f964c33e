import numpy as np
import pyarrow as pa
import pytest

from aisle.errors import SearchError
from aisle.index import open_index
from aisle.index.fusion import (
    DEFAULT_WEIGHT,
    WEIGHTS,
    Candidates,
    convex_scores,
    fuse,
    reciprocal_rank_scores,
    tune_weight,
)
from aisle.index.hybrid_search import (
    candidate_depth,
    gather_candidates,
    search_hybrid,
    search_lexical,
    weight_of,
)
from aisle.index.lexical import Bm25Index
from aisle.index.scoring import exact_search

WORDS = ["red", "blue", "oak", "wool", "sofa", "lamp", "table", "rug"]


def candidates(dense, lexical, rows=None, depth=100, highest=10.0, by_id=None):
    return Candidates(
        rows=np.arange(len(dense)) if rows is None else np.array(rows),
        dense=np.array(dense, np.float32),
        lexical=np.array(lexical, np.float32),
        highest=highest,
        depth=depth,
        by_id=None if by_id is None else np.array(by_id),
    )


@pytest.fixture
def texts():
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(WORDS, size=3)) for _ in range(300)]


@pytest.fixture
def index(build, clustered, texts, tmp_path):
    build(clustered(300), texts=texts, product_ids=[f"p{row:05d}" for row in range(300)][::-1])
    return open_index(tmp_path / "index")


def test_convex_scores_are_shares_of_the_highest_possible_on_each_side():
    found = convex_scores(candidates([0.5, 0.0, -1.0], [0.0, 2.0, 8.0], highest=16.0), weight=0.25)

    # cosines count from -1: 1.5, 1.0, 0.0 of 2; BM25 from 0: 0, 2, 8 of 16
    assert found == pytest.approx([0.25 * 0.75, 0.25 * 0.5 + 0.75 / 8, 0.75 / 2])


def test_the_best_of_poor_answers_has_a_poor_score():
    """Divided by the query's best score, it had 1, so nonsense reached every threshold."""
    poor = candidates([0.1, 0.05], [0.5, 0.0], highest=20.0)

    _, scores = fuse([poor], top_k=1, tie_ranks=np.arange(2), weight=0.5)

    assert scores[0, 0] == pytest.approx(0.5 * 0.55 + 0.5 / 40)


@pytest.mark.parametrize("fusion", ["convex", "rrf"])
@pytest.mark.parametrize("weight", [0.0, 0.8, 1.0])
def test_a_product_searched_by_its_id_is_first_and_alone_has_the_highest_score(fusion, weight):
    found = candidates([1.0, 0.2], [9.0, 10.0], by_id=[False, True])

    rows, scores = fuse([found], top_k=2, tie_ranks=np.arange(2), weight=weight, fusion=fusion)

    assert rows.tolist() == [[1, 0]]
    assert scores[0, 0] == pytest.approx(1.0 if fusion == "convex" else 2 / 61)


def test_a_query_without_a_known_word_keeps_the_dense_order():
    rows, scores = fuse([candidates([0.1, 0.7, 0.3], [0, 0, 0])], top_k=3, tie_ranks=np.arange(3), weight=0.5)

    assert rows.tolist() == [[1, 2, 0]]
    assert scores[0] == pytest.approx([0.5 * 1.7 / 2, 0.5 * 1.3 / 2, 0.5 * 1.1 / 2])


def test_reciprocal_ranks_add_up_over_the_sides_that_name_a_product():
    found = candidates([0.9, 0.8, 0.7, 0.6], [0.0, 1.0, 3.0, 2.0], depth=3)

    # dense names 0, 1, 2; BM25 names 2, 3, 1, and never a product without a word of the query
    assert reciprocal_rank_scores(found, tie_ranks=np.arange(4)) == pytest.approx(
        [1 / 61, 1 / 62 + 1 / 63, 1 / 63 + 1 / 61, 1 / 62]
    )


def test_reciprocal_ranks_of_equal_scores_follow_the_ids():
    found = candidates([0.5, 0.5], [0.0, 0.0], rows=[4, 7])
    ranks = np.array([0, 0, 0, 0, 9, 0, 0, 2])

    assert reciprocal_rank_scores(found, tie_ranks=ranks) == pytest.approx([1 / 62, 1 / 61])


@pytest.mark.parametrize("fusion", ["convex", "rrf"])
def test_equal_fused_scores_follow_the_ids(fusion):
    # each side prefers another product, by the same amount
    found = (
        candidates([1.0, -1.0], [0.0, 10.0], rows=[2, 5])
        if fusion == "convex"
        else candidates([1.0, 0.5], [1.0, 2.0], rows=[2, 5])
    )
    for ranks, expected in (([0, 0, 0, 0, 0, 1], [2, 5]), ([0, 0, 1, 0, 0, 0], [5, 2])):
        rows, scores = fuse([found], top_k=2, tie_ranks=np.array(ranks), weight=0.5, fusion=fusion)

        assert rows[0].tolist() == expected
        assert scores[0, 0] == scores[0, 1]


def test_queries_with_fewer_candidates_end_in_padding():
    rows, scores = fuse(
        [candidates([0.5], [1.0], rows=[3]), candidates([0.5, 0.6], [0.0, 0.0])],
        top_k=2,
        tie_ranks=np.arange(4),
    )

    assert rows.tolist() == [[3, -1], [1, 0]]
    assert scores[0, 1] == -np.inf
    assert np.isfinite(scores[1]).all()


@pytest.mark.parametrize("weight", [-0.01, 1.01, float("nan")])
def test_a_weight_outside_zero_to_one_is_refused(weight):
    with pytest.raises(SearchError, match="weight: must be from 0"):
        fuse([], top_k=1, tie_ranks=np.arange(1), weight=weight)


def test_an_unknown_fusion_is_refused():
    with pytest.raises(SearchError, match="'convex' or 'rrf', found 'max'"):
        fuse([], top_k=1, tie_ranks=np.arange(1), fusion="max")


def test_the_best_weight_wins_and_equals_lean_to_the_default():
    assert tune_weight(lambda weight: -abs(weight - 0.35)) == 0.35
    assert tune_weight(lambda weight: 0.5) == DEFAULT_WEIGHT
    assert tune_weight(lambda weight: float(weight in (0.1, 0.6))) == 0.6
    assert tune_weight(lambda weight: 1.0, weights=(0.25, 0.75), default=0.5) == 0.25
    assert WEIGHTS[0] == 0.0
    assert WEIGHTS[-1] == 1.0


def test_candidates_are_the_union_with_true_scores_of_both_sides(texts, clustered):
    embeddings, asked = clustered(300), clustered(2, seed=5)
    lexical, ties = Bm25Index.build(texts), np.arange(300)
    dense_rows, _ = exact_search(embeddings, asked, top_k=10)

    found = gather_candidates(
        lexical, embeddings, ["oak table", "zeppelin"], asked, dense_rows=dense_rows, tie_ranks=ties
    )

    named = lexical.rank(["oak table"], top_k=10)[0][0]
    assert found[0].rows.tolist() == sorted({*dense_rows[0].tolist(), *named.tolist()})
    assert found[1].rows.tolist() == sorted(dense_rows[1].tolist())
    assert found[0].dense == pytest.approx(embeddings[found[0].rows] @ asked[0], abs=1e-6)
    assert found[0].lexical.tolist() == lexical.score("oak table")[found[0].rows].tolist()
    assert not set(named.tolist()) <= set(dense_rows[0].tolist())  # otherwise the test would prove nothing


def test_padding_and_excluded_rows_are_not_candidates(texts, clustered):
    dense_rows = np.array([[7, -1, -1]])
    allowed = np.zeros(300, bool)
    allowed[:20] = True

    (found,) = gather_candidates(
        Bm25Index.build(texts),
        clustered(300),
        ["red sofa"],
        clustered(1),
        dense_rows=dense_rows,
        tie_ranks=np.arange(300),
        allowed=allowed,
    )

    assert 7 in found.rows
    assert 1 < len(found.rows) <= 4
    assert found.rows.min() >= 0
    assert found.rows.max() < 20


def test_texts_and_embeddings_of_queries_must_be_as_many(texts, clustered):
    with pytest.raises(SearchError, match="2 query_embeddings, found 1"):
        gather_candidates(
            Bm25Index.build(texts),
            clustered(300),
            ["sofa"],
            clustered(2),
            dense_rows=np.zeros((2, 1), np.int64),
            tie_ranks=np.arange(300),
        )


@pytest.mark.parametrize(
    ("top_k", "count", "depth"), [(10, 5000, 100), (200, 5000, 200), (10, 50, 50), (50, 50, 50)]
)
def test_the_depth_is_a_hundred_more_for_a_deeper_search_and_at_most_all(top_k, count, depth):
    assert candidate_depth(top_k, count=count) == depth


def test_all_weight_on_one_side_gives_that_side_s_order(index, clustered):
    asked = clustered(5, seed=9)
    queries = ["oak table", "red", "wool rug", "blue lamp sofa", "oak"]

    dense = search_hybrid(index, queries, asked, top_k=10, weight=1.0, exact=True)
    lexical = search_hybrid(index, queries, asked, top_k=10, weight=0.0, exact=True)

    assert dense.rows.tolist() == index.search(asked, top_k=10, exact=True).rows.tolist()
    assert lexical.rows.tolist() == search_lexical(index, queries, top_k=10).rows.tolist()


@pytest.mark.parametrize("fusion", ["convex", "rrf"])
def test_hybrid_search_over_all_products_is_brute_force(index, clustered, fusion):
    asked, query = clustered(1, seed=9), "oak table"
    everything = candidates(
        index.embeddings @ asked[0],
        index.lexical.score(query),
        rows=range(300),
        depth=300,
        highest=index.lexical.highest_score(query),
    )
    expected, _ = fuse([everything], top_k=300, tie_ranks=index.tie_ranks, weight=0.6, fusion=fusion)

    found = search_hybrid(index, [query], asked, top_k=300, weight=0.6, fusion=fusion)

    assert found.rows.tolist() == expected.tolist()
    assert found.product_ids[0, 0] == f"p{299 - found.rows[0, 0]:05d}"


def test_lexical_answers_break_ties_by_id_and_end_in_padding(build, clustered, tmp_path):
    build(clustered(4), texts=["lamp", "sofa", "lamp", "rug"], product_ids=["d", "c", "b", "a"])

    found = search_lexical(open_index(tmp_path / "index"), ["lamp", "zeppelin"], top_k=3)

    assert found.product_ids.tolist() == [["b", "d", None], [None, None, None]]
    assert found.rows.tolist() == [[2, 0, -1], [-1, -1, -1]]
    assert found.scores[0, 0] == found.scores[0, 1] > 0
    assert (found.scores[found.rows < 0] == -np.inf).all()


def test_the_tuned_weight_of_the_index_is_used_where_none_is_given(index, clustered):
    asked, queries = clustered(3, seed=9), ["oak table", "red", "wool rug"]

    assert weight_of(index) == DEFAULT_WEIGHT
    found = search_hybrid(index, queries, asked, top_k=10)
    assert (
        found.scores.tolist()
        == search_hybrid(index, queries, asked, top_k=10, weight=DEFAULT_WEIGHT).scores.tolist()
    )

    object.__setattr__(index.manifest, "hybrid_weight", 0.0)
    assert weight_of(index) == 0.0
    lexical = search_hybrid(index, queries, asked, top_k=10)
    assert lexical.rows.tolist() == search_lexical(index, queries, top_k=10).rows.tolist()


@pytest.mark.parametrize("top_k", [0, -1])
def test_top_k_out_of_range_is_refused(index, clustered, top_k):
    with pytest.raises(SearchError, match=f"top_k: must be at least 1, found {top_k}"):
        search_lexical(index, ["sofa"], top_k=top_k)
    with pytest.raises(SearchError, match=f"top_k: must be at least 1, found {top_k}"):
        search_hybrid(index, ["sofa"], clustered(1), top_k=top_k)


def test_an_index_without_texts_has_no_lexical_search(build, clustered, tmp_path):
    build(clustered(5), payload=pa.table({}))
    index = open_index(tmp_path / "index")

    with pytest.raises(SearchError, match="without its products' texts"):
        search_lexical(index, ["sofa"], top_k=1)
    with pytest.raises(SearchError, match="without its products' texts"):
        search_hybrid(index, ["sofa"], clustered(1), top_k=1)
