"""Share of pairs that a loss can learn from, compared with batches counted by hand."""

import numpy as np
import pytest

from aisle.data.negatives import KnownPositives
from aisle.losses.registry import loss_named, register, unregister
from aisle.training.batches import BatchPlan
from aisle.training.informative_pairs import informative_share
from tests.commands.test_registered_losses import TRIPLET
from tests.training.conftest import DIRECTIONS, parameters_of, tokenized


@pytest.fixture
def share(base):
    """Return the informative share for a loss, with pairs in order and a given batch size."""

    def of(loss, queries, products, relevance, *, batch, directions=DIRECTIONS, negatives=None):
        pairs = tokenized(base.tokenizer, queries, products, relevance, negatives=negatives)
        known = KnownPositives.of(
            pairs.query_keys[pairs.queries],
            pairs.product_keys[pairs.products],
            pairs.positive(np.arange(len(pairs))),
        )

        class InOrder(BatchPlan):
            def steps(self, epoch, *, first_step=0):
                for start in range(0, len(queries), batch):
                    yield [np.arange(start, min(start + batch, len(queries)))]

        plan = InOrder(len(queries), batch, 1, 1, seed=1)
        parameters = parameters_of(loss, in_batch_directions=directions)
        return informative_share(loss_named(loss), parameters, pairs, plan, known=known)

    return of


QUERIES = ["sofa", "sofa", "sofa", "lamp", "lamp", "bed"]
PRODUCTS = ["red sofa", "blue sofa", "old table", "red lamp", "wooden bed", "red bed"]
RELEVANCE = [1.0, 0.5, 0.0, 0.0, 0.0, 1.0]


def test_every_pair_of_cosine_target_has_a_gradient(share):
    assert share("cosine_target", QUERIES, PRODUCTS, RELEVANCE, batch=1) == 1


@pytest.mark.parametrize(("batch", "expected"), [(1, 0.0), (2, 4 / 6), (3, 6 / 6), (6, 1.0)])
def test_cosent_needs_another_relevance_in_the_pairs_batch(share, batch, expected):
    """Batches of 2: (1, .5), (0, 0), (0, 1)."""
    assert share("cosent", QUERIES, PRODUCTS, RELEVANCE, batch=batch) == pytest.approx(expected)


@pytest.mark.parametrize(("batch", "expected"), [(1, 0.0), (2, 2 / 6), (3, 3 / 6), (6, 3 / 6)])
def test_listwise_needs_another_pair_and_a_relevant_pair_of_the_query(share, batch, expected):
    """The lamp's two pairs are not relevant, and the bed has one pair."""
    assert share("listwise", QUERIES, PRODUCTS, RELEVANCE, batch=batch) == pytest.approx(expected)


def test_in_batch_needs_a_text_that_is_not_a_known_positive(share):
    one_sided = ("query_to_product",)
    queries, products = ["sofa", "sofa", "lamp"], ["red sofa", "blue sofa", "red lamp"]
    assert share("in_batch", queries, products, None, batch=1) == 0
    assert share("in_batch", queries, products, None, batch=1, negatives=[["nails"], [], []]) == 1 / 3
    # In the first batch both products are relevant to its query; the second batch has one pair.
    assert share("in_batch", queries, products, None, batch=2, directions=one_sided) == 0
    assert share("in_batch", queries, products, None, batch=3, directions=one_sided) == 1
    # Only positives are counted: one of two labelled pairs.
    assert share("in_batch", queries[:2], products[:2], [1.0, 0.0], batch=2, directions=one_sided) == 1


def test_a_loss_over_triples_needs_a_hard_negative_that_is_not_a_known_positive(share):
    register(TRIPLET)
    try:
        queries, products = ["sofa", "sofa", "lamp", "bed"], ["red sofa", "blue sofa", "red lamp", "red bed"]
        negatives = [["blue sofa"], ["nails"], [], ["nails"]]
        # By the second pair, the blue sofa is relevant to "sofa"; the lamp has no hard negative.
        for batch in (1, 2, 4):
            assert share("own_triplet", queries, products, None, batch=batch, negatives=negatives) == 2 / 4
        # Only positives are counted, so the last pair is not.
        assert share("own_triplet", queries, products, [1, 1, 1, 0], batch=2, negatives=negatives) == 1 / 3
    finally:
        unregister(TRIPLET.name)
