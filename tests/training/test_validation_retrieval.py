"""Retrieval on validation pairs, compared with a ranking computed query by query."""

import math

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from aisle.data.pairs import PairColumns, read_pairs
from aisle.data.rows import Row
from aisle.errors import EvaluationError
from aisle.evaluation.joint_pool import joint_pool
from aisle.evaluation.retrieval_metrics import evaluate_run
from aisle.text.side_tokenizers import SideTokenizer, SideTokenizers
from aisle.training.tokenized import tokenize_pairs
from aisle.training.validation_retrieval import (
    FIGURES,
    RetrievalTask,
    known_elsewhere,
    measure_retrieval,
    query_figures,
)
from tests.training.conftest import tokenized


@pytest.fixture
def tokenizer(base):
    return base.tokenizer


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return torch.tensor(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=torch.float32)


def means(task, queries, texts, **options):
    figures = query_figures(task, queries, texts, **options)
    return dict(zip(FIGURES, figures.mean(dim=0).tolist(), strict=True))


def clicks(tokenizer, count, products, *, seed=0, **pairs):
    """Return clicks: many queries, each with a click on one of a few products."""
    chosen = np.random.default_rng(seed).integers(0, products, size=count)
    names = [f"product {number}" for number in chosen]
    return tokenized(tokenizer, [f"query {n}" for n in range(count)], names, **pairs), chosen


def embedded(pairs, chosen, *, noise, shared=0.0, misled=0, dim=256, seed=1):
    """Embeddings of each text: a product has a direction, and a query that of its product and some noise.

    All queries of a product have something in common that the product has not, `shared`; the first `misled`
    queries have another product's direction.
    """
    rng = np.random.default_rng(seed)
    directions, words = rng.normal(size=(2, chosen.max() + 1, dim))
    by_text = np.zeros((len(pairs.texts), dim))
    by_text[pairs.products] = directions[chosen]
    meant = np.where(np.arange(len(chosen)) < misled, (chosen + 1) % len(directions), chosen)
    by_text[pairs.queries] = (
        directions[meant] + shared * words[meant] + noise * rng.normal(size=(len(chosen), dim))
    )
    return unit(by_text)


def test_a_perfect_model_of_100_clicks_on_5_products_has_an_mrr_of_one(tokenizer):
    pairs, chosen = clicks(tokenizer, 100, 5)
    texts = embedded(pairs, chosen, noise=0.01)
    task = RetrievalTask.of(pairs)
    assert (len(task.queries), task.product_count) == (100, 5)
    found = means(task, texts[task.queries], texts[task.texts])
    assert found == dict.fromkeys(FIGURES, 1.0)
    pool = joint_pool(texts[pairs.queries].numpy(), texts[pairs.products].numpy())
    assert pool.mrr < 0.2  # other queries of the same product rank above it


def test_a_perfect_model_of_50_products_is_better_than_a_worse_one(tokenizer):
    pairs, chosen = clicks(tokenizer, 400, 50)
    task = RetrievalTask.of(pairs)
    perfect = embedded(pairs, chosen, noise=0.05, shared=0.5)
    worse = embedded(pairs, chosen, noise=1.0, misled=40)
    best, other = (means(task, texts[task.queries], texts[task.texts]) for texts in (perfect, worse))
    assert best["mrr"] == 1.0
    assert other["precision@1"] == 0.9
    pools = [
        joint_pool(texts[pairs.queries].numpy(), texts[pairs.products].numpy()).mrr
        for texts in (perfect, worse)
    ]
    assert pools[0] < pools[1]  # by this metric the worse model was selected


def brute_force(query_names, product_names, relevance, query_ids, product_ids, query_of, product_of):
    """Return the four metrics, computed for each query text from dictionaries."""
    right = {}
    for query, product, value in zip(query_ids, product_ids, relevance, strict=True):
        if value > 0.5:
            right.setdefault(query, set()).add(product)
    rows = []
    for name, identity in dict(zip(query_names, query_ids, strict=True)).items():
        if identity not in right:
            continue
        scores = {}
        for product_name, product in zip(product_names, product_ids, strict=True):
            score = np.float32(np.dot(query_of[name].astype(np.float64), product_of[product_name]))
            scores[product] = max(score, scores.get(product, -np.inf))
        wanted = right[identity]
        ranking = sorted(scores, key=lambda product: (-scores[product], product in wanted))
        ranks = [rank for rank, product in enumerate(ranking, start=1) if product in wanted]
        top = [rank for rank in ranks if rank <= 10]
        gain = sum(1 / math.log2(rank + 1) for rank in top)
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(wanted), 10) + 1))
        rows.append((1 / ranks[0], len(top) / len(wanted), gain / ideal, float(ranks[0] == 1)))
    return np.mean(rows, axis=0)


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_metrics_equal_those_of_a_ranking_query_by_query(tokenizer, with_ids, labelled, ties):
    rng = np.random.default_rng(5)
    queries = [f"query {n}" for n in rng.integers(0, 40, size=300)]
    numbers = rng.integers(0, 60, size=300)
    products = [f"product {n}" for n in numbers]
    ids = [str(n // 2) for n in numbers] if with_ids else None
    relevance = rng.choice([0.0, 0.3, 0.6, 1.0], size=300) if labelled else None
    pairs = tokenized(tokenizer, queries, products, relevance, product_ids=ids)
    task = RetrievalTask.of(pairs)
    by_text = rng.integers(-1, 2, size=(len(pairs.texts), 3)) + 0.5 if ties else None
    texts = unit(rng.normal(size=(len(pairs.texts), 8)) if by_text is None else by_text)
    expected = brute_force(
        queries,
        products,
        np.ones(300) if relevance is None else relevance,
        queries,
        ids or products,
        {name: texts[row].numpy() for name, row in zip(queries, pairs.queries, strict=True)},
        {name: texts[row].numpy() for name, row in zip(products, pairs.products, strict=True)},
    )
    found = means(task, texts[task.queries], texts[task.texts])
    np.testing.assert_allclose([found[name] for name in FIGURES], expected, rtol=1e-12)


def test_metrics_equal_those_of_evaluate(tokenizer):
    rng = np.random.default_rng(2)
    queries = [f"query {n}" for n in rng.integers(0, 30, size=200)]
    products = [f"product {n}" for n in rng.integers(0, 40, size=200)]
    pairs = tokenized(tokenizer, queries, products)
    texts = unit(rng.normal(size=(len(pairs.texts), 8)))
    task = RetrievalTask.of(pairs)
    qrels, run = {}, {}
    for name, row in zip(queries, pairs.queries, strict=True):
        run[name] = {
            product: float(texts[row].double() @ texts[number].double())
            for product, number in zip(products, pairs.products, strict=True)
        }
    for query, product in zip(queries, products, strict=True):
        qrels.setdefault(query, {})[product] = 1.0
    expected = evaluate_run(qrels, run, cutoffs=(10, 40)).values
    found = means(task, texts[task.queries], texts[task.texts])
    assert found["mrr"] == pytest.approx(expected["mrr@40"])
    for name in ("recall@10", "ndcg@10", "precision@1"):
        assert found[name] == pytest.approx(expected[name]), name


@pytest.mark.parametrize("block_bytes", [1, 5_000, 2**26])
def test_the_block_size_does_not_change_the_metrics(tokenizer, block_bytes):
    pairs, chosen = clicks(tokenizer, 150, 30)
    task = RetrievalTask.of(pairs)
    texts = embedded(pairs, chosen, noise=2.0)
    whole = query_figures(task, texts[task.queries], texts[task.texts])
    found = query_figures(task, texts[task.queries], texts[task.texts], block_bytes=block_bytes)
    assert torch.equal(found, whole)
    parts = [
        query_figures(task, texts[task.queries], texts[task.texts], first=first, last=last)
        for first, last in ((0, 50), (50, 50), (50, len(task.queries)))
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_a_model_with_the_same_embedding_for_all_texts_finds_nothing(tokenizer):
    pairs, _ = clicks(tokenizer, 100, 5)
    task = RetrievalTask.of(pairs)
    same = unit(np.ones((1, 8)))
    found = means(task, same.expand(len(task.queries), 8), same.expand(len(task.texts), 8))
    assert found["mrr"] == pytest.approx(1 / 5)
    assert found["precision@1"] == 0


def test_positives_beyond_the_ranked_pairs_still_count_as_relevant(tokenizer):
    pairs = tokenized(tokenizer, ["sofa", "lamp", "sofa"], ["red", "blue", "blue"])
    task = RetrievalTask.of(pairs, first=2)
    by_text = np.zeros((len(pairs.texts), 2))
    by_text[pairs.queries] = [[0.0, 1.0]] * 3
    by_text[pairs.products] = [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    texts = unit(by_text)
    assert means(task, texts[task.queries], texts[task.texts])["precision@1"] == 1.0


def pairs_of(*rows):
    names = ["query", "product", "product_id", "relevance"][: len(rows[0])]
    rows = [Row("p.csv", number, dict(zip(names, row, strict=True))) for number, row in enumerate(rows)]
    return read_pairs(rows, columns=PairColumns(), label_map=None, on_bad_row="error").pairs


def test_products_relevant_in_training_pairs_are_relevant_in_validation(tokenizer):
    validation = pairs_of(("Sofa", "red", "1", 1), ("lamp", "blue", "2", 1), ("lamp", "green", "3", 0))
    train = pairs_of(
        ("sofa", "blue", "9", 1),  # by its text
        ("sofa", "verdant", "3", 1),  # by its id
        ("lamp", "red", "1", 0.2),  # wrong
        ("lamp", "unseen", "7", 1),  # not among the products that are ranked
        ("bed", "red", "1", 1),  # no query of validation
    )
    names = [["Sofa", "lamp", "lamp"], ["red", "blue", "green"]]
    tokens = tokenized(tokenizer, *names, [1, 1, 0], product_ids=["1", "2", "3"])
    also = known_elsewhere(validation, tokens, train)
    task = RetrievalTask.of(tokens, also=also)
    right = {
        int(query): {int(p) for p in task.right[task.right_offsets[n] : task.right_offsets[n + 1]]}
        for n, query in enumerate(task.queries)
    }
    product = dict(
        zip(names[1], (task.products[task.texts == row].item() for row in tokens.products), strict=True)
    )
    sofa, lamp = tokens.queries[:2].tolist()
    assert right == {sofa: {product["red"], product["blue"], product["green"]}, lamp: {product["blue"]}}


@pytest.mark.parametrize("side", ["queries", "products"])
def test_embeddings_that_are_not_finite_are_refused_instead_of_ranked_first(tokenizer, side):
    pairs, chosen = clicks(tokenizer, 10, 3)
    task = RetrievalTask.of(pairs)
    texts = embedded(pairs, chosen, noise=0.1)
    texts[task.queries[2] if side == "queries" else task.texts[2]] = math.nan
    with pytest.raises(EvaluationError, match=f"1 of .* validation {side} are not finite"):
        measure_retrieval(Accelerator(cpu=True), task, texts[task.queries], texts[task.texts])


def right_texts(task, names):
    return {
        names[int(query)]: {names[int(task.texts[task.products == p][0])] for p in csr}
        for query, csr in zip(task.queries, np.split(task.right, task.right_offsets[1:-1]), strict=True)
    }


def test_queries_of_equal_id_or_case_and_products_of_a_group_share_their_right_answers(tokenizer):
    header = ("query", "query_id", "product", "product_id", "line")

    def read(*rows):
        rows = [Row("p.csv", number, dict(zip(header, row, strict=True))) for number, row in enumerate(rows)]
        return read_pairs(rows, columns=PairColumns(group="line"), label_map=None, on_bad_row="error").pairs

    validation = read(
        ("Red Sofa", "1", "oslo red", "a", "oslo"),
        ("red  sofa", "2", "bergen red", "b", ""),
        ("lamp", "3", "lamp tall", "c", "tall"),
    )
    train = read(
        ("a seat in red", "2", "chair", "c", ""),  # the id of the second query, and of the third product
        ("LAMP", "9", "oslo blue", "z", "oslo"),  # another colour of the first product
    )
    tokens = tokenize_pairs(validation, SideTokenizers(*2 * [SideTokenizer(tokenizer, "", 16)]))
    also = [known_elsewhere(validation, tokens, other) for other in (train, validation)]
    task = RetrievalTask.of(tokens, also=np.concatenate(also, axis=1))
    names = dict(zip(tokens.queries.tolist(), validation.queries, strict=True))
    names |= dict(zip(tokens.products.tolist(), validation.products, strict=True))
    assert right_texts(task, names) == {
        "Red Sofa": {"oslo red", "bergen red"},
        "red  sofa": {"oslo red", "bergen red", "lamp tall"},
        "lamp": {"lamp tall", "oslo red"},
    }


def test_a_sample_of_the_queries_ranks_all_products(tokenizer):
    pairs, chosen = clicks(tokenizer, 40, 5)
    whole = RetrievalTask.of(pairs)
    task = whole.sampled(7, seed=3)
    assert (len(task.queries), task.product_count) == (7, 5)
    texts = embedded(pairs, chosen, noise=2.0)
    figures = query_figures(whole, texts[whole.queries], texts[whole.texts])
    kept = np.flatnonzero(np.isin(whole.queries, task.queries))
    torch.testing.assert_close(query_figures(task, texts[task.queries], texts[task.texts]), figures[kept])
    assert len(whole.sampled(100, seed=3).queries) == len(whole.queries)
