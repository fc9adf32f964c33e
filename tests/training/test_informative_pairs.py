"""Share of pairs that a loss can learn from, compared with batches counted by hand."""

import numpy as np
import pytest

from aisle.data.negatives import KnownPositives
from aisle.losses.registry import loss_named, register, unregister
from aisle.losses.specification import Loss
from aisle.training.batch_plan import BatchPlan
from aisle.training.informative_pairs import informative_pairs
from tests.commands.test_registered_losses import TRIPLET
from tests.training.conftest import DIRECTIONS, parameters_of, tokenized


@pytest.fixture
def share(informative):
    """Return the informative share for a loss, with pairs in order and a given batch size."""
    return lambda *pairs, **options: informative(*pairs, **options).share


@pytest.fixture
def empty(informative):
    """Return the number, the reason and whether it is full of the first batch without a negative."""

    def of(*pairs, **options):
        found = informative(*pairs, **options).empty
        return None if found is None else (found.number, found.reason.partition(",")[0], found.full)

    return of


@pytest.fixture
def informative(base):
    """Return what a loss can learn from, with pairs in order and a given batch size."""

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
        return informative_pairs(loss_named(loss), parameters, pairs, plan, known=known)

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


SAME_QUERY = ["sofa", "sofa", "lamp", "bed", "sofa", "sofa", "lamp"]
EACH_OTHER = ["red sofa", "blue sofa", "red lamp", "red bed", "old sofa", "new sofa", "blue lamp"]


def test_the_first_batch_without_a_negative_is_named_with_the_reason(empty):
    assert empty("in_batch", SAME_QUERY[2:4], EACH_OTHER[2:4], None, batch=2) is None
    assert empty("in_batch", SAME_QUERY, EACH_OTHER, None, batch=7) is None
    assert empty("in_batch", SAME_QUERY, EACH_OTHER, None, batch=1) == (
        1,
        "a single pair has no other product",
        True,
    )
    found = empty("in_batch", SAME_QUERY[2:], EACH_OTHER[2:], None, batch=2)
    assert found == (2, "all pairs have the same query", True)
    one_sided = {"directions": ("query_to_product",)}
    found = empty("in_batch", ["a", "b"], ["sofa", "sofa"], None, batch=2, **one_sided)
    assert found == (1, "all pairs have the same product", True)
    queries, products = ["a", "a", "b", "b"], ["sofa", "lamp", "sofa", "lamp"]
    found = empty("in_batch", queries, products, None, batch=4)
    assert found == (1, "every product is a known positive of every query", True)


def test_a_short_last_batch_is_named_only_if_no_full_batch_is_empty(empty):
    queries, products = ["sofa", "lamp", "bed"], ["red sofa", "red lamp", "red bed"]
    assert empty("in_batch", queries, products, None, batch=2) == (
        2,
        "a single pair has no other product",
        False,
    )
    both = (["sofa", "sofa", *queries], ["new sofa", "old sofa", *products])
    assert empty("in_batch", *both, None, batch=2)[0] == 1


def test_hard_negatives_and_pairs_judged_wrong_are_negatives_of_a_batch_of_one_query(empty):
    queries, products = ["sofa", "sofa"], ["red sofa", "blue sofa"]
    assert empty("in_batch", queries, products, [1.0, 0.0], batch=2) is None
    assert empty("in_batch", queries, products, None, batch=2, negatives=[["nails"], []]) is None
    # A batch without a positive has nothing to contrast, and is not counted.
    assert empty("in_batch", queries, products, [0.0, 0.0], batch=2) is None


def test_losses_that_do_not_contrast_have_no_empty_batch(empty):
    assert empty("cosent", QUERIES, PRODUCTS, RELEVANCE, batch=1) is None


def test_a_registered_loss_that_takes_anchors_is_checked_without_saying_how(share, empty):
    def contrast(query_embeddings, product_embeddings, anchors):
        pytest.fail("the check of batches computes no loss")

    loss = Loss("contrast", contrast, help="", source="", inputs=("anchors",), over_batch=True)
    register(loss)
    try:
        assert share("contrast", ["sofa"], ["red sofa"], None, batch=1) == 0
        assert empty("contrast", ["sofa"] * 2, ["red sofa", "new sofa"], None, batch=2)[0] == 1
        assert share("contrast", ["sofa", "lamp"], ["red sofa", "red lamp"], None, batch=2) == 1
    finally:
        unregister("contrast")


def test_a_batch_without_hard_negatives_is_empty_for_a_loss_over_triples(empty):
    register(TRIPLET)
    try:
        queries, products = ["sofa", "lamp", "bed", "rug"], ["red sofa", "red lamp", "red bed", "red rug"]
        negatives = [["nails"], [], [], []]
        found = empty(TRIPLET.name, queries, products, None, batch=2, negatives=negatives)
        assert found == (2, "no positive has a hard negative", True)
    finally:
        unregister(TRIPLET.name)
