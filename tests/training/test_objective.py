"""The shares of two processes add up to the loss of the whole batch."""

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
import torch

from aisle.losses.embedding_rows import rows_of
from aisle.losses.registry import loss_named, register, unregister
from aisle.training import objective
from aisle.training.objective import Objective
from tests.commands.test_registered_losses import MARGIN_MSE, TRIPLET
from tests.training.conftest import collator_of, texts_of, tokenized
from tests.training.test_batches import texts_in

PAIRS = 7
LOSSES = [loss_named("cosine_target"), loss_named("cosent"), loss_named("listwise"), MARGIN_MSE]


@pytest.mark.parametrize("loss", LOSSES, ids=[loss.name for loss in LOSSES])
def test_the_shares_of_two_processes_add_up_to_the_loss_of_the_batch(base, loss):
    random = np.random.default_rng(0)
    scores = random.random(PAIRS).astype(np.float32)
    queries = (texts_of(3, seed=1) * 3)[:PAIRS]  # each query has pairs on both processes
    pairs = tokenized(base.tokenizer, queries, texts_of(PAIRS, seed=2), random.random(PAIRS))
    pairs = replace(pairs, teacher_scores=scores)
    batches = [collator_of(pairs, process=(index, 2))(np.arange(PAIRS)) for index in range(2)]
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(sum(batches[0].texts), 8, generator=generator)
    embeddings = torch.nn.functional.normalize(embeddings, dim=1)
    computed = Objective(loss, loss.parameters())

    shares = [sum(computed.parts(embeddings, batch)) for batch in batches]

    whole = loss.function(
        rows_of(embeddings, batches[0].query_rows),
        rows_of(embeddings, batches[0].product_rows),
        **{name: getattr(batches[0], name) for name in loss.inputs},
        **loss.arguments(loss.parameters()),
    )
    assert all(share.item() for share in shares)
    torch.testing.assert_close(sum(shares), whole.sum())
    torch.testing.assert_close(batches[0].teacher_scores, torch.from_numpy(scores))


TRIPLE_QUERIES = ["sofa", "sofa", "lamp", "bed", "chair"]
TRIPLE_PRODUCTS = ["red sofa", "blue sofa", "red lamp", "wooden bed", "table"]
TRIPLE_RELEVANCE = [1, 1, 1, 1, 0]
TRIPLE_NEGATIVES = [["lamp", "blue sofa", "table", "lamp"], [], ["bed"], ["chair", "sofa", "table"], ["bed"]]
TRIPLES_BY_HAND = [
    ("sofa", "red sofa", "lamp"),  # listed twice; the pair's blue sofa is right, by the second pair
    ("sofa", "red sofa", "table"),
    ("lamp", "red lamp", "bed"),
    ("bed", "wooden bed", "chair"),
    ("bed", "wooden bed", "sofa"),
    ("bed", "wooden bed", "table"),
]
"""The last pair is not a positive, so its hard negative makes no triple."""


@pytest.fixture
def triplet():
    register(TRIPLET)
    yield TRIPLET
    unregister(TRIPLET.name)


def vector_of(text):
    generator = torch.Generator().manual_seed(crc32(text.encode()))
    return torch.nn.functional.normalize(torch.randn(8, generator=generator), dim=0)


@pytest.mark.parametrize("numbers_at_a_time", [1 << 24, 1], ids=["at once", "one by one"])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_shares_of_processes_add_up_to_the_loss_of_all_triples(
    minilm_tokenizer, triplet, processes, numbers_at_a_time, monkeypatch
):
    monkeypatch.setattr(objective, "SCORES_AT_A_TIME", numbers_at_a_time)
    pairs = tokenized(
        minilm_tokenizer, TRIPLE_QUERIES, TRIPLE_PRODUCTS, TRIPLE_RELEVANCE, negatives=TRIPLE_NEGATIVES
    )
    batches = [
        collator_of(pairs, loss="own_triplet", process=(index, processes))(np.array([3, 0, 4, 2, 1]))
        for index in range(processes)
    ]
    texts = [text for batch in batches for text in texts_in(batch, minilm_tokenizer)]
    embeddings = torch.stack([vector_of(text) for text in texts])
    loss = Objective(triplet, triplet.parameters(own_triplet_margin=1.0))

    shares = [float(sum(loss.parts(embeddings, batch))) for batch in batches]

    expected = [
        max(0.0, 1.0 - float(vector_of(query) @ (vector_of(right) - vector_of(wrong))))
        for query, right, wrong in TRIPLES_BY_HAND
    ]
    assert [batch.weight for batch in batches] == [len(TRIPLES_BY_HAND)] * processes
    assert [len(batch.contrast.triples) for batch in batches] == [
        len(part) for part in np.array_split(TRIPLES_BY_HAND, processes)
    ]
    assert sum(shares) == pytest.approx(sum(expected), rel=1e-5)
    assert sum(value > 0 for value in expected) >= 4


def test_the_loss_s_own_gradient_is_that_of_its_parts(base):
    """Two of the five pairs have the same product."""
    queries, products = texts_of(5, seed=1), texts_of(4, seed=2)
    pairs = tokenized(base.tokenizer, queries, [*products, products[0]])
    batch = collator_of(pairs, loss="in_batch")(np.array([3, 0, 4, 2, 1]))
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(9, 8, generator=generator), dim=1)
    loss = loss_named("in_batch")

    found = Objective(loss, loss.parameters(), few_operations=True).gradient(embeddings, batch, 0.2)

    taken = embeddings.clone().requires_grad_()
    (whole,) = Objective(loss, loss.parameters()).parts(taken, batch)
    (whole * 0.2).backward()
    torch.testing.assert_close(found, (whole.detach() * 0.2, taken.grad))
    learned = loss.parameters(learn_temperature=True)
    for others in (
        Objective(loss, loss.parameters()),
        Objective(loss, loss.parameters(), [8, 4], few_operations=True),
        Objective(loss, learned, few_operations=True),
    ):
        assert others.gradient(embeddings, batch, 0.2) is None
