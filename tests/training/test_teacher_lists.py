"""Lists of products that a teacher scored: which a batch has, over processes, sub-batches and blocks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aisle.data.scored_products import ScoredProducts
from aisle.losses.registry import loss_named
from aisle.training import objective
from aisle.training.batch_plan import BatchPlan
from aisle.training.objective import Objective
from aisle.training.teacher_lists import batch_pairs, scored_products_of
from tests.training.conftest import (
    assert_same,
    collator_of,
    labelled,
    moved_by,
    parameters_of,
    tokenized,
    trainer_of,
)
from tests.training.test_batches import texts_in
from tests.training.test_objective import vector_of

NAMES = ["margin_mse", "kl_divergence"]
QUERIES = ["sofa", "sofa", "lamp", "bed", "chair"]
PRODUCTS = ["red sofa", "blue sofa", "red lamp", "wooden bed", "table"]
NEGATIVES = [["lamp", "table"], ["table"], ["red sofa"], [], []]
SCORES, NEGATIVE_SCORES = [3, 2, 5, 4, 1], [-1, -2, -7, 0]
LISTS_BY_HAND = {
    "sofa": {"red sofa": 3, "blue sofa": 2, "lamp": -1, "table": -2},  # the table's second score is not read
    "lamp": {"red lamp": 5, "red sofa": 0},
}
"""The bed and the chair have a single scored product each."""


def scored_pairs(tokenizer):
    pairs = tokenized(tokenizer, QUERIES, PRODUCTS, negatives=NEGATIVES)
    return replace(
        pairs,
        teacher_scores=np.array(SCORES, np.float32),
        negative_scores=np.array(NEGATIVE_SCORES, np.float32),
    )


@pytest.mark.parametrize("numbers_at_a_time", [1 << 24, 1], ids=["at once", "one by one"])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_shares_of_processes_add_up_to_the_loss_of_the_lists(
    minilm_tokenizer, name, processes, numbers_at_a_time, monkeypatch
):
    monkeypatch.setattr(objective, "SCORES_AT_A_TIME", numbers_at_a_time)
    pairs = scored_pairs(minilm_tokenizer)
    batches = [
        collator_of(pairs, loss=name, process=(index, processes))(np.array([3, 0, 4, 2, 1]))
        for index in range(processes)
    ]
    texts = [text for batch in batches for text in texts_in(batch, minilm_tokenizer)]
    embeddings = torch.stack([vector_of(text) for text in texts])
    loss = Objective(loss_named(name), parameters_of(name, temperature=0.5))

    found = float(sum(sum(loss.parts(embeddings, batch)) for batch in batches))

    expected = 0.0
    for query, scored in LISTS_BY_HAND.items():
        scores = [float(vector_of(query) @ vector_of(product)) / 0.5 for product in scored]
        expected += term(name, np.array(scores), np.array(list(scored.values()), float))
    assert [batch.weight for batch in batches] == [2.0] * processes
    assert found == pytest.approx(expected, rel=1e-5)


def term(name, scores, teacher):
    if name == "margin_mse":
        apart = (scores[:, None] - scores) - (teacher[:, None] - teacher)
        return (apart**2).sum() / (len(scores) * (len(scores) - 1))
    p, q = (np.exp(one) / np.exp(one).sum() for one in (teacher, scores))
    return (p * np.log(p / q)).sum()


@pytest.mark.parametrize("name", NAMES)
def test_cached_embeddings_give_the_gradient_of_the_plain_step(base, name):
    pairs = labelled(base)
    scores = np.random.default_rng(0).normal(size=len(pairs)).astype(np.float32)
    pairs = replace(pairs, teacher_scores=scores)
    settings = {"batch_size": 20, "accumulation": 2, "loss": name}
    assert_same(
        moved_by(trainer_of(base, pairs, **settings)),
        moved_by(trainer_of(base, pairs, **settings, cached=True, max_tokens=32)),
    )


def test_lists_are_those_of_a_search_through_all_pairs():
    random = np.random.default_rng(1)
    queries, products = random.integers(0, 9, 60), random.integers(0, 30, 60)
    scores = random.normal(size=60).astype(np.float32)
    first = {}
    for query, product, score in zip(queries.tolist(), products.tolist(), scores.tolist(), strict=True):
        first.setdefault((query, product), score)
    wanted = np.array([0, 2, 3, 7, 20]), np.sort(random.choice(30, 12, replace=False))

    found = ScoredProducts.of(queries, products, scores).among(*wanted)

    rows = {}
    for row, query in enumerate(wanted[0].tolist()):
        listed = {place: first.get((query, one)) for place, one in enumerate(wanted[1].tolist())}
        rows[row] = {place: score for place, score in listed.items() if score is not None}
    expected = {row: listed for row, listed in rows.items() if len(listed) > 1}
    ends = found.products.indptr
    assert len(expected) > 1
    assert expected == {
        row: dict(zip(found.products.columns[a:b].tolist(), found.scores[a:b].tolist(), strict=True))
        for row, a, b in zip(found.queries.tolist(), ends[:-1], ends[1:], strict=True)
    }
    counts = ScoredProducts.of(queries, products, scores).counts_among(*wanted)
    assert counts.tolist() == [len(listed) for listed in rows.values()]


def test_hard_negatives_without_scores_are_in_no_list(minilm_tokenizer):
    pairs = replace(scored_pairs(minilm_tokenizer), negative_scores=np.empty(0, np.float32))
    scored = scored_products_of(pairs)
    assert np.diff(scored.products.indptr).tolist() == [2, 1, 1, 1]


@pytest.mark.parametrize("total_steps", [1, 3, 5])
def test_the_pairs_of_all_batches_are_those_of_the_steps_of_a_run(minilm_tokenizer, total_steps):
    pairs = scored_pairs(minilm_tokenizer)
    plan = BatchPlan(len(pairs), batch_size=1, num_processes=2, accumulation=1, seed=3)
    steps = [step for epoch in range(2) for step in plan.steps(epoch)][:total_steps]

    queries, products = batch_pairs(pairs, plan, total_steps=total_steps)

    expected = {
        (query, product)
        for batches in steps
        for rows in batches
        for query in pairs.queries[rows].tolist()
        for product in [*pairs.products[rows].tolist(), *pairs.negatives_of(rows).tolist()]
    }
    assert set(zip(queries.tolist(), products.tolist(), strict=True)) == expected
    assert len(queries) == len(expected)
